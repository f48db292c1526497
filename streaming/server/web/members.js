// The runs of a job: where each belongs in it, what they took together. Everything here is pure.

export const MEASURES = ["cpu", "memory"];
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
    for (const measure of MEASURES) addTo(node[measure], run, measure, from, to);
  }
  const collator = new Intl.Collator("en", { numeric: true });
  return [...nodes.values()].sort((a, b) => collator.compare(a.name, b.name));
}

function addTo(sums, run, measure, from, to) {
  valuesAt(run, measure, [from, to], sums.length).forEach((value, n) => {
    if (value !== null) sums[n] = (sums[n] ?? 0) + value;
  });
}

/** A run's averages over equal stretches of the time that is shown, where they are known; else of its whole time. */
export function curveOf(run, measure) {
  return run.fine ? { from: run.fine.from, to: run.fine.to, values: run.fine[measure] } : { from: run.startedAt, to: run.lastRowAt ?? endOf(run), values: run[measure] };
}

/** A run's curve at a time; null where it has no rows. */
export const valueAt = (run, measure, time) => valueIn(curveOf(run, measure), time);

function valueIn({ from, to, values }, time) {
  if (values.length === 0 || time < from || time > to) return null;
  const share = to > from ? (time - from) / (to - from) : 0;
  return values[Math.min(values.length - 1, Math.floor(share * values.length))];
}

/** A run's curve in the middle of each of so many stretches of a range. */
function valuesAt(run, measure, [from, to], points) {
  const curve = curveOf(run, measure);
  const step = (to - from) / points;
  return Array.from({ length: points }, (_, n) => valueIn(curve, from + (n + 0.5) * step));
}

/** As the charts take it: CPU of a run and memory of a node, average in a band from the least to the most. */
export function seriesOf(runs, range, points = 240) {
  const step = (range[1] - range[0]) / points;
  const cpu = bandOf(points);
  for (const run of runs) cpu.add(valuesAt(run, "cpu", range, points));
  const memory = bandOf(points);
  for (const node of nodesOf(runs, range, points)) memory.add(node.memory);
  return { t: Array.from({ length: points }, (_, n) => range[0] + (n + 0.5) * step), columns: { cpu: cpu.band(), memory: memory.band() }, step, reduced: true };
}

function bandOf(points) {
  const [sums, counts, min, max] = [0, 0, null, null].map((value) => new Array(points).fill(value));
  return {
    add(values) {
      values.forEach((value, n) => {
        if (value === null) return;
        sums[n] += value;
        counts[n] += 1;
        if (min[n] === null || value < min[n]) min[n] = value;
        if (max[n] === null || value > max[n]) max[n] = value;
      });
    },
    band: () => ({ mean: sums.map((sum, n) => (counts[n] ? sum / counts[n] : null)), min, max }),
  };
}

/** The largest limit that any of the runs was given; null where none is known. */
export const limitOf = (runs, name) => peakOf(runs.map((run) => Number(tagOf(run, name)) || null)) || null;

export const peakOf = (values) => values.reduce((top, value) => (value !== null && value > top ? value : top), 0);
export function meanOf(values) {
  const known = values.filter((value) => value !== null);
  return known.length ? known.reduce((sum, value) => sum + value, 0) / known.length : null;
}
