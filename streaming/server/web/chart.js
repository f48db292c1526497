// One picture: uPlot, a legend that shows the values below the cursor, a text for those who do not see it, and keys.
import { clock, dayTime, NONE } from "./format.js";
import { figureText } from "./measures.js";
import { element } from "./dom.js";

const X_AXIS_FORMATS = [
  [3600 * 24 * 365, "{YYYY}", null, null, null, null, null, null, 1],
  [3600 * 24 * 28, "{MMM}", "\n{YYYY}", null, null, null, null, null, 1],
  [3600 * 24, "{D} {MMM}", "\n{YYYY}", null, null, null, null, null, 1],
  [60, "{HH}:{mm}", "\n{D} {MMM} {YYYY}", null, "\n{D} {MMM}", null, null, null, 1],
  [1, "{HH}:{mm}:{ss}", "\n{D} {MMM} {YYYY}", null, "\n{D} {MMM}", null, null, null, 1],
  [0.001, "{HH}:{mm}:{ss}.{fff}", "\n{D} {MMM} {YYYY}", null, "\n{D} {MMM}", null, null, null, 1],
];
const MINUTE = 60;
const DAY = 86400;
const SPANS = [
  ...[0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30], ...[1, 2, 5, 10, 15, 30, 60, 120, 180, 360, 720].map((n) => n * MINUTE), ...[1, 2, 5, 10, 20, 50, 100].map((n) => n * DAY),
];
const POWERS_OF_TWO = Array.from({ length: 50 }, (_, n) => 2 ** (n - 10));
const CLICK_PX = 4; // a drag shorter than this is a click
const HEADROOM = 1.06;

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const translucent = (name) => colour(name) + "2e";

