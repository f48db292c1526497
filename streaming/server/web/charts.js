// All pictures of a run as one: they share the range of time, the cursor, and the keys.
import { clock, dayTime, duration } from "./format.js";
import { Chart } from "./chart.js";
import { byId, setText } from "./dom.js";
import { figuresOf, nearest } from "./series.js";

const ZOOM_FACTOR = 2;
const PAN_SHARE = 0.5;
const SHORTEST_S = 2;
const FLAT = 4; // a limit so many times as high as the curves' peak would flatten them

export class Charts {
  /** `onRange(range)` when the person wants another range of time: [from, to], or null for all of it. `timeText(at, span)`:
   * how a time is told, where that is not by the clock. */
  constructor({ pictures, host, onRange, timeText = null }) {
    this.pictures = pictures;
    this.timeText = timeText;
    this.onRange = onRange;
    this.range = null;
    this.extent = null;
    this.cursor = null;
    const group = uPlot.sync("run");
    const events = {
      group,
      onZoom: (from, to) => this.zoom(from, to),
      onHover: (index) => this.#point(index),
      onKey: (event, chart) => this.#key(event, chart),
    };
    this.charts = pictures.map((picture) => new Chart({ picture, limit: picture.limit(host), timeText, ...events }));
    byId("charts").replaceChildren(...this.charts.map((chart) => chart.node));
    this.#buttons();
    this.#limitSwitch(host);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.charts.forEach((chart) => chart.recolour()));
  }

  get width() {
    return Math.max(...this.charts.map((chart) => chart.width));
  }

  /** Draw a prepared series in a range; `extent` is the run's whole one. */
  show(series, range, extent) {
    this.series = series;
    this.extent = extent;
    this.range = range;
    const figures = figuresOf(series);
    if (!this.isShown) this.#openOnCurves(figures);
    for (const chart of this.charts) chart.show(series, range ?? extent, figures);
    this.#tell();
  }

  /** At first, limits are shown where they do not flatten what there is to see. */
  #openOnCurves(figures) {
    this.isShown = true;
    for (const chart of this.charts) {
      const peak = Math.max(...chart.picture.lines.map(({ column }) => figures[column]?.peak ?? 0));
      chart.showLimit = !chart.limit || chart.limit <= FLAT * peak;
    }
    byId("limits").setAttribute("aria-pressed", String(this.charts.every((chart) => chart.showLimit)));
  }

  zoom(from, to) {
    const [first, last] = this.extent;
    if (to - from >= last - first) return this.onRange(null);
    const middle = (from + to) / 2;
    const half = Math.max(to - from, SHORTEST_S) / 2;
    const low = Math.max(first, middle - half);
    const high = Math.min(last, middle + half);
    return this.onRange(low <= first && high >= last ? null : [low, high]);
  }

  zoomBy(factor, at = null) {
    const [from, to] = this.range ?? this.extent;
    const middle = at ?? (from + to) / 2;
    this.zoom(middle - ((to - from) * factor) / 2, middle + ((to - from) * factor) / 2);
  }

  pan(share) {
    const [from, to] = this.range ?? this.extent;
    const [first, last] = this.extent;
    const by = Math.max(first - from, Math.min(last - to, (to - from) * share));
    if (by !== 0) this.onRange([from + by, to + by]);
  }

  #buttons() {
    const press = (id, action) => byId(id).addEventListener("click", action);
    press("pan-left", () => this.pan(-PAN_SHARE));
    press("pan-right", () => this.pan(PAN_SHARE));
    press("zoom-in", () => this.zoomBy(1 / ZOOM_FACTOR, this.#cursorTime()));
    press("zoom-out", () => this.zoomBy(ZOOM_FACTOR));
    press("zoom-all", () => this.onRange(null));
  }

  #limitSwitch(host) {
    const node = byId("limits");
    node.hidden = !this.pictures.some((picture) => picture.limit(host));
    node.addEventListener("click", () => {
      const shown = node.getAttribute("aria-pressed") !== "true";
      node.setAttribute("aria-pressed", String(shown));
      this.charts.forEach((chart) => chart.setLimitShown(shown));
    });
  }

  /** What a key does to the range of time; whether it does anything. */
  rangeKey(key, at) {
    const moves = {
      "+": () => this.zoomBy(1 / ZOOM_FACTOR, at),
      "=": () => this.zoomBy(1 / ZOOM_FACTOR, at),
      "-": () => this.zoomBy(ZOOM_FACTOR, at),
      PageUp: () => this.pan(-PAN_SHARE),
      PageDown: () => this.pan(PAN_SHARE),
      0: () => this.onRange(null),
    };
    moves[key]?.();
    return key in moves;
  }

  #key(event, chart) {
    if (event.ctrlKey || event.metaKey || event.altKey || !this.series) return;
    if (this.rangeKey(event.key, this.#cursorTime())) {
      event.preventDefault();
      return;
    }
    const last = this.series.t.length - 1;
    const here = this.cursor ?? (event.key === "ArrowRight" ? -1 : last + 1);
    const stride = event.shiftKey ? Math.max(1, Math.round(last / 20)) : 1;
    const moves = {
      ArrowLeft: () => this.#point(Math.max(0, here - stride), chart),
      ArrowRight: () => this.#point(Math.min(last, here + stride), chart),
      Home: () => this.#point(0, chart),
      End: () => this.#point(last, chart),
      Escape: () => (this.cursor === null ? this.onRange(null) : this.#point(null)),
    };
    const move = moves[event.key];
    if (move === undefined) return;
    event.preventDefault();
    move();
  }

  #cursorTime() {
    return this.cursor === null ? null : this.series.t[this.cursor];
  }

  /** Put every cursor on an index (null: nowhere) and say the values of the picture that has the focus. */
  #point(index, chart = null) {
    this.cursor = index;
    for (const each of this.charts) each.pointAt(index);
    if (index === null || chart === null) return;
    const values = chart.picture.lines.map(({ column, label }) => {
      const value = this.series.columns[column]?.mean[index] ?? null;
      return `${label} ${value === null ? "no data" : chart.picture.format(value)}`;
    });
    const at = this.series.t[index];
    setText(byId("spoken"), `${this.timeText?.(at, 0) ?? clock(at)}: ${values.join(", ")}`);
  }

  #tell() {
    const [from, to] = this.range ?? this.extent;
    const span = to - from;
    const sameDay = new Date(from * 1000).toDateString() === new Date(to * 1000).toDateString();
    const text = span < 3600 && sameDay ? `${clock(from)} – ${clock(to)}` : sameDay ? `${dayTime(from)} – ${dayTime(to).split(" ").at(-1)}` : `${dayTime(from)} – ${dayTime(to)}`;
    setText(byId("range-text"), this.timeText ? `${this.timeText(from, span)} – ${this.timeText(to, span)}` : text);
    const each = this.series.reduced ? `a point is ${duration(this.series.step)}: average, in a band from minimum to maximum` : "every row is a point";
    setText(byId("range-note"), `${duration(span)}; ${each}`);
    byId("zoom-all").disabled = this.range === null;
    byId("zoom-out").disabled = this.range === null;
    byId("zoom-in").disabled = span <= SHORTEST_S;
    byId("pan-left").disabled = this.range === null || from <= this.extent[0];
    byId("pan-right").disabled = this.range === null || to >= this.extent[1];
    if (this.cursor !== null) this.#point(nearest(this.series.t, this.#cursorTime() ?? to));
  }
}
