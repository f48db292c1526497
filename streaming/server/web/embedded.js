// A source of rows that lie in the page itself; answers as the service does.
import { detailsOf, objectOf, runOf } from "./shapes.js";

const KINDS = ["mean", "max", "min"];

/** `payload`: {run, objects, columns, kinds, count, interval_s, numbers: base64 of gzip of float64 times, then float32 values}. */
export async function embeddedSource(payload) {
  const bytes = await unpacked(payload.numbers);
  const { count, columns, kinds } = payload;
  const t = new Float64Array(bytes, 0, count);
  const values = new Map();
  columns.forEach((column, n) => {
    const part = (kind) => new Float32Array(bytes, 8 * count + 4 * count * (n * kinds.length + kinds.indexOf(kind)), count);
    values.set(column, Object.fromEntries(KINDS.map((kind) => [kind, part(kinds.includes(kind) ? kind : "mean")])));
  });
  const isReduced = kinds.length > 1;
  return {
    live: false,
    run: async () => ({ ...runOf(payload.run), ...detailsOf(payload.run), csvUrl: null, now: payload.now }),
    objects: async () => ({ objects: payload.objects.map(objectOf), total: payload.objects.length }),
    series: async (wanted) => ({ ...seriesOf(t, values, wanted), ...(isReduced ? { reduced: true } : {}), interval_s: payload.interval_s }),
  };
}

async function unpacked(base64) {
  const packed = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  return new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}

function seriesOf(t, values, { columns, from, to, points }) {
  const first = from === null ? 0 : firstFrom(t, from);
  const last = to === null ? t.length : firstFrom(t, to + 1e-6);
  const starts = startsOf(t, first, last, points);
  const found = columns.filter((column) => values.has(column));
  const ends = [...starts.slice(1), last];
  return {
    row_count: last - first,
    reduced: starts.length < last - first,
    from: last > first ? t[first] : null,
    to: last > first ? t[last - 1] : null,
    t: starts.map((start, n) => (t[start] + t[ends[n] - 1]) / 2),
    columns: Object.fromEntries(found.map((column) => [column, reduced(values.get(column), starts, ends)])),
  };
}

/** The first index whose time is not before `time`. */
function firstFrom(t, time) {
  let [low, high] = [0, t.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (t[middle] < time) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** Where each stretch of time with a row in it begins: every row, or at most `points` stretches of equal length. */
function startsOf(t, first, last, points) {
  const count = last - first;
  if (count <= points) return Array.from({ length: count }, (_, n) => first + n);
  const length = (t[last - 1] - t[first]) / points;
  const starts = [];
  let stretch = -1;
  for (let n = first; n < last; n++) {
    const here = Math.min(points - 1, Math.floor((t[n] - t[first]) / length));
    if (here > stretch) starts.push(n);
    stretch = here;
  }
  return starts;
}

function reduced({ mean, max, min }, starts, ends) {
  const over = (array, combine) => starts.map((start, n) => combine(array, start, ends[n]));
  return { mean: over(mean, average), max: over(max, highest), min: over(min, lowest) };
}

// A missing value is NaN in the arrays and null in the answer.

function average(array, start, end) {
  let [sum, count] = [0, 0];
  for (let n = start; n < end; n++) {
    if (array[n] === array[n]) {
      sum += array[n];
      count += 1;
    }
  }
  return count ? sum / count : null;
}

function highest(array, start, end) {
  let top = null;
  for (let n = start; n < end; n++) if (array[n] === array[n] && (top === null || array[n] > top)) top = array[n];
  return top;
}

function lowest(array, start, end) {
  let bottom = null;
  for (let n = start; n < end; n++) if (array[n] === array[n] && (bottom === null || array[n] < bottom)) bottom = array[n];
  return bottom;
}
