// A job's page: its runs as one.
import { api, LoggedOut, showAccount } from "./api.js";
import { choiceOf, offerComparison } from "./choice.js";
import { byId, element, setChildren, setText, time } from "./dom.js";
import { cores, count, dayTime, duration, iso, mebibytes, NONE, number } from "./format.js";
import { Heat } from "./heat.js";
import { attemptText, endOf, meanOf, nodeOf, nodesOf, peakOf, placeOf, placesOf } from "./members.js";
import { sparkline } from "./sparkline.js";
import { stateText, worstState } from "./states.js";

const REFRESH_MS = 5000;
const FIRST_ROWS = 100;
const id = new URLSearchParams(location.search).get("id") ?? "";
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

function show({ runs, isCut, now }) {
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
  showFacts(runs, nodes, from, to);
  byId("cut").hidden = !isCut;
  setText(byId("cut"), `The first ${count(runs.length)} runs of the job are shown.`);
  showHeat(placesOf(runs), [from, to]);
  setChildren(byId("nodes"), nodes.map(nodeRow));
  showRuns(runs, now);
  document.body.dataset.ready = "true";
}

function showFacts(runs, nodes, from, to) {
  const codes = [...new Set(runs.map((run) => run.exitCode).filter((code) => code !== null))].sort((a, b) => (a === 0) - (b === 0) || a - b);
  const cpu = runs.reduce((sum, run) => sum + (run.averageCpu ?? 0) * (endOf(run) - run.startedAt), 0) / (to - from);
  const facts = [
    ["Job id", id], ["Runs", count(runs.length)], ["Nodes", count(nodes.length)],
    ["Started", time(from, dayTime(from), iso(from))], ["Duration", duration(to - from)],
    ["Exit codes", codes.join(", ") || NONE], ["Average CPU", cores(cpu)],
  ];
  setChildren(byId("facts"), facts.map(([name, value]) => element("div", {}, [element("dt", {}, [name]), element("dd", {}, [value])])));
}

/** Drawn anew only when something came: whoever points at a row keeps it. */
function showHeat(places, extent) {
  const known = JSON.stringify([extent[1], places.map((place) => place.runs.map((run) => run.lastRowAt))]);
  if (byId("heats").dataset.known === known || byId("heats").contains(document.activeElement)) return;
  byId("heats").dataset.known = known;
  const onSpeak = (text) => setText(byId("spoken"), text);
  const heats = [["CPU", "cpu", cores], ["Memory", "memory", mebibytes]].map(([title, measure, format]) => new Heat({ title, measure, format, places, extent, onSpeak }));
  byId("heats").replaceChildren(...heats.map((heat) => heat.node));
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
