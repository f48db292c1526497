// The list of runs: filter, sort, pages; kept up to date without a flicker, because only what differs is changed.
import { api, jobPath, LoggedOut, showAccount } from "./api.js";
import { choiceOf, offerComparison } from "./choice.js";
import { byId, element, setChildren, setText, time } from "./dom.js";
import { ago, cores, count, dayTime, duration, iso, mebibytes, number } from "./format.js";
import { sparkline } from "./sparkline.js";
import { durationOf, stateText, worstState } from "./states.js";

const REFRESH_MS = 2500;
const TYPING_MS = 200;
const PAGE_SIZE = 50;
const COLUMNS = [
  { id: "job", label: "Job" },
  { id: "state", label: "State" },
  { id: "project", label: "Project" },
  { id: "tags", label: "Tags", fixed: true },
  { id: "host", label: "Host" },
  { id: "started", label: "Started", right: true },
  { id: "duration", label: "Duration", right: true },
  { id: "exit_code", label: "Exit", right: true },
  { id: "cpu", label: "CPU", right: true },
  { id: "memory", label: "Peak memory", right: true },
  { id: "rows", label: "Rows", right: true },
  { id: "last_row", label: "Last row", right: true },
];
const NEWEST_FIRST = new Set(["started", "duration", "rows", "last_row", "cpu", "memory"]);
const DEFAULTS = { sort: "-started", fold: "jobs" };

const view = readView();
const rows = new Map(); // id -> {node, cells, run}
const known = new Map(); // id -> state, to tell what changed

function readView() {
  const given = new URLSearchParams(location.search);
  return {
    q: given.get("q") ?? "", state: given.get("state") ?? "",
    fold: given.get("fold") ?? "jobs", sort: given.get("sort") ?? "-started", offset: Number(given.get("offset")) || 0,
  };
}

function writeView() {
  const kept = Object.entries(view).filter(([key, value]) => value && value !== DEFAULTS[key]);
  const query = new URLSearchParams(kept).toString();
  history.replaceState(null, "", query ? `?${query}` : location.pathname);
}

function changeView(change) {
  Object.assign(view, { offset: 0 }, change);
  writeView();
  showSort();
  refresh();
}

// -- the frame around the rows --

function buildFrame() {
  byId("columns").replaceChildren(...COLUMNS.map(heading));
  const search = byId("search");
  const state = byId("state-filter");
  const fold = byId("fold");
  fold.checked = view.fold === "jobs";
  fold.addEventListener("change", () => changeView({ fold: fold.checked ? "jobs" : "no" }));
  search.value = view.q;
  state.value = view.state;
  let timer = 0;
  search.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => changeView({ q: search.value.trim() }), TYPING_MS);
  });
  state.addEventListener("change", () => changeView({ state: state.value }));
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("earlier").addEventListener("click", () => changeView({ offset: Math.max(0, view.offset - PAGE_SIZE) }));
  byId("later").addEventListener("click", () => changeView({ offset: view.offset + PAGE_SIZE }));
  document.addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.target.matches("input, select")) return;
    event.preventDefault();
    search.focus();
  });
}

function heading({ id, label, right, fixed }) {
  const button = element("button", { type: "button" }, [label]);
  button.addEventListener("click", () => changeView({ sort: nextSort(id) }));
  return element("th", { scope: "col", role: "columnheader", "data-column": id, class: right ? "right" : null }, [fixed ? label : button]);
}

function nextSort(id) {
  if (view.sort === id) return `-${id}`;
  if (view.sort === `-${id}`) return id;
  return NEWEST_FIRST.has(id) ? `-${id}` : id;
}

function showSort() {
  const column = view.sort.replace(/^-/, "");
  for (const node of byId("columns").children) {
    const isSorted = node.dataset.column === column;
    if (isSorted) node.setAttribute("aria-sort", view.sort.startsWith("-") ? "descending" : "ascending");
    else node.removeAttribute("aria-sort");
  }
}

// -- the rows --

function newRow(id) {
  const cells = Object.fromEntries(COLUMNS.map((column) => [column.id, cell(column)]));
  const link = element("a");
  const name = element("span", { class: "sub mono" });
  const choice = choiceOf(id, id);
  cells.job.append(choice, link, name);
  const state = element("span");
  cells.state.append(state);
  return { node: element("tr", { role: "row" }, COLUMNS.map((column) => cells[column.id])), cells, choice, link, name, state };
}

function cell({ id, label, right }) {
  if (id === "job") return element("th", { scope: "row", role: "rowheader", class: "job" });
  const name = id === "state" ? "status" : right ? "right" : null;
  return element("td", { role: "cell", class: name, "data-label": id === "state" ? null : label });
}

