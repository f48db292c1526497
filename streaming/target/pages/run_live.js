// A run's page as the target serves it.
import { api, showAccount } from "./api.js";
import { RunPage, showProblem } from "./run.js";

const id = decodeURIComponent(location.pathname.split("/").at(-1));

const source = {
  live: true,
  run: () => api.run(id),
  series: (wanted) => api.series(id, wanted),
  objects: (offset) => api.objects(id, offset),
};

showAccount();
new RunPage(source).start().catch(showProblem);
