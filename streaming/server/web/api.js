// The client of the service: the only file that knows its routes and the shape of its answers.
import { byId, setText } from "./dom.js";
import { parseTime } from "./format.js";
import { detailsOf, needOf, objectOf, runOf } from "./shapes.js";

const SORT_NAMES = {
  job: "job_name", state: "state", project: "project_name", host: "host", started: "started_at",
  duration: "duration_s", exit_code: "exit_code", rows: "row_count", last_row: "last_row_at", cpu: "average_cpu", memory: "peak_memory_mib",
};
const CLOCK_TOLERANCE_S = 5; // the Date header has whole seconds, and the answer took its time
const OBJECTS_PER_CALL = 200;

export class ServiceError extends Error {
  constructor(message, { isFinal = false } = {}) {
    super(message);
    this.isFinal = isFinal;
  }
}
export class LoggedOut extends ServiceError {}

let isLeaving = false; // whoever logs out is not led back to the page whose last calls are refused then
let share = null; // the secret of a link that shows one run; without one, the session decides

/** See what a link shows: one run, and nothing else. */
export function lookWith(secret) {
  share = secret;
}

async function call(path, { method = "GET", body } = {}) {
  const answer = await send(path, { method, body });
  if (answer.status === 401 && path !== "/session" && share === null) {
    if (!isLeaving) location.assign(`/login?next=${encodeURIComponent(location.pathname + location.search)}`);
    throw new LoggedOut("The login has ended.");
  }
  if (!answer.ok) throw await refusal(answer);
  return { value: answer.status === 204 ? null : await answer.json(), now: serviceTime(answer) };
}

async function send(path, { method, body }) {
  const headers = { Accept: "application/json", ...(body ? { "Content-Type": "application/json" } : {}), ...(share === null ? {} : { "X-Share": share }) };
  try {
    return await fetch(path, { method, headers, body: body && JSON.stringify(body), credentials: "same-origin" });
  } catch {
    throw new ServiceError("The server does not answer.");
  }
}

async function refusal(answer) {
  const detail = (await answer.json().catch(() => ({}))).detail;
  const text = typeof detail === "string" ? detail : `The server answers ${answer.status}.`;
  return new ServiceError(text, { isFinal: answer.status >= 400 && answer.status < 500 && answer.status !== 429 });
}

/** Seconds since the epoch by the service's clock. Ours, unless the two differ by more than the header can show. */
function serviceTime(answer) {
  const here = Date.now() / 1000;
  const there = parseTime(answer.headers.get("date"));
  return there !== null && Math.abs(there - here) > CLOCK_TOLERANCE_S ? there : here;
}

const query = (values) => new URLSearchParams(Object.entries(values).filter(([, value]) => value !== null && value !== "")).toString();
export const jobPath = (id) => `/job?id=${encodeURIComponent(id)}`;
const runPath = (id) => `/runs/${encodeURIComponent(id)}`;

export const api = {
  /** {runs, total, counts, now}; `sort` is a column of the list, with - before it for the other direction. */
  async runs({ q, state, fold, sort, offset, limit }) {
    const name = SORT_NAMES[sort.replace(/^-/, "")] ?? "started_at";
    const order = (sort.startsWith("-") ? "-" : "") + name;
    const { value, now } = await call(`/runs?${query({ q, state, fold: fold === "jobs", sort: order, offset, limit })}`);
    return { ...value, runs: value.runs.map(runOf), now };
  },
  /** {runs, isCut, need, now}: all runs of a job. */
  async job(id) {
    const { value, now } = await call(`/jobs?${query({ id })}`);
    return { runs: value.runs.map(runOf), isCut: value.is_cut, need: needOf(value.need), now };
  },
  async run(id) {
    const { value, now } = await call(runPath(id));
    return { ...runOf(value), ...detailsOf(value), csvUrl: share === null ? `${runPath(id)}/csv` : null, now };
  },
  async objects(id, offset) {
    const { value } = await call(`${runPath(id)}/objects?${query({ offset, limit: OBJECTS_PER_CALL })}`);
    return { objects: value.objects.map(objectOf), total: value.total };
  },
  async series(id, { columns, from, to, points }) {
    const names = columns.join(",");
    return (await call(`${runPath(id)}/series?${query({ columns: names, from, to, points })}`)).value;
  },
  edit: (id, change) => call(runPath(id), { method: "PATCH", body: change }),
  remove: (id) => call(runPath(id), { method: "DELETE" }),
  /** The path of a page that shows the run, for so many hours. */
  share: async (id, hours) => (await call(`${runPath(id)}/share`, { method: "POST", body: { hours } })).value.page,
  /** By `{ token }`, or by the `{ ticket }` of a link. */
  logIn: (secret) => call("/session", { method: "POST", body: secret }),
  logOut: () => call("/session", { method: "DELETE" }),
  whoAmI: async () => (await call("/session")).value.name,
};

/** Name of the token, and the button that ends the session. */
export function showAccount() {
  api.whoAmI().then((name) => setText(byId("who"), name), () => {});
  byId("logout").addEventListener("click", async () => {
    isLeaving = true;
    await api.logOut().catch(() => {});
    location.assign("/login");
  });
}
