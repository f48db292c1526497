// A series as the charts need it: per second where a column counts per sample, gaps where rows are missing, and figures.

const GAP_FACTOR = 5; // so many usual steps without a row are a gap in the line
const HOLD = 3; // so many usual steps a value holds where the next one is missing
/** Where a run's own use stands: the process's columns, or where nothing was recorded of one, the system's. */
export const OF_RUN = { cpu: ["process_cpu_usage", "system_cpu_usage"], memory: ["process_memory_mib", "system_memory_used_mib"] };

/** From the service's answer: {t, columns: {name: {min, max, mean}}, interval_s, row_count, reduced}. */
export function prepared(answer, pictures) {
  const step = stepOf(answer.t);
  const interval = answer.interval_s ?? step;
  const breaks = breaksOf(answer.t, step);
  const columns = {};
  for (const { column, rate } of pictures.flatMap((picture) => picture.lines)) {
    const values = answer.columns[column];
    if (!values) continue;
    const factor = rate && interval > 0 ? 1 / interval : 1;
    columns[column] = {};
    for (const kind of ["mean", "max", "min"]) {
      columns[column][kind] = withBreaks(scaled(values[kind], factor), breaks, null);
    }
  }
  const t = withBreaks(answer.t, breaks, (index) => (answer.t[index - 1] + answer.t[index]) / 2);
  return { t, columns, step, interval, rows: answer.row_count, reduced: answer.reduced, from: answer.from, to: answer.to };
}

function scaled(values, factor) {
  return factor === 1 ? values : values.map((value) => (value === null ? null : value * factor));
}

/** The median distance of two points. */
function stepOf(times) {
  if (times.length < 2) return 0;
  const steps = times.slice(1).map((time, n) => time - times[n]).sort((a, b) => a - b);
  return steps[steps.length >> 1];
}

function breaksOf(times, step) {
  const found = [];
  if (step > 0) for (let n = 1; n < times.length; n++) if (times[n] - times[n - 1] > GAP_FACTOR * step) found.push(n);
  return found;
}

/** An additional value at each break: null, or what `fill` says. */
function withBreaks(values, breaks, fill) {
  if (breaks.length === 0) return values;
  const parts = [];
  let from = 0;
  for (const at of breaks) {
    parts.push(...values.slice(from, at), fill ? fill(at) : null);
    from = at;
  }
  parts.push(...values.slice(from));
  return parts;
}

/** Average and peak of every column of a series. */
export function figuresOf(series) {
  const figures = {};
  for (const [column, { mean, max }] of Object.entries(series.columns)) {
    const known = mean.filter((value) => value !== null);
    const peak = max.reduce((top, value) => (value !== null && (top === null || value > top) ? value : top), null);
    const average = known.length ? known.reduce((sum, value) => sum + value, 0) / known.length : null;
    figures[column] = { average, peak };
  }
  return figures;
}

/** The first of these columns that has a value at all. */
export const firstKnown = (columns, names) => names.map((name) => columns[name]).find((each) => each?.mean.some((value) => value !== null));

/** For each wanted time (ascending, `step` apart) the index of the nearest one; null where rows are missing. */
export function placesIn(times, wanted, step) {
  const usual = times.length > 1 ? (times.at(-1) - times[0]) / (times.length - 1) : step;
  const longest = HOLD * Math.max(usual, step);
  let at = 0;
  return wanted.map((time) => {
    while (at < times.length - 1 && Math.abs(times[at + 1] - time) <= Math.abs(times[at] - time)) at += 1;
    return times.length > 0 && Math.abs(times[at] - time) <= longest ? at : null;
  });
}

/** The index of the time nearest to `time`. */
export function nearest(times, time) {
  let [low, high] = [0, times.length - 1];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (times[middle] < time) low = middle;
    else high = middle;
  }
  return time - times[low] < times[high] - time ? low : high;
}