function fillRow(row, run, now) {
  row.run = run;
  const { cells } = row;
  setText(row.link, run.job ?? "unnamed");
  row.choice.hidden = run.runCount > 1;
  row.choice.setAttribute("aria-label", `Compare ${run.job ?? "unnamed"} ${run.name}`);
  row.link.href = run.runCount > 1 ? jobPath(run.jobId) : `/run/${encodeURIComponent(run.id)}`;
  setChildren(row.name, run.runCount > 1 ? [`job ${run.jobId}, ${count(run.runCount)} runs`] : nameOf(run));
  showState(row.state, run, now);
  setText(cells.project, run.project ?? "");
  setChildren(cells.tags, run.tags.length ? [element("span", { class: "tags" }, run.tags.map(tag))] : []);
  setText(cells.host, run.runCount > 1 ? "" : (run.host ?? ""));
  setChildren(cells.started, [time(run.startedAt, dayTime(run.startedAt, now), iso(run.startedAt))]);
  setText(cells.exit_code, run.exitCode === null ? "" : String(run.exitCode));
  setChildren(cells.cpu, run.averageCpu === null ? [] : [sparkline(run.cpu), element("span", { title: cores(run.averageCpu) }, [number(run.averageCpu)])]);
  setText(cells.memory, run.peakMemory === null ? "" : mebibytes(run.peakMemory));
  setText(cells.rows, run.rows === null ? "" : count(run.rows));
  tick(row, now);
  for (const name of ["project", "tags", "host", "exit_code", "cpu", "memory", "rows", "last_row"]) {
    cells[name].classList.toggle("none", cells[name].textContent === "");
  }
}

/** The run's name; of one of a job's, with the way to the job. */
function nameOf(run) {
  return run.jobId === null ? [run.name] : [run.name, ", ", element("a", { href: jobPath(run.jobId) }, [`job ${run.jobId}`])];
}

function tag([key, value]) {
  return element("span", { class: "tag" }, [key, value === "" ? "" : "=", element("b", {}, [value])]);
}

function showState(node, run, now) {
  setText(node, stateText(run, now));
  const name = `state ${worstState(run)}`;
  if (node.className !== name) node.className = name;
}

/** What the passing time alone changes. */
function tick(row, now) {
  const { run, cells } = row;
  setText(cells.duration, duration(durationOf(run, now)));
  setText(cells.last_row, run.lastRowAt === null ? "" : ago(now - run.lastRowAt));
  showState(row.state, run, now);
}

function show({ runs, total, now }) {
  const body = byId("rows");
  const wanted = runs.map((run) => {
    if (!rows.has(run.id)) rows.set(run.id, newRow(run.id));
    const row = rows.get(run.id);
    fillRow(row, run, now);
    return row.node;
  });
  wanted.forEach((node, n) => {
    if (body.children[n] !== node) body.insertBefore(node, body.children[n] ?? null);
  });
  while (body.children.length > wanted.length) body.lastChild.remove();
  for (const id of rows.keys()) if (!runs.some((run) => run.id === id)) rows.delete(id);
  showCounts(runs, total);
  tellChanges(runs);
}

function showCounts(runs, total) {
  const first = total === 0 ? 0 : view.offset + 1;
  const what = runs.some((run) => run.runCount > 1) ? "line" : "run";
  setText(byId("count"), total === 1 ? `1 ${what}` : `${count(total)} ${what}s`);
  byId("pager").hidden = total <= PAGE_SIZE && view.offset === 0;
  byId("earlier").disabled = view.offset === 0;
  byId("later").disabled = view.offset + runs.length >= total;
  setText(byId("page-text"), `${count(first)} to ${count(view.offset + runs.length)} of ${count(total)}`);
  byId("runs").hidden = total === 0;
  byId("empty").hidden = total !== 0;
  if (total !== 0) return;
  if (view.q || view.state) setText(byId("empty"), "No run fits.");
  else setChildren(byId("empty"), ["No run yet. In a shell: ", element("code", {}, ['eval "$(tracker-stream server env)"; tracker-stream run -- python train.py'])]);
}

/** For the ear: runs that appeared or changed their state since the last look. */
function tellChanges(runs) {
  const told = [];
  for (const run of runs) {
    const before = known.get(run.id);
    if (known.size > 0 && before !== run.state) told.push(`${run.job ?? "A run"}: ${run.state}`);
  }
  known.clear();
  runs.forEach((run) => known.set(run.id, run.state));
  if (told.length > 0) setText(byId("changes"), told.slice(0, 3).join(". "));
}

// -- the loop --

let timer = 0;
let turn = 0;
let clockOffset = 0;

async function refresh() {
  clearTimeout(timer);
  const mine = ++turn;
  try {
    const answer = await api.runs({ ...view, limit: PAGE_SIZE });
    if (mine !== turn) return; // another filter was chosen meanwhile
    clockOffset = answer.now - Date.now() / 1000;
    show(answer);
    byId("problem").hidden = true;
  } catch (error) {
    if (error instanceof LoggedOut) return;
    setText(byId("problem"), `${error.message} Trying again.`);
    byId("problem").hidden = false;
  }
  if (mine === turn) timer = setTimeout(refresh, REFRESH_MS);
}

function start() {
  buildFrame();
  showSort();
  showAccount();
  offerComparison(byId("rows"), byId("compare"));
  document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(timer) : refresh()));
  setInterval(() => rows.forEach((row) => tick(row, Date.now() / 1000 + clockOffset)), 1000);
  refresh();
}

start();
