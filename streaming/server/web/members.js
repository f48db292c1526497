// The runs of a job: where each belongs in it, what they took together. Everything here is pure.

const PLACE_TAGS = ["array_task", "het_group", "step", "rank"];
const TITLES = { array_task: "task", het_group: "component", step: "step", rank: "rank" };

const tagOf = (run, name) => run.tags.find(([key]) => key === name)?.[1] ?? "";
export const nodeOf = (run) => tagOf(run, "host") || run.host || "unknown";
export const endOf = (run) => run.endedAt ?? run.lastRowAt ?? run.startedAt;

/** "step 0, rank 3"; the run's own name where its tags tell nothing. */
export function placeOf(run) {
  const parts = PLACE_TAGS.filter((name) => tagOf(run, name) !== "").map((name) => `${TITLES[name]} ${tagOf(run, name)}`);
  return parts.join(", ") || run.name;
}

export function attemptText(run) {
  const attempt = tagOf(run, "attempt");
  return attempt && attempt !== "0" ? `attempt ${attempt}` : "";
}

/** [{name, runs}]: the attempts at one place, one after the other; places in the order of their numbers. */
export function placesOf(runs) {
  const places = new Map();
  for (const run of runs) {
    const name = placeOf(run);
    if (!places.has(name)) places.set(name, { name, runs: [], key: PLACE_TAGS.map((tag) => tagOf(run, tag)) });
    places.get(name).runs.push(run);
  }
  const collator = new Intl.Collator("en", { numeric: true });
  const sorted = [...places.values()].sort((a, b) => {
    const differs = a.key.findIndex((text, n) => text !== b.key[n]);
    return differs < 0 ? collator.compare(a.name, b.name) : collator.compare(a.key[differs], b.key[differs]);
  });
  for (const place of sorted) place.runs.sort((a, b) => a.startedAt - b.startedAt);
  return sorted;
}

/** What all runs of a node took together, over the same stretches of time. */
export function nodesOf(runs, [from, to], points = 120) {
  const nodes = new Map();
  for (const run of runs) {
    const name = nodeOf(run);
    if (!nodes.has(name)) nodes.set(name, { name, runs: 0, cpu: new Array(points).fill(null), memory: new Array(points).fill(null) });
    const node = nodes.get(name);
    node.runs += 1;
    for (const measure of ["cpu", "memory"]) addTo(node[measure], run, run[measure], from, to);
  }
  const collator = new Intl.Collator("en", { numeric: true });
  return [...nodes.values()].sort((a, b) => collator.compare(a.name, b.name));
}

function addTo(sums, run, curve, from, to) {
  const step = (to - from) / sums.length;
  for (let n = 0; n < sums.length; n++) {
    const value = valueAt(run, curve, from + (n + 0.5) * step);
    if (value !== null) sums[n] = (sums[n] ?? 0) + value;
  }
}

/** A run's curve at a time; null where it has no rows. */
export function valueAt(run, curve, time) {
  const end = run.lastRowAt ?? endOf(run);
  if (curve.length === 0 || time < run.startedAt || time > end) return null;
  const share = end > run.startedAt ? (time - run.startedAt) / (end - run.startedAt) : 0;
  return curve[Math.min(curve.length - 1, Math.floor(share * curve.length))];
}

export const peakOf = (values) => values.reduce((top, value) => (value !== null && value > top ? value : top), 0);
export function meanOf(values) {
  const known = values.filter((value) => value !== null);
  return known.length ? known.reduce((sum, value) => sum + value, 0) / known.length : null;
}
