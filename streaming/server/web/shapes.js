// What the service says of runs and objects, as the pages use it.
import { parseTime } from "./format.js";

const NAME_TAG = "run"; // what the command calls the run, on the machine that recorded it

export function runOf(given) {
  const tags = tagsOf(given.tags);
  return {
    id: given.run_id, name: tags.find(([key]) => key === NAME_TAG)?.[1] ?? given.run_id.slice(0, 8), state: given.state, job: given.title ?? given.job_name ?? null, title: given.title ?? "", project: given.project_name ?? null,
    tags: tags.filter(([key]) => key !== NAME_TAG), host: given.host ?? null,
    startedAt: parseTime(given.started_at), endedAt: parseTime(given.ended_at),
    durationS: given.ended_at ? given.duration_s : null, exitCode: given.exit_code ?? null,
    rows: given.row_count ?? null, lastRowAt: parseTime(given.last_row_at),
    averageCpu: given.average_cpu ?? null, peakMemory: given.peak_memory_mib ?? null, cpu: given.curves?.cpu ?? [], memory: given.curves?.memory ?? [],
    jobId: given.job_id ?? null, runCount: given.run_count ?? 1, states: given.states ?? null,
  };
}

/** [["Used", "1.8 of 8 CPUs, ..."], ["Next time", "ask for ..."]]; none where no limit is known. */
export const needOf = (given) => Object.entries(given ?? {}).map(([name, text]) => [name[0].toUpperCase() + name.slice(1), text]);

export function detailsOf(given) {
  const { first_timestamp: first, last_timestamp: last } = given.statistics;
  return {
    notes: given.notes ?? "", need: needOf(given.need), metadata: given.metadata, source: given.data_source, figures: given.statistics,
    extent: first !== null && last > first ? [first, last] : null,
    gaps: given.gaps.map(([from, to]) => ({ from, to })),
    objectCount: given.object_count ?? 0, bytes: given.size_bytes,
    missing: given.missing_count, unreadable: given.unreadable_count,
  };
}

export function objectOf(given) {
  const problem = given.missing ? "missing in S3" : (given.error ?? (given.digest_matches === false ? "checksum differs" : null));
  return {
    seq: given.seq, name: given.key.split("/").at(-1), size: given.size_bytes, rows: given.row_count,
    checksum: given.sha256 || null, isVerified: given.digest_matches === true, problem,
  };
}

/** Pairs of name and value, of a dict or of a list of texts. */
export function tagsOf(tags) {
  if (!tags) return [];
  if (Array.isArray(tags)) return tags.flatMap((tag) => (typeof tag === "object" && tag !== null ? tagsOf(tag) : [[String(tag), ""]]));
  return Object.entries(tags).map(([key, value]) => [key, value === null ? "" : String(value)]);
}