export class Chart {
  /** `onZoom(from, to)` when a range was dragged; `onHover(index or null)`; `onKey(event, chart)` for what moves all. */
  constructor({ picture, limit, group, timeText = null, onZoom, onHover, onKey }) {
    this.picture = picture;
    this.timeText = timeText;
    this.limit = limit;
    this.showLimit = true;
    this.events = { onZoom, onHover, onKey };
    this.group = group;
    this.values = new Map();
    this.node = this.#build();
    this.plot = null;
    new ResizeObserver(() => this.#resize()).observe(this.place);
  }

  get width() {
    return this.place.clientWidth;
  }

  /** Draw a series; `figures` are the averages and peaks of what is shown, for the text. */
  show(series, [from, to], figures) {
    this.series = series;
    const data = [series.t];
    for (const { column } of this.picture.lines) {
      const values = series.columns[column];
      data.push(values?.mean ?? [], values?.max ?? [], values?.min ?? []);
    }
    if (this.plot === null) this.plot = this.#makePlot(data, from, to);
    else {
      this.plot.batch(() => {
        this.plot.setData(data, false);
        this.plot.setScale("x", { min: from, max: to });
      });
    }
    this.#describe(figures);
    this.legendAt(null);
  }

  /** The values at one index, or the latest ones. */
  legendAt(index) {
    const { series, picture } = this;
    if (!series) return;
    const at = index ?? series.t.length - 1;
    for (const { column } of picture.lines) {
      const value = series.columns[column]?.mean[at] ?? null;
      const text = value === null ? NONE : picture.format(value);
      const node = this.values.get(column);
      if (node.textContent !== text) node.textContent = text;
    }
    const span = series.t.at(-1) - series.t[0];
    const text = index === null ? "" : this.timeText ? this.timeText(series.t[index], span) : span > 86400 ? dayTime(series.t[index]) : clock(series.t[index], span);
    if (this.at.textContent !== text) this.at.textContent = text;
  }

  /** Put the cursor on an index, as hovering does. */
  pointAt(index) {
    if (this.plot === null) return;
    const left = index === null ? -10 : this.plot.valToPos(this.series.t[index], "x");
    this.plot.setCursor({ left, top: index === null ? -10 : 0 }, false);
    this.legendAt(index);
  }

  setLimitShown(shown) {
    this.showLimit = shown;
    this.plot?.batch(() => this.plot.setScale("y", this.#yRange(this.plot)));
    this.plot?.redraw(false, true);
  }

  recolour() {
    this.plot?.redraw(false, true);
  }

  destroy() {
    this.plot?.destroy();
    this.node.remove();
  }

  #build() {
    const { picture } = this;
    const titleId = `title-${picture.id}`;
    this.at = element("span", { class: "at", "aria-hidden": "true" });
    this.text = element("p", { class: "unseen", id: `text-${picture.id}` });
    this.place = element("div", {
      class: "plot", tabindex: "0", role: "img", "aria-labelledby": titleId, "aria-describedby": `${this.text.id} keys`,
    });
    this.place.addEventListener("keydown", (event) => this.events.onKey(event, this));
    this.place.addEventListener("blur", () => this.events.onHover(null));
    return element("figure", { class: "chart sheet", id: `chart-${picture.id}` }, [
      element("header", {}, [
        element("h3", { id: titleId }, [picture.title]),
        picture.unit || picture.note ? element("span", { class: "unit" }, [picture.unit ?? picture.note]) : null,
        this.at,
        element("ul", { class: "legend", "aria-label": `Lines of ${picture.title}` }, picture.lines.map((l) => this.#legend(l))),
      ]),
      this.place,
      this.text,
    ]);
  }

  #legend({ column, label, tone }) {
    const value = element("span", { class: "value" }, [NONE]);
    this.values.set(column, value);
    const button = element("button", { type: "button", class: "plain", "aria-pressed": "true", title: "Show or hide this line" }, [
      element("span", { class: `swatch ${tone}` }), label, value,
    ]);
    button.addEventListener("click", () => this.#toggle(column, button));
    return element("li", {}, [button]);
  }

  #toggle(column, button) {
    const shown = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(shown));
    const first = 1 + 3 * this.picture.lines.findIndex((line) => line.column === column);
    this.plot?.batch(() => [0, 1, 2].forEach((n) => this.plot.setSeries(first + n, { show: shown }, false)));
  }

  #describe(figures) {
    const parts = this.picture.lines.map(({ column, label }) => `${label}: ${figureText(this.picture, figures[column])}`);
    if (this.limit) parts.push(`Limit: ${this.picture.format(this.limit)} (${this.picture.limitName})`);
    const text = `Line chart over time. ${parts.join(". ")}.`;
    if (this.text.textContent !== text) this.text.textContent = text;
  }

  #makePlot(data, from, to) {
    const { picture } = this;
    const edge = { width: 0, points: { show: false } };
    const series = picture.lines.flatMap(({ tone }) => [
      { stroke: () => colour(tone), width: tone.startsWith("process") ? 1.75 : 1.25, points: { show: false } },
      edge, edge,
    ]);
    const bands = picture.lines.map(({ tone }, n) => ({ series: [2 + 3 * n, 3 + 3 * n], fill: () => translucent(tone) }));
    const px = Math.max(11, Math.round(parseFloat(getComputedStyle(document.documentElement).fontSize) * 0.8));
    const font = `${px}px ${getComputedStyle(document.body).fontFamily}`;
    const axis = { font, stroke: () => colour("muted"), grid: { stroke: () => colour("grid"), width: 1 }, ticks: { show: false } };
    return new uPlot({
      ...this.#size(),
      legend: { show: false },
      padding: [10, 24, 0, 0],
      cursor: {
        y: false,
        sync: { key: this.group.key },
        drag: { x: true, y: false, setScale: false, dist: CLICK_PX },
        points: { size: 7, fill: (u, n) => (n % 3 === 1 ? u.series[n].stroke() : "transparent"), width: 0, show: true },
      },
      scales: { x: { time: !this.timeText, range: (u, min, max) => [min, max] }, y: { range: (u) => this.#yRange(u) } },
      axes: [
        { ...axis, ...(this.timeText ? { values: this.#axisTexts(), incrs: SPANS } : { values: X_AXIS_FORMATS }), space: (this.timeText ? 8 : 6) * px, size: 3.4 * px, gap: 6 },
        {
          ...axis, size: 6.4 * px, gap: 8, space: 3 * px,
          values: (u, splits) => splits.map((value) => (value === 0 ? "0" : (picture.axisFormat ?? picture.format)(value))),
          ...(picture.binary ? { incrs: POWERS_OF_TWO } : {}),
        },
      ],
      series: [{}, ...series],
      bands,
      hooks: {
        ready: [(u) => this.#ready(u, from, to)],
        draw: [(u) => this.#drawLimit(u, font)],
        setCursor: [(u) => this.#hovered(u)],
        setSelect: [(u) => this.#selected(u)],
      },
    }, data, this.place);
  }

  #axisTexts() {
    return (u, splits) => splits.map((at) => this.timeText(at, splits.at(-1) - splits[0]));
  }

  #ready(u, from, to) {
    u.setScale("x", { min: from, max: to });
    u.over.addEventListener("mousedown", () => (this.isDragged = true));
    u.over.addEventListener("dblclick", () => this.events.onZoom(-Infinity, Infinity));
  }

  #hovered(u) {
    const index = u.cursor.left >= 0 ? u.cursor.idx : null;
    this.legendAt(index ?? null);
  }

  /** Fires in every chart, for the cursors are coupled; the one below the mouse decides. */
  #selected(u) {
    const { left, width } = u.select;
    u.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
    if (!this.isDragged || width < CLICK_PX) return;
    this.isDragged = false;
    this.events.onZoom(u.posToVal(left, "x"), u.posToVal(left + width, "x"));
  }

  #yRange(u) {
    let top = 0;
    this.picture.lines.forEach((_, n) => {
      if (u.series[2 + 3 * n].show) for (const value of u.data[2 + 3 * n]) if (value > top) top = value;
    });
    if (this.limit && this.showLimit) top = Math.max(top, this.limit);
    return [0, top > 0 ? top * HEADROOM : 1];
  }

  #drawLimit(u, font) {
    if (!this.limit || !this.showLimit) return;
    const { ctx, bbox } = u;
    const y = Math.round(u.valToPos(this.limit, "y", true));
    ctx.save();
    ctx.strokeStyle = ctx.fillStyle = colour("limit");
    ctx.lineWidth = devicePixelRatio;
    ctx.setLineDash([6 * devicePixelRatio, 4 * devicePixelRatio]);
    ctx.beginPath();
    ctx.moveTo(bbox.left, y);
    ctx.lineTo(bbox.left + bbox.width, y);
    ctx.stroke();
    ctx.font = font.replace(/^[\d.]+/, (px) => String(px * devicePixelRatio));
    ctx.textAlign = "right";
    ctx.textBaseline = "top";
    this.#drawLabel(ctx, `limit ${this.picture.format(this.limit)}`, bbox.left + bbox.width - 4, y + 3 * devicePixelRatio);
    ctx.restore();
  }

  /** Text that stays readable over whatever is drawn below it. */
  #drawLabel(ctx, text, right, top) {
    const { width, fontBoundingBoxDescent: height } = ctx.measureText(text);
    const ink = ctx.fillStyle;
    ctx.globalAlpha = 0.85;
    ctx.fillStyle = colour("surface");
    ctx.fillRect(right - width - 4, top, width + 8, height);
    ctx.globalAlpha = 1;
    ctx.fillStyle = ink;
    ctx.fillText(text, right, top);
  }

  #size() {
    return { width: Math.max(120, this.place.clientWidth), height: Math.max(120, this.place.clientHeight) };
  }

  #resize() {
    if (this.plot === null) return;
    const { width, height } = this.#size();
    if (width !== this.plot.width || height !== this.plot.height) this.plot.setSize({ width, height });
  }
}
