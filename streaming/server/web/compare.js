// Two to eight runs over one another, from their start or by the clock.
import { api, LoggedOut, showAccount } from "./api.js";
import { Charts } from "./charts.js";
import { byId, element, setChildren, setText, time } from "./dom.js";
import { clock, cores, dayTime, duration, iso, mebibytes, number } from "./format.js";
import { firstKnown, OF_RUN, placesIn } from "./series.js";
import { stateText } from "./states.js";

const MEASURES = [
  { id: "cpu", title: "CPU", unit: "cores", format: cores, axisFormat: number, columns: OF_RUN.cpu },
  { id: "memory", title: "Memory", format: mebibytes, binary: true, columns: OF_RUN.memory },
];
const POINTS = 600;
const MOST = 8;
const given = new URLSearchParams(location.search);
const view = { isByClock: given.get("by") === "clock", range: null, turn: 0 };
let runs = [];
let charts = null;

const toSpan = (text) => `+${duration(text)}`;
/** Seconds that a run's own times are shifted by, to begin at 0. */
const shiftOf = (run) => (view.isByClock ? 0 : run.startedAt);

async function start() {
  const ids = [...new Set((given.get("runs") ?? "").split(",").filter(Boolean))].slice(0, MOST);
  if (ids.length < 2) throw new Error("Choose two to eight runs, on the page of a job or in the list.");
  runs = await Promise.all(ids.map((id) => api.run(id)));
  showRuns();
  byId("from-start").addEventListener("click", () => change(false));
  byId("by-clock").addEventListener("click", () => change(true));
  await change(view.isByClock);
  document.body.dataset.ready = "true";
}

async function change(isByClock) {
  view.isByClock = isByClock;
  view.range = null;
  byId("from-start").setAttribute("aria-pressed", String(!isByClock));
  byId("by-clock").setAttribute("aria-pressed", String(isByClock));
  given.set("by", isByClock ? "clock" : "start");
  history.replaceState(null, "", `?${given}`);
  await load();
}

async function load() {
  const mine = ++view.turn;
  const columns = MEASURES.flatMap((measure) => measure.columns);
  const answers = await Promise.all(runs.map((run) => {
    const [from, to] = view.range ? view.range.map((at) => at + shiftOf(run)) : [null, null];
    return api.series(run.id, { columns, from, to, points: POINTS });
  }));
  if (mine !== view.turn) return;
  const lines = runs.map((run, n) => ({ times: answers[n].t.map((at) => at - shiftOf(run)), columns: answers[n].columns }));
  const known = lines.filter(({ times }) => times.length > 0);
  const extent = view.range ?? [Math.min(...known.map(({ times }) => times[0])), Math.max(...known.map(({ times }) => times.at(-1)))];
  if (known.length === 0) return;
  if (view.range === null) view.extent = extent[1] > extent[0] ? extent : [extent[0], extent[0] + 1];
  show(onOneAxis(lines, view.range ?? view.extent));
}

function show(series) {
  if (charts === null) {
    const pictures = MEASURES.map((measure) => ({ ...measure, limit: () => null, lines: runs.map((run, n) => ({ column: `${measure.id} ${n}`, label: labelOf(run), tone: `line-${n + 1}` })) }));
    charts = new Charts({ pictures, host: {}, onRange: zoom, timeText: (at, span) => (view.isByClock ? (span > 86400 ? dayTime(at) : clock(at, span)) : toSpan(at)) });
  }
  charts.show(series, view.range, view.extent);
}

function zoom(range) {
  view.range = range;
  guarded(load);
}

/** All runs at the same times: of each its value nearest to them. */
function onOneAxis(lines, [from, to]) {
  const step = (to - from) / (POINTS - 1);
  const t = Array.from({ length: POINTS }, (_, n) => from + n * step);
  const columns = {};
  lines.forEach(({ times, columns: values }, n) => {
    const places = placesIn(times, t, step);
    for (const { id, columns: names } of MEASURES) {
      const found = firstKnown(values, names);
      columns[`${id} ${n}`] = Object.fromEntries(["mean", "max", "min"].map((kind) => [kind, places.map((at) => (at === null ? null : (found?.[kind][at] ?? null)))]));
    }
  });
  return { t, columns, step, reduced: true };
}

const labelOf = (run) => `${run.job ?? "unnamed"} ${run.name}`;

function showRuns() {
  setChildren(byId("runs"), runs.map((run, n) => element("tr", {}, [
    element("th", { scope: "row" }, [element("span", { class: `swatch line-${n + 1}` }), " ", element("a", { href: `/run/${encodeURIComponent(run.id)}` }, [labelOf(run)])]),
    element("td", {}, [element("span", { class: `state ${run.state}` }, [stateText(run, run.now)])]),
    element("td", {}, [run.host ?? ""]),
    element("td", { class: "right" }, [time(run.startedAt, dayTime(run.startedAt, run.now), iso(run.startedAt))]),
    element("td", { class: "right" }, [duration((run.endedAt ?? run.lastRowAt ?? run.startedAt) - run.startedAt)]),
    element("td", { class: "right" }, [run.exitCode === null ? "" : String(run.exitCode)]),
    element("td", { class: "right" }, [run.averageCpu === null ? "" : cores(run.averageCpu)]),
    element("td", { class: "right" }, [run.peakMemory === null ? "" : mebibytes(run.peakMemory)]),
  ])));
}

async function guarded(action) {
  try {
    await action();
    byId("problem").hidden = true;
  } catch (error) {
    if (error instanceof LoggedOut) return;
    setText(byId("problem"), error.message);
    byId("problem").hidden = false;
  }
}

showAccount();
guarded(start);
