// A picture of many runs: one row for each place of a job, time from left to right, the darker the more.
import { clock, dayTime, NONE } from "./format.js";
import { element, setText } from "./dom.js";
import { attemptText, curveOf, endOf, nodeOf, peakOf, valueAt } from "./members.js";

const ROW_PX = 16;
const MOST_PX = 480;
const CLICK_PX = 4; // a drag shorter than this is a click
const FAINTEST = 0.06; // a row with no use at all is still seen to be there

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

export class Heat {
  /** `measure` is "cpu" or "memory"; `onSpeak(text)` for the ear; `onZoom(from, to)` when a range was dragged; `onKey(key,
   * time)` does what a key does to the range of all pictures, and says whether it does anything. */
  constructor({ title, measure, format, onSpeak, onZoom, onKey }) {
    Object.assign(this, { title, measure, format, onSpeak, onZoom, onKey, row: null, time: null, draggedFrom: null });
    this.canvas = element("canvas", { tabindex: "0", role: "img", "aria-describedby": "heat-note" });
    this.at = element("span", { class: "at", "aria-hidden": "true" });
    this.most = element("span");
    this.ends = [element("span"), element("span")];
    const scale = element("span", { class: "scale", "aria-hidden": "true" }, ["0 ", element("i"), " ", this.most]);
    this.node = element("figure", { class: "heat sheet" }, [
      element("header", {}, [element("h3", {}, [title]), scale, this.at]),
      this.canvas,
      element("p", { class: "axis muted" }, this.ends),
    ]);
    this.#listen();
    new ResizeObserver(() => this.places && this.draw()).observe(this.canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  /** Draw these places over the time `extent`. */
  show(places, extent) {
    Object.assign(this, { places, extent });
    const peaks = places.map((place) => ({ name: place.name, peak: peakOf(place.runs.flatMap((run) => curveOf(run, this.measure).values)) }));
    const most = peaks.reduce((top, each) => (each.peak > top.peak ? each : top), peaks[0]);
    this.peak = most.peak;
    setText(this.most, this.format(most.peak));
    this.ends.forEach((node, n) => setText(node, timeText(extent[n], extent)));
    this.canvas.setAttribute("aria-label", this.#describe(peaks, most));
    this.image = null;
    this.draw();
  }

  #describe(means, most) {
    return `${this.title} of ${means.length} rows over time. Highest: ${most.name} with ${this.format(most.peak)}.`;
  }

  #listen() {
    this.canvas.addEventListener("mousemove", (event) => this.#point(...this.#placeAt(event)));
    this.canvas.addEventListener("mousedown", (event) => (this.draggedFrom = event.clientX));
    this.canvas.addEventListener("dblclick", () => this.onZoom(-Infinity, Infinity));
    this.canvas.addEventListener("mouseleave", () => this.#point(null, null));
    this.canvas.addEventListener("blur", () => this.#point(null, null));
    this.canvas.addEventListener("click", (event) => this.#released(event));
    this.canvas.addEventListener("keydown", (event) => this.#key(event));
  }

  /** A click opens the run, a drag zooms. */
  #released(event) {
    const from = this.draggedFrom;
    this.draggedFrom = null;
    if (from === null || Math.abs(event.clientX - from) < CLICK_PX) return this.#open(...this.#placeAt(event));
    return this.onZoom(...[from, event.clientX].map((x) => this.#timeAt(x)).sort((a, b) => a - b));
  }

  #placeAt(event) {
    const box = this.canvas.getBoundingClientRect();
    const row = Math.floor(((event.clientY - box.top) / box.height) * this.places.length);
    return [Math.max(0, Math.min(this.places.length - 1, row)), this.#timeAt(event.clientX)];
  }

  #timeAt(x) {
    const box = this.canvas.getBoundingClientRect();
    const [from, to] = this.extent;
    return from + ((x - box.left) / box.width) * (to - from);
  }

  #key(event) {
    const [from, to] = this.extent;
    const row = this.row ?? 0;
    const time = this.time ?? (from + to) / 2;
    const last = this.places.length - 1;
    const step = ((to - from) / 50) * (event.shiftKey ? 5 : 1);
    const moves = {
      ArrowUp: [Math.max(0, row - 1), time], ArrowDown: [Math.min(last, this.row === null ? 0 : row + 1), time],
      ArrowLeft: [row, Math.max(from, time - step)], ArrowRight: [row, Math.min(to, time + step)],
      Home: [0, time], End: [last, time],
    };
    if (event.key === "Enter") return this.#open(row, time);
    if (event.ctrlKey || event.metaKey || event.altKey) return null;
    const isOfRange = this.onKey(event.key, this.time);
    if (!isOfRange && !(event.key in moves)) return null;
    event.preventDefault();
    if (isOfRange) return null;
    this.#point(...moves[event.key]);
    return this.onSpeak(this.at.textContent);
  }

  #point(row, time) {
    this.row = row;
    this.time = time;
    setText(this.at, row === null ? "" : this.#textAt(this.places[row], time));
    this.draw();
  }

  #textAt(place, time) {
    const run = runAt(place, time);
    const value = run ? valueAt(run, this.measure, time) : null;
    const parts = [place.name, run ? nodeOf(run) : "", run ? attemptText(run) : "between attempts", timeText(time, this.extent), value === null ? NONE : this.format(value)];
    return parts.filter(Boolean).join(", ");
  }

  #open(row, time) {
    const run = runAt(this.places[row], time) ?? this.places[row].runs[0];
    location.assign(`/run/${encodeURIComponent(run.id)}`);
  }

  /** At least a pixel of the screen for each row: no straggler is lost among a thousand. */
  draw() {
    const scale = devicePixelRatio;
    const width = Math.round(this.canvas.clientWidth * scale);
    const wanted = Math.min(this.places.length * ROW_PX, MOST_PX) * scale;
    const height = Math.round(Math.max(wanted, this.places.length));
    if (width === 0) return;
    Object.assign(this.canvas, { width, height });
    const ink = this.canvas.getContext("2d");
    const tall = height / this.places.length;
    ink.imageSmoothingEnabled = false;
    ink.drawImage(this.#imageOf(width), 0, 0, width, height);
    if (tall > 6 * scale) this.places.forEach((_, n) => ink.clearRect(0, Math.round((n + 1) * tall) - scale, width, scale));
    if (this.row === null) return;
    ink.strokeStyle = colour("ink");
    ink.lineWidth = scale;
    ink.strokeRect(scale / 2, Math.round(this.row * tall) + scale / 2, width - scale, Math.max(2 * scale, tall - scale));
    if (this.draggedFrom !== null) this.#drawDragged(ink, scale, height);
  }

  #drawDragged(ink, scale, height) {
    const [left, right] = [this.draggedFrom - this.canvas.getBoundingClientRect().left, this.#xOf(this.time) / scale].sort((a, b) => a - b);
    ink.strokeRect(left * scale, 0, (right - left) * scale, height);
  }

  #xOf(time) {
    const [from, to] = this.extent;
    return Math.round(((time - from) / (to - from)) * this.canvas.width);
  }

  /** A pixel's row for each place. Kept until something else is to be seen in it: pointing at a row paints no thousand. */
  #imageOf(width) {
    const key = `${width} ${colour("heat")}`;
    if (this.image && this.imageKey === key) return this.image;
    this.image = Object.assign(document.createElement("canvas"), { width, height: this.places.length });
    this.imageKey = key;
    const ink = this.image.getContext("2d");
    const pixels = ink.createImageData(width, this.places.length);
    const colours = { heat: rgbOf(colour("heat")), gap: rgbOf(colour("gap")) };
    this.places.forEach((place, row) => this.#paintPlace(new Uint32Array(pixels.data.buffer, 4 * row * width, width), place, colours));
    ink.putImageData(pixels, 0, 0);
    return this.image;
  }

  #paintPlace(pixels, place, { heat, gap }) {
    const x = (time) => Math.max(0, this.#xOf(time));
    place.runs.forEach((run, n) => {
      const next = place.runs[n + 1];
      if (next && next.startedAt > endOf(run)) pixels.fill(gap(1), x(endOf(run)), x(next.startedAt));
      const { from, to, values } = curveOf(run, this.measure);
      values.forEach((value, k) => {
        if (value === null) return;
        const [left, right] = [x(from + ((to - from) * k) / values.length), x(from + ((to - from) * (k + 1)) / values.length)];
        pixels.fill(heat(FAINTEST + (1 - FAINTEST) * (value / (this.peak || 1))), left, Math.max(left + 1, right));
      });
    });
  }
}

/** A colour of base.css, `#rrggbb`, as what is written into an image: by how much of it there is. */
function rgbOf(text) {
  const [r, g, b] = [1, 3, 5].map((at) => parseInt(text.slice(at, at + 2), 16));
  const bytes = new Uint8Array([r, g, b, 0]);
  return (share) => {
    bytes[3] = Math.round(255 * Math.min(1, share));
    return new Uint32Array(bytes.buffer)[0];
  };
}

const runAt = (place, time) => place.runs.findLast((run) => run.startedAt <= time && time <= endOf(run)) ?? null;
const timeText = (time, [from, to]) => (to - from > 86400 ? dayTime(time) : clock(time));
