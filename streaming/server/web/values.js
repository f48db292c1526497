// The charts' values as a table, for those who rather read than look.
import { byId, element, setChildren, time } from "./dom.js";
import { clock, dayTime, iso, NONE } from "./format.js";

const TABLE_ROWS = 24;

export function showValues(pictures, series) {
  const lines = pictures.flatMap((picture) => picture.lines.map((line) => ({ ...line, picture })));
  setChildren(byId("values-head"), [element("tr", {}, [element("th", { scope: "col" }, ["Time"]), ...lines.map(({ picture, label }) =>
    element("th", { scope: "col", class: "right" }, [`${picture.title}: ${label.toLowerCase()}`]))])]);
  const stride = Math.max(1, Math.ceil(series.t.length / TABLE_ROWS));
  const rows = [];
  for (let from = 0; from < series.t.length; from += stride) {
    const cells = lines.map(({ picture, column }) => element("td", { class: "right" }, [meanText(picture, series.columns[column]?.mean.slice(from, from + stride))]));
    const at = series.t[from];
    rows.push(element("tr", {}, [element("th", { scope: "row", class: "right" }, [time(at, series.t.at(-1) - series.t[0] > 86400 ? dayTime(at) : clock(at), iso(at))]), ...cells]));
  }
  setChildren(byId("values-body"), rows);
}

function meanText(picture, values = []) {
  const known = values.filter((value) => value !== null);
  return known.length ? picture.format(known.reduce((sum, value) => sum + value, 0) / known.length) : NONE;
}
