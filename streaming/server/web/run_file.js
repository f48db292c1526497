// A run's page in a file of its own: the rows are in it.
import { embeddedSource } from "./embedded.js";
import { RunPage, showProblem } from "./run.js";

embeddedSource(JSON.parse(document.getElementById("run-data").textContent))
  .then((source) => new RunPage(source).start())
  .catch(showProblem);
