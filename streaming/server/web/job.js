// A job's page: its runs as one.
import { api, LoggedOut, showAccount } from "./api.js";
import { Charts } from "./charts.js";
import { choiceOf, offerComparison } from "./choice.js";
import { byId, element, setChildren, setText, time } from "./dom.js";
import { cores, count, dayTime, duration, iso, mebibytes, NONE, number } from "./format.js";
import { Heat } from "./heat.js";
import { attemptText, endOf, limitOf, meanOf, MEASURES, nodeOf, nodesOf, peakOf, placeOf, placesOf, seriesOf } from "./members.js";
import { firstKnown, OF_RUN, placesIn } from "./series.js";
import { sparkline } from "./sparkline.js";
import { stateText, worstState } from "./states.js";

const REFRESH_MS = 5000;
const FIRST_ROWS = 100;
const FINE_POINTS = 120;
const MOST_FINE = 256; // runs of which a zoom asks for rows: of more, what is known of their whole time is drawn larger
const AT_A_TIME = 4;
const id = new URLSearchParams(location.search).get("id") ?? "";
const view = { runs: [], places: [], range: null, extent: null, turn: 0 };
let pictures = null;
let isWhole = false;

async function refresh() {
  try {
    const job = await api.job(id);
    byId("problem").hidden = true;
    show(job);
    if (job.runs.some((run) => run.endedAt === null)) setTimeout(refresh, REFRESH_MS);
  } catch (error) {
    if (error instanceof LoggedOut) return;
    setText(byId("problem"), `${error.message} ${error.isFinal ? "" : "Trying again."}`);
    byId("problem").hidden = false;
    setText(byId("job"), `Job ${id}`);
    if (!error.isFinal) setTimeout(refresh, REFRESH_MS);
  }
}

function show({ runs, isCut, need, now }) {
  const from = Math.min(...runs.map((run) => run.startedAt));
  const to = Math.max(from + 1, ...runs.map((run) => run.endedAt ?? now));
  const name = runs.find((run) => run.job)?.job ?? "Job";
  const states = {};
  for (const run of runs) states[run.state] = (states[run.state] ?? 0) + 1;
  document.title = `${name} ${id} · tracker-stream`;
  setText(byId("job"), name);
  setText(byId("state"), stateText({ ...runs[0], states }, now));
  byId("state").className = `state ${worstState({ states })}`;
  const nodes = nodesOf(runs, [from, to]);
  showFacts(runs, nodes, need, [from, to]);
  byId("cut").hidden = !isCut;
  setText(byId("cut"), `The first ${count(runs.length)} runs of the job are shown.`);
  Object.assign(view, { runs, places: placesOf(runs), extent: [from, to] });
  changeRange(view.range);
  setChildren(byId("nodes"), nodes.map(nodeRow));
  showRuns(runs, now);
  document.body.dataset.ready = "true";
}

function showFacts(runs, nodes, need, [from, to]) {
  const codes = [...new Set(runs.map((run) => run.exitCode).filter((code) => code !== null))].sort((a, b) => (a === 0) - (b === 0) || a - b);
  const cpu = runs.reduce((sum, run) => sum + (run.averageCpu ?? 0) * Math.max(0, endOf(run) - run.startedAt), 0) / (to - from);
  const facts = [
    ["Job id", id], ["Runs", count(runs.length)], ["Nodes", count(nodes.length)],
    ["Started", time(from, dayTime(from), iso(from))], ["Duration", duration(to - from)],
    ["Exit codes", codes.join(", ") || NONE], ["Average CPU", cores(cpu)],
    ...need,
  ];
  setChildren(byId("facts"), facts.map(([name, value]) => element("div", {}, [element("dt", {}, [name]), element("dd", {}, [value])])));
}

/** Two pictures of every run, and two charts of all of them, over the same range of time. */
function makePictures() {
  const chart = (what) => ({ lines: [{ column: what.id, label: "Average", tone: "process" }], ...what });
  const charts = new Charts({
    host: {},
    onRange: changeRange,
    pictures: [
      chart({ id: "cpu", title: "CPU of a run", unit: "cores", format: cores, axisFormat: number, limit: () => limitOf(view.runs, "limit_cpus"), limitName: "CPUs that a run was given" }),
      chart({ id: "memory", title: "Memory of a node", format: mebibytes, binary: true, limit: () => limitOf(view.runs, "limit_memory_mib"), limitName: "memory that the job was given on a node" }),
    ],
  });
  const events = {
    onSpeak: (text) => setText(byId("spoken"), text),
    onZoom: (from, to) => charts.zoom(from, to),
    onKey: (key, at) => charts.rangeKey(key, at),
  };
  const heats = [["CPU", "cpu", cores], ["Memory", "memory", mebibytes]].map(([title, measure, format]) => new Heat({ title, measure, format, ...events }));
  byId("heats").replaceChildren(...heats.map((heat) => heat.node));
  return { charts, heats };
}

