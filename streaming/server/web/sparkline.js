// A small curve over a run's time, from nothing up to its own peak. Gaps stay gaps.
const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 16;
const TOP = 1;

export function sparkline(values) {
  const peak = Math.max(...values, 0) || 1;
  const height = (value) => (HEIGHT - TOP - ((HEIGHT - 2 * TOP) * value) / peak).toFixed(1);
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "spark");
  svg.setAttribute("viewBox", `0 0 ${Math.max(1, values.length - 1)} ${HEIGHT}`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", values.map((value, x) => (value === null ? "" : `${values[x - 1] == null ? "M" : "L"}${x} ${height(value)}`)).join(""));
  svg.append(path);
  return svg;
}
