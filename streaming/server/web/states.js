// How the state of a run is told.
import { duration } from "./format.js";

const TEXTS = { registered: "waiting for rows" };

/** "recording", or "silent for 12 min": how long ago anything was heard. */
export function stateText(run, now) {
  const states = Object.entries(run.states ?? {});
  if (states.length > 1) return states.map(([state, runs]) => `${runs} ${TEXTS[state] ?? state}`).join(", ");
  if (run.state === "silent") return `silent for ${duration(now - (run.lastRowAt ?? run.startedAt))}`;
  return TEXTS[run.state] ?? run.state;
}

const WORST_FIRST = ["failed", "silent", "recording", "registered", "finished"];

/** Of a job: the state of the run that needs a person most. */
export function worstState(run) {
  return run.states ? WORST_FIRST.find((state) => state in run.states) : run.state;
}

/** Seconds; of a silent run only up to its last row, for nobody knows whether it still runs. */
export function durationOf(run, now) {
  if (run.durationS !== null) return run.durationS;
  const until = run.endedAt ?? (run.state === "silent" ? (run.lastRowAt ?? now) : now);
  return Math.max(0, until - run.startedAt);
}