/** At once with what is known of all runs' whole time; then, for a part of it, with their rows. */
async function changeRange(range) {
  view.range = range;
  const mine = ++view.turn;
  for (const run of view.runs) delete run.fine;
  draw();
  if (range === null || view.runs.length > MOST_FINE) return;
  const left = view.runs.filter((run) => run.startedAt <= range[1] && (run.lastRowAt ?? 0) >= range[0]);
  const refine = async () => {
    for (let run = left.pop(); run && mine === view.turn; run = left.pop()) {
      const fine = await fineOf(run, range);
      if (mine === view.turn) run.fine = fine;
    }
  };
  await Promise.all(Array.from({ length: AT_A_TIME }, refine)).catch(() => {}); // what is drawn already stays
  if (mine === view.turn) draw();
}

function draw() {
  pictures = pictures ?? makePictures();
  const shown = view.range ?? view.extent;
  pictures.charts.show(seriesOf(view.runs, shown), view.range, view.extent);
  for (const heat of pictures.heats) heat.show(view.places, shown);
}

async function fineOf(run, range) {
  const [from, to] = [Math.max(range[0], run.startedAt), Math.min(range[1], run.lastRowAt)];
  const answer = await api.series(run.id, { columns: MEASURES.flatMap((measure) => OF_RUN[measure]), from, to, points: FINE_POINTS });
  const step = (to - from) / FINE_POINTS;
  const places = placesIn(answer.t, Array.from({ length: FINE_POINTS }, (_, n) => from + (n + 0.5) * step), step);
  const valuesOf = (known) => places.map((at) => (at === null ? null : (known?.mean[at] ?? null)));
  return { from, to, ...Object.fromEntries(MEASURES.map((measure) => [measure, valuesOf(firstKnown(answer.columns, OF_RUN[measure]))])) };
}

function nodeRow({ name, runs, cpu, memory }) {
  return element("tr", {}, [
    element("th", { scope: "row" }, [name]),
    element("td", { class: "right" }, [count(runs)]),
    element("td", { class: "right" }, [sparkline(cpu), cores(meanOf(cpu))]),
    element("td", { class: "right" }, [cores(peakOf(cpu))]),
    element("td", { class: "right" }, [sparkline(memory), mebibytes(peakOf(memory))]),
  ]);
}

function showRuns(runs, now) {
  const ordered = placesOf(runs).flatMap((place) => place.runs);
  const shown = isWhole ? ordered : ordered.slice(0, FIRST_ROWS);
  const before = byId("runs").contains(document.activeElement) ? document.activeElement.value : null;
  setChildren(byId("runs"), shown.map((run) => runRow(run, now)));
  if (before) byId("runs").querySelector(`[value="${CSS.escape(before)}"]`)?.focus();
  byId("more").hidden = shown.length === ordered.length;
  byId("more").onclick = () => {
    isWhole = true;
    showRuns(runs, now);
  };
}

function runRow(run, now) {
  const name = [placeOf(run), attemptText(run)].filter(Boolean).join(", ");
  return element("tr", {}, [
    element("td", {}, [choiceOf(run.id, name)]),
    element("th", { scope: "row" }, [element("a", { href: `/run/${encodeURIComponent(run.id)}` }, [name])]),
    element("td", {}, [element("span", { class: `state ${run.state}` }, [stateText(run, now)])]),
    element("td", {}, [nodeOf(run)]),
    element("td", { class: "right" }, [time(run.startedAt, dayTime(run.startedAt, now), iso(run.startedAt))]),
    element("td", { class: "right" }, [duration(endOf(run) - run.startedAt)]),
    element("td", { class: "right" }, [run.exitCode === null ? "" : String(run.exitCode)]),
    element("td", { class: "right" }, run.averageCpu === null ? [] : [sparkline(run.cpu), number(run.averageCpu)]),
    element("td", { class: "right" }, [run.peakMemory === null ? "" : mebibytes(run.peakMemory)]),
  ]);
}

showAccount();
offerComparison(byId("runs"), byId("compare"));
refresh();
