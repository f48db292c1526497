// The summary: average and peak of every measure, and how near the peak came to the host's limit.
import { byId, element, setChildren } from "./dom.js";

const SVG = "http://www.w3.org/2000/svg";

/** Figures of the whole run: the service's own where it has them, else those of what was drawn. */
export function showSummary(run, pictures, drawn, drawnIsWhole) {
  const figure = (column) => run.figures?.[column] ?? (drawnIsWhole ? drawn[column] : undefined);
  const hasLimit = pictures.some((picture) => picture.limit(run.metadata));
  const head = ["Measure", "Average", "Peak", ...(hasLimit ? ["Limit", "Peak of limit"] : [])];
  setChildren(byId("summary-head"), [element("tr", {}, head.map((text, n) =>
    element("th", { scope: "col", class: n === 0 ? null : n >= 3 ? "right optional" : "right" }, [text])))]);
  const rows = pictures.flatMap((picture) => picture.lines.map((line) => row(picture, line, figure(line.column), run.metadata, hasLimit)));
  setChildren(byId("summary"), rows);
}

function row(picture, { label }, found, host, hasLimit) {
  const format = (value) => (value === undefined || value === null ? "–" : picture.format(value));
  const limit = picture.limit(host);
  const cells = [
    element("th", { scope: "row" }, [`${picture.title} `, element("span", { class: "muted" }, [label.toLowerCase()])]),
    element("td", { class: "right" }, [format(found?.average)]),
    element("td", { class: "right" }, [format(found?.peak)]),
  ];
  if (!hasLimit) return element("tr", {}, cells);
  const share = limit && found?.peak !== undefined && found?.peak !== null ? found.peak / limit : null;
  return element("tr", {}, [
    ...cells,
    element("td", { class: "right optional" }, [limit ? picture.format(limit) : ""]),
    element("td", { class: "right optional" }, share === null ? [] : [meter(share), `${Math.round(share * 100)} %`]),
  ]);
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
