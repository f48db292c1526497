// The objects of a run, in order, with what is missing between them.
import { byId, element, setChildren, setText } from "./dom.js";
import { bytes, count, NONE } from "./format.js";

const CHECKSUM_SHOWN = 12;

/** Shows a run's objects, more of them on request; asks again only when there are more than before. */
export class Objects {
  constructor(source) {
    this.source = source;
    this.shown = [];
    this.total = null;
    byId("objects-more").firstElementChild.addEventListener("click", () => this.#load(this.shown.length));
  }

  async show(run) {
    this.run = run;
    setText(byId("objects-note"), noteOf(run));
    if (run.objectCount === this.total && this.isFinal === (run.endedAt !== null)) return;
    this.isFinal = run.endedAt !== null;
    const isAppended = this.total !== null && this.shown.length >= this.total;
    if (this.total === null || isAppended || this.isFinal) await this.#load(0);
    else this.total = run.objectCount;
    this.#draw();
  }

  async #load(offset) {
    const { objects, total } = await this.source.objects(offset);
    this.shown = [...this.shown.slice(0, offset), ...objects];
    this.total = total;
    this.#draw();
  }

  #draw() {
    const isAll = this.shown.length >= this.total;
    byId("objects-sheet").hidden = this.total === 0;
    setChildren(byId("objects"), withGaps(this.shown, this.run.gaps, isAll).map(({ gap, object }) => (gap ? gapRow(gap) : objectRow(object))));
    byId("objects-more").hidden = isAll;
    setText(byId("objects-more").firstElementChild, `Show more (${count(this.total - this.shown.length)} left)`);
  }
}

function noteOf({ objectCount, bytes: size, gaps, source, missing, unreadable }) {
  if (source === "inline") return "The rows came with the finish of the run; it has no objects.";
  if (objectCount === 0) return "No object yet.";
  const absent = gaps.reduce((sum, { from, to }) => sum + to - from + 1, 0);
  return [
    `${count(objectCount)} ${objectCount === 1 ? "object" : "objects"}${size === null ? "" : `, ${bytes(size)}`}`,
    absent ? `${count(absent)} sequence ${absent === 1 ? "number is" : "numbers are"} missing` : "no sequence number is missing",
    missing ? `${count(missing)} named by the finish ${missing === 1 ? "is" : "are"} not in S3` : "",
    unreadable ? `${count(unreadable)} cannot be read` : "",
  ].filter(Boolean).join("; ") + ".";
}

function withGaps(objects, gaps, isAll) {
  const last = Math.max(0, ...objects.map(({ seq }) => seq ?? 0));
  return [
    ...objects.map((object) => ({ at: object.seq ?? Infinity, object })),
    ...gaps.filter(({ from }) => isAll || from < last).map((gap) => ({ at: gap.from, gap })),
  ].sort((a, b) => (a.at === b.at ? 0 : a.at - b.at));
}

function gapRow({ from, to }) {
  const [numbers, text] = from === to ? [String(from), "missing"] : [`${from}–${to}`, `${count(to - from + 1)} objects missing`];
  return element("tr", { class: "gap" }, [element("td", { class: "right" }, [numbers]), element("td", { colspan: 4 }, [text])]);
}

function objectRow({ seq, name, size, rows, checksum, isVerified, problem }) {
  return element("tr", {}, [
    element("td", { class: "right" }, [seq === null ? NONE : String(seq)]),
    element("td", { class: "mono key" }, [name, problem ? element("div", {}, [element("span", { class: "state failed" }, [problem])]) : null]),
    element("td", { class: "right" }, [bytes(size)]),
    element("td", { class: "right" }, [count(rows)]),
    element("td", { class: "mono digest", title: checksum }, [
      checksum ? checksum.slice(0, CHECKSUM_SHOWN) : NONE,
      isVerified ? element("span", { class: "verified", title: "The rows match the checksum in the object's name" }, [" ✓", element("span", { class: "unseen" }, [" verified"])]) : null,
    ]),
  ]);
}
