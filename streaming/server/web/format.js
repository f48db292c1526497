// Numbers, units and times as people read them. Everything here is pure.

const NBSP = "\u202f"; // narrow, and no line break between a number and its unit
export const NONE = "–";

const numbers = new Map();

/** `value` with three significant digits, or more before the point: 0.123, 1.23, 12.3, 1,234. */
export function number(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return NONE;
  const size = Math.abs(value);
  const digits = size === 0 || size >= 100 ? 0 : size >= 10 ? 1 : size >= 0.1 ? 2 : 3;
  if (!numbers.has(digits)) numbers.set(digits, new Intl.NumberFormat("en", { maximumFractionDigits: digits }));
  return numbers.get(digits).format(value);
}

/** A whole number with its thousands set apart. */
export function count(value) {
  return value === null || value === undefined ? NONE : Math.round(value).toLocaleString("en");
}

function scaled(value, base, units) {
  if (value === null || value === undefined || !Number.isFinite(value)) return NONE;
  let step = 0;
  while (Math.abs(value) >= base * 0.9995 && step < units.length - 1) {
    value /= base;
    step += 1;
  }
  return number(value) + NBSP + units[step];
}

/** Bytes, in powers of 1000 (files, disks, networks). */
export const bytes = (value) => scaled(value, 1000, ["B", "kB", "MB", "GB", "TB", "PB"]);
export const byteRate = (value) => scaled(value, 1000, ["B/s", "kB/s", "MB/s", "GB/s", "TB/s"]);
/** MiB, in powers of 1024 (memory). */
export const mebibytes = (value) => scaled(value, 1024, ["MiB", "GiB", "TiB", "PiB"]);
export const cores = (value) => (value === null ? NONE : number(value) + NBSP + (value === 1 ? "core" : "cores"));
export const gpus = (value) => (value === null ? NONE : number(value) + NBSP + (value === 1 ? "GPU" : "GPUs"));

/** Seconds in at most two units: 0.4 s, 12 s, 3 min 5 s, 2 h 10 min, 4 d 3 h. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return NONE;
  const s = Math.max(0, seconds);
  if (s < 9.95) return (s === Math.round(s) ? s : s.toFixed(1)) + NBSP + "s";
  const whole = Math.round(s);
  const units = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const first = units.findIndex(([size]) => whole >= size);
  const parts = [];
  let rest = whole;
  for (const [size, name] of units.slice(first, first + 2)) {
    const n = Math.floor(rest / size);
    rest -= n * size;
    if (n > 0 || parts.length === 0) parts.push(n + NBSP + name);
  }
  return parts.join(" ");
}

/** How long before `now`: "just now", "12 s ago". */
export function ago(seconds) {
  if (seconds === null || !Number.isFinite(seconds)) return NONE;
  return seconds < 2 ? "just now" : duration(seconds < 60 ? Math.round(seconds) : seconds) + " ago";
}

const pad = (value, width = 2) => String(value).padStart(width, "0");
const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/** Local time of day, with tenths where a range is short. */
export function clock(seconds, spanS = Infinity) {
  const at = new Date(seconds * 1000);
  const text = `${pad(at.getHours())}:${pad(at.getMinutes())}:${pad(at.getSeconds())}`;
  return spanS < 30 ? `${text}.${Math.floor(at.getMilliseconds() / 100)}` : text;
}

/** Local day and time: 24 Nov 04:27 (the year where it is not this one). */
export function dayTime(seconds, now = Date.now() / 1000) {
  if (seconds === null || seconds === undefined) return NONE;
  const at = new Date(seconds * 1000);
  const year = at.getFullYear() === new Date(now * 1000).getFullYear() ? "" : ` ${at.getFullYear()}`;
  return `${at.getDate()} ${MONTHS[at.getMonth()]}${year} ${pad(at.getHours())}:${pad(at.getMinutes())}`;
}

export const iso = (seconds) => new Date(seconds * 1000).toISOString().replace(".000Z", "Z");

/** Seconds since the epoch of an ISO text, null of none. */
export function parseTime(text) {
  if (text === null || text === undefined) return null;
  if (typeof text === "number") return text;
  const ms = Date.parse(text);
  return Number.isNaN(ms) ? null : ms / 1000;
}
