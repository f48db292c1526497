// Runs that were chosen to be compared, and the way there.
import { element, setText } from "./dom.js";

const MOST = 8;
const chosen = new Set();

/** A box for one run; what is chosen stays so, whatever else is shown meanwhile. */
export function choiceOf(id, name) {
  return element("input", { type: "checkbox", value: id, class: "choice", "aria-label": `Compare ${name}`, checked: chosen.has(id) });
}

/** The link appears when two to eight boxes below `place` have been chosen. */
export function offerComparison(place, link) {
  place.addEventListener("change", ({ target }) => {
    if (target.checked) chosen.add(target.value);
    else chosen.delete(target.value);
    link.hidden = chosen.size < 2;
    link.toggleAttribute("aria-disabled", chosen.size > MOST);
    if (chosen.size > MOST) link.removeAttribute("href");
    else link.href = `/compare?runs=${[...chosen].map(encodeURIComponent).join(",")}`;
    setText(link, chosen.size > MOST ? `At most ${MOST} runs` : `Compare ${chosen.size} runs`);
  });
}
