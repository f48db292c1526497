// A picture of many runs: one row for each place of a job, time from left to right, the darker the more.
import { clock, dayTime, NONE } from "./format.js";
import { element, setText } from "./dom.js";
import { attemptText, endOf, nodeOf, peakOf, valueAt } from "./members.js";

const ROW_PX = 16;
const MOST_PX = 480;
const FAINTEST = 0.06; // a row with no use at all is still seen to be there

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

export class Heat {
  /** `measure` is "cpu" or "memory"; `onSpeak(text)` for the ear. */
  constructor({ title, measure, format, places, extent, onSpeak }) {
    Object.assign(this, { title, measure, format, places, extent, onSpeak, row: null, time: null });
    this.peak = peakOf(places.flatMap((place) => place.runs.flatMap((run) => run[measure])));
    this.canvas = element("canvas", { tabindex: "0", role: "img", "aria-label": this.#describe(), "aria-describedby": "heat-note" });
    this.at = element("span", { class: "at", "aria-hidden": "true" });
    const [from, to] = extent;
    const scale = element("span", { class: "scale", "aria-hidden": "true" }, ["0 ", element("i"), ` ${format(this.peak)}`]);
    this.node = element("figure", { class: "heat sheet" }, [
      element("header", {}, [element("h3", {}, [title]), scale, this.at]),
      this.canvas,
      element("p", { class: "axis muted" }, [element("span", {}, [timeText(from, extent)]), element("span", {}, [timeText(to, extent)])]),
    ]);
    this.#listen();
    new ResizeObserver(() => this.draw()).observe(this.canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  #describe() {
    const means = this.places.map((place) => ({ name: place.name, peak: peakOf(place.runs.flatMap((run) => run[this.measure])) }));
    const most = means.reduce((top, each) => (each.peak > top.peak ? each : top), means[0]);
    return `${this.title} of ${means.length} rows over time. Highest: ${most.name} with ${this.format(most.peak)}.`;
  }

  #listen() {
    this.canvas.addEventListener("mousemove", (event) => this.#point(...this.#placeAt(event)));
    this.canvas.addEventListener("mouseleave", () => this.#point(null, null));
    this.canvas.addEventListener("blur", () => this.#point(null, null));
    this.canvas.addEventListener("click", (event) => this.#open(...this.#placeAt(event)));
    this.canvas.addEventListener("keydown", (event) => this.#key(event));
  }

  #placeAt(event) {
    const box = this.canvas.getBoundingClientRect();
    const row = Math.floor(((event.clientY - box.top) / box.height) * this.places.length);
    const [from, to] = this.extent;
    return [Math.max(0, Math.min(this.places.length - 1, row)), from + ((event.clientX - box.left) / box.width) * (to - from)];
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
    if (!(event.key in moves) || event.ctrlKey || event.metaKey || event.altKey) return null;
    event.preventDefault();
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
    const value = run ? valueAt(run, run[this.measure], time) : null;
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
    this.colours = { heat: colour("heat"), gap: colour("gap") };
    const ink = this.canvas.getContext("2d");
    const tall = height / this.places.length;
    const gap = tall > 6 * scale ? scale : 0;
    this.places.forEach((place, n) => this.#drawPlace(ink, place, { top: Math.round(n * tall), tall: Math.ceil(tall) - gap, width }));
    if (this.row === null) return;
    ink.globalAlpha = 1;
    ink.strokeStyle = colour("ink");
    ink.lineWidth = scale;
    ink.strokeRect(scale / 2, Math.round(this.row * tall) + scale / 2, width - scale, Math.max(2 * scale, tall - scale));
  }

  #drawPlace(ink, place, { top, tall, width }) {
    const [from, to] = this.extent;
    const x = (time) => Math.round(((time - from) / (to - from)) * width);
    place.runs.forEach((run, n) => {
      const next = place.runs[n + 1];
      if (next && next.startedAt > endOf(run)) this.#fill(ink, "gap", 1, x(endOf(run)), top, x(next.startedAt) - x(endOf(run)), tall);
      const curve = run[this.measure];
      const end = run.lastRowAt ?? endOf(run);
      curve.forEach((value, k) => {
        const [left, right] = [k, k + 1].map((at) => x(run.startedAt + ((end - run.startedAt) * at) / curve.length));
        if (value !== null) this.#fill(ink, "heat", FAINTEST + (1 - FAINTEST) * (value / (this.peak || 1)), left, top, Math.max(1, right - left), tall);
      });
    });
  }

  #fill(ink, name, alpha, left, top, width, tall) {
    ink.globalAlpha = alpha;
    ink.fillStyle = this.colours[name];
    ink.fillRect(left, top, width, tall);
  }
}

const runAt = (place, time) => place.runs.findLast((run) => run.startedAt <= time && time <= endOf(run)) ?? null;
const timeText = (time, [from, to]) => (to - from > 86400 ? dayTime(time) : clock(time));
