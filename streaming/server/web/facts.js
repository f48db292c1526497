// The parts of a run's page around the charts: state, facts, tags, metadata.
import { byId, element, setChildren, setText, time } from "./dom.js";
import { ago, count, dayTime, duration, iso } from "./format.js";
import { metadataEntries } from "./measures.js";
import { durationOf, stateText } from "./states.js";

const now = (run) => run.now ?? Date.now() / 1000;

export function showState(run) {
  const node = byId("state");
  setText(node, stateText(run, now(run)));
  node.className = `state ${run.state}`;
}

export function showFacts(run) {
  const facts = [
    ["Project", run.project],
    ["Host", run.host],
    ["Started", time(run.startedAt, dayTime(run.startedAt), iso(run.startedAt))],
    ["Duration", duration(durationOf(run, now(run)))],
    ["Exit code", run.exitCode === null ? (run.endedAt === null ? null : "unknown") : String(run.exitCode)],
    ["Rows", run.rows === null ? null : count(run.rows)],
    run.endedAt === null && run.lastRowAt !== null ? ["Last row", ago(now(run) - run.lastRowAt)] : ["Last row", null],
    ...run.need,
  ];
  setChildren(byId("facts"), facts.filter(([, value]) => value !== null && value !== undefined).map(([name, value]) =>
    element("div", {}, [element("dt", {}, [name]), element("dd", {}, [value])])));
  setText(byId("notes"), run.notes ?? "");
  setChildren(byId("tags"), run.tags.map(([key, value]) =>
    element("span", { class: "tag" }, [key, value === "" ? "" : "=", element("b", {}, [value])])));
}

export function showMetadata(run) {
  const entries = [...metadataEntries(run.metadata), ["Run", run.name], ["Run id", run.id]];
  setChildren(byId("metadata"), entries.flatMap(([name, value]) => [
    element("dt", {}, [name]),
    element("dd", { class: ["Command", "Run", "Run id"].includes(name) ? "mono" : null }, [value]),
  ]));
}
