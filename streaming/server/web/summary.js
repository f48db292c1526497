// The summary: average and peak of every measure, and how near the process's peak came to its limit.
import { byId, element, setChildren } from "./dom.js";
import { bytes, NONE } from "./format.js";

const SVG = "http://www.w3.org/2000/svg";
const SIDES = ["system", "process"];

/** Figures of the whole run: the service's own where it has them, else those of what was drawn. */
export function showSummary(run, pictures, drawn) {
  const columns = columnsFor(run, pictures);
  setChildren(byId("summary-head"), headOf(columns));
  const rows = pictures.flatMap((picture) => measuresOf(picture).map((measure) => rowOf(measure, columns, run, drawn)));
  setChildren(byId("summary"), rows);
}

/** Lines of a picture that measure the same thing, of the system and of the process. */
function measuresOf(picture) {
  const measures = new Map();
  for (const line of picture.lines) {
    const name = [picture.title, line.what].filter(Boolean).join(" ");
    const known = measures.get(name) ?? { name, picture, lines: {} };
    known.lines[line.of] = line;
    measures.set(name, known);
  }
  return [...measures.values()];
}

function columnsFor(run, pictures) {
  const lines = pictures.flatMap((picture) => picture.lines);
  return {
    hasLimit: pictures.some((picture) => picture.limit(run.metadata)),
    hasTotal: lines.some(({ rate, column }) => rate && run.figures?.[column]?.total > 0),
  };
}

function headOf({ hasLimit, hasTotal }) {
  const figures = ["Average", "Peak", ...(hasTotal ? ["Total"] : [])];
  const group = (name) => element("th", { scope: "colgroup", colspan: figures.length, class: "side" }, [name]);
  const cells = SIDES.flatMap(() => figures.map((text, n) => element("th", { scope: "col", class: n === 0 ? "right side" : "right" }, [text])));
  const limits = hasLimit ? ["Limit", "Reached"].map((text) => element("th", { scope: "col", rowspan: 2, class: "right side" }, [text])) : [];
  return [
    element("tr", {}, [element("th", { scope: "col", rowspan: 2 }, ["Measure"]), group("System"), group("Process"), ...limits]),
    element("tr", {}, cells),
  ];
}

function rowOf({ name, picture, lines }, { hasLimit, hasTotal }, run, drawn) {
  const figures = SIDES.map((side) => (lines[side] ? figureOf(lines[side].column, run, drawn) : null));
  const format = (value) => (value === null ? NONE : picture.format(value));
  const cell = (text, isFirst = false) => element("td", { class: isFirst ? "right side" : "right" }, [text]);
  const cells = figures.flatMap((figure) => [
    cell(figure ? format(figure.average) : "", true),
    cell(figure ? format(figure.peak) : ""),
    ...(hasTotal ? [cell(figure?.total ? bytes(figure.total) : "")] : []),
  ]);
  const limits = hasLimit ? limitCells(picture, picture.limit(run.metadata), (figures[1] ?? figures[0])?.peak ?? null) : [];
  return element("tr", {}, [element("th", { scope: "row" }, [name]), ...cells, ...limits]);
}

function figureOf(column, run, drawn) {
  const given = run.figures?.[column];
  const seen = drawn[column];
  return { average: given?.average ?? seen?.average ?? null, peak: given?.peak ?? seen?.peak ?? null, total: given?.total ?? null };
}

function limitCells(picture, limit, peak) {
  const share = limit && peak !== null ? [meter(peak / limit), element("span", { class: "share" }, [`${Math.round((100 * peak) / limit)}\u202f%`])] : [];
  return [
    element("td", { class: "right side" }, [limit ? picture.format(limit) : ""]),
    element("td", { class: "right side" }, share),
  ];
}

/** A small bar. SVG attributes, because the policy of the page allows no style attribute. */
function meter(share) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 100 8");
  svg.setAttribute("preserveAspectRatio", "none");
  const bar = document.createElementNS(SVG, "rect");
  bar.setAttribute("width", String(Math.min(100, share * 100)));
  bar.setAttribute("height", "8");
  svg.append(bar);
  return element("span", { class: "meter", "aria-hidden": "true" }, [svg]);
}
