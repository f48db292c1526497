// The page of one run, for any source of rows: the service (live) or a file that holds them.
//
// A source has `run()`, `series({columns, from, to, points})`, `objects(offset)` and `live`.
import { Charts } from "./charts.js";
import { byId, setText } from "./dom.js";
import { COLUMNS, picturesFor } from "./measures.js";
import { showFacts, showMetadata, showState } from "./facts.js";
import { Objects } from "./objects.js";
import { figuresOf, prepared } from "./series.js";
import { showSummary } from "./summary.js";
import { showValues } from "./values.js";

const REFRESH_MS = 2000;
const LONGEST_REFRESH_S = 30;
const MOST_POINTS = 1200;
const FEWEST_POINTS = 200;
const RESIZE_SHARE = 1.3; // so much wider than what was asked for: ask again

export class RunPage {
  constructor(source) {
    this.source = source;
    this.range = readRange();
    this.charts = null;
    this.objects = new Objects(source);
    this.turn = 0;
    this.points = 0;
    this.loadedAt = 0;
  }

  /** Show everything; stays up to date while the run goes on. */
  async start() {
    const [run, answer] = await Promise.all([this.source.run(), this.#ask(this.range)]);
    this.run = run;
    this.#showRun();
    await this.#showAnswer(answer, this.range);
    byId("values").addEventListener("toggle", () => this.#showValues());
    addEventListener("resize", () => this.#resized());
    addEventListener("popstate", () => this.#changeRange(readRange()));
    document.body.dataset.ready = "true";
    if (this.source.live) this.#follow();
  }

  #pointsWanted() {
    const width = this.charts?.width ?? innerWidth / (innerWidth > 1200 ? 2 : 1);
    return Math.round(Math.max(FEWEST_POINTS, Math.min(MOST_POINTS, width)));
  }

  #ask(range) {
    this.points = this.#pointsWanted();
    const [from, to] = range ?? [null, null];
    return this.source.series({ columns: COLUMNS, from, to, points: this.points });
  }

  #showRun() {
    const { run } = this;
    document.title = `${run.job ?? "Unnamed run"} · ${run.state} · tracker-stream`;
    setText(byId("job"), run.job ?? "Unnamed run");
    if (byId("crumb")) setText(byId("crumb"), run.job ?? run.id);
    showState(run);
    showFacts(run);
    showMetadata(run);
    this.#guarded(() => this.objects.show(run));
    const link = byId("csv");
    link.hidden = !run.csvUrl || !run.rows;
    if (run.csvUrl) link.href = run.csvUrl;
  }

  async #showAnswer(answer, range) {
    const hasRows = answer.t.length > 0 || range !== null;
    byId("charts-section").hidden = false;
    byId("no-rows").hidden = hasRows;
    document.querySelector(".tools").hidden = !hasRows;
    byId("values").hidden = !hasRows;
    if (!hasRows) return setText(byId("no-rows"), this.run.endedAt === null ? "No row has arrived yet." : "The run has no rows.");
    this.pictures = this.pictures ?? picturesFor(this.run.metadata, answer);
    this.charts = this.charts ?? new Charts({ pictures: this.pictures, host: this.run.metadata, onRange: (wanted) => this.#changeRange(wanted, true) });
    this.series = prepared(answer, this.pictures);
    if (range === null) this.extent = extentOf(this.series);
    else this.extent = this.extent ?? this.run.extent ?? range;
    this.charts.show(this.series, range, this.extent);
    if (range === null) this.whole = this.series;
    showSummary(this.run, this.pictures, this.whole ? figuresOf(this.whole) : {});
    this.#showValues();
    this.loadedAt = performance.now();
  }

  #showValues() {
    if (byId("values").open && this.series) showValues(this.pictures, this.series);
  }

  /** Ask for another range; an answer that comes late, after yet another was wanted, is dropped. */
  async #changeRange(range, remember = false) {
    this.range = range;
    if (remember) writeRange(range);
    if (range !== null && this.charts && this.series) this.charts.show(this.series, range, this.extent); // at once, coarse
    await this.#reload();
  }

  async #reload() {
    const mine = ++this.turn;
    const { range } = this;
    const answer = await this.#guarded(() => this.#ask(range));
    if (answer && mine === this.turn) await this.#showAnswer(answer, range);
  }

  #resized() {
    clearTimeout(this.resizeTimer);
    this.resizeTimer = setTimeout(() => {
      if (this.charts && this.series?.reduced && this.#pointsWanted() > this.points * RESIZE_SHARE) this.#reload();
    }, 250);
  }

  // -- a run that goes on --

  #follow() {
    const again = () => {
      clearTimeout(this.timer);
      if (!document.hidden) this.timer = setTimeout(() => this.look().then((goesOn) => goesOn && again()), REFRESH_MS);
    };
    document.addEventListener("visibilitychange", again);
    if (this.run.endedAt === null) again();
  }

  /** Show the run as it is now; whether it still goes on. */
  async look() {
    const before = this.run;
    const run = await this.#guarded(() => this.source.run());
    if (!run) return true;
    this.run = run;
    if (run.state !== before.state) setText(byId("told"), `The run is now: ${run.state}.`);
    this.#showRun();
    const hasEnded = run.endedAt !== null;
    if (run.rows !== before.rows && this.range !== null) this.extent = run.extent ?? this.extent;
    if (hasEnded || (run.rows !== before.rows && this.#isDue())) await (this.range === null ? this.#reload() : null);
    return !hasEnded;
  }

  /** A chart of a week need not be drawn anew for a second: wait until it would move by a point. */
  #isDue() {
    const step = this.series?.reduced ? Math.min(LONGEST_REFRESH_S, this.series.step) : 0;
    return performance.now() - this.loadedAt > step * 1000;
  }

  async #guarded(action) {
    try {
      const value = await action();
      byId("problem").hidden = true;
      return value;
    } catch (error) {
      showProblem(error);
      return null;
    }
  }
}

export function showProblem(error) {
  setText(byId("problem"), `${error.message} ${error.isFinal ? "" : "Trying again."}`);
  byId("problem").hidden = false;
}

function extentOf(series) {
  const [from, to] = [series.from ?? series.t[0], series.to ?? series.t.at(-1)];
  return to > from ? [from, to] : [from - 1, to + 1];
}

function readRange() {
  const given = new URLSearchParams(location.search);
  const [from, to] = [Number(given.get("from")), Number(given.get("to"))];
  return from > 0 && to > from ? [from, to] : null;
}

function writeRange(range) {
  if (location.protocol === "file:") return;
  const query = range === null ? "" : `?from=${range[0].toFixed(3)}&to=${range[1].toFixed(3)}`;
  history.pushState(null, "", location.pathname + query);
}
