// A run's page as the server serves it.
import { api, lookWith, showAccount } from "./api.js";
import { offerChanges } from "./changes.js";
import { byId, setText } from "./dom.js";
import { RunPage, showProblem } from "./run.js";

const isGuest = location.pathname.startsWith("/shared/");
const id = decodeURIComponent(location.pathname.split("/").at(-1));

const source = {
  live: true,
  run: () => api.run(id),
  series: (wanted) => api.series(id, wanted),
  objects: (offset) => api.objects(id, offset),
};

const RETRY_MS = 3000;
const page = new RunPage(source);

/** Until the server answers; a refusal is final. */
async function begin() {
  try {
    await page.start();
    byId("problem").hidden = true;
    if (!isGuest) offerChanges(page, () => page.look(), showProblem);
  } catch (error) {
    showProblem(error);
    if (error.isFinal) setText(byId("job"), "No run to show");
    else setTimeout(begin, RETRY_MS);
  }
}

if (isGuest) lookWith(location.hash.slice(1));
else showAccount();
begin();
