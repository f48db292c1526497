"""The far end without a socket: what `delivery.deliver` asks for, in memory and deterministic, for models and sweeps.

It behaves as the real clients do towards delivery (their own tests hold them to it): the same idempotency key is the
same run, a PUT of the same key is harmless, a second finish is AlreadyFinished. Each call may meet one scripted outcome.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from typing import Any

from spool import Registration
from spool.model import Receipt
from streaming.clients.credentials import Credentials
from streaming.errors import AlreadyFinished, RunUnknown, SegmentRefused, StreamError, Unauthorized, Unreachable
from tests.support.oracle import Evidence
from tests.support.service import finish_problems

CREDENTIALS = Credentials("none", "none", "none", None, "us-east-1")


@dataclass(frozen=True)
class Outcome:
    """What becomes of one call: `stores` tells whether the far end did it, `error` what the caller learns."""

    stores: bool = True
    error: Callable[[], StreamError] | None = None


FINE = Outcome()
REPLY_LOST = Outcome(stores=True, error=lambda: Unreachable("reply lost", cause="reset"))
DOWN = Outcome(stores=False, error=lambda: Unreachable("down", cause="refused"))
EXPIRED = Outcome(stores=False, error=lambda: Unreachable("credentials refused", cause="credentials refused"))
UNAUTHORIZED = Outcome(stores=False, error=lambda: Unauthorized("no"))
REFUSED = Outcome(stores=False, error=lambda: SegmentRefused("InvalidRequest", status=400))


@dataclass
class Run:
    run_id: str
    prefix: str
    finish: dict[str, Any] | None = None


@dataclass
class MemoryFarEnd:
    """Service and store in one. `outcomes[kind]` are used up in order, by "register", "put" and "finish"."""

    objects: dict[str, bytes] = field(default_factory=dict)
    history: defaultdict[str, list[str]] = field(default_factory=partial(defaultdict, list))
    runs: dict[str, Run] = field(default_factory=dict)
    outcomes: defaultdict[str, deque[Outcome]] = field(default_factory=partial(defaultdict, deque))
    put_count: int = 0
    forgotten_count: int = 0  # of runs

    def register(self, payload: Mapping[str, Any], *, idempotency_key: str) -> tuple[Registration, Credentials]:
        outcome = self._next("register")
        if outcome.stores:
            run_id = f"run-{self.forgotten_count + len(self.runs) + 1}"
            self.runs.setdefault(idempotency_key, Run(run_id, f"s3://bucket/{run_id}"))
        self._answer(outcome)
        run = self.runs[idempotency_key]
        return Registration(run.run_id, run.prefix), CREDENTIALS

    def keep(self, run_id: str, credentials: Credentials) -> None:
        assert credentials == CREDENTIALS

    def put(self, run_id: str, uri: str, body: bytes) -> Receipt:
        outcome = self._next("put")
        assert uri.startswith(self._run(run_id).prefix + "/"), uri
        self.put_count += 1
        if outcome.stores:
            self.objects[uri] = body
            self.history[uri].append(sha256(body).hexdigest())
        self._answer(outcome)
        return Receipt(uri, sha256(body).hexdigest()[:32])

    def finish(self, run_id: str, payload: Mapping[str, Any]) -> dict[str, Any]:
        outcome = self._next("finish")
        run = self._run(run_id)
        problems = finish_problems(dict(payload))
        assert not problems, problems
        first = run.finish is None
        if outcome.stores and first:
            run.finish = dict(payload)
        self._answer(outcome)
        if not first:
            raise AlreadyFinished("finished before", status=409)
        return {"run_id": run_id}

    def forget(self, run_id: str) -> None:
        """The run is delivered."""

    def forget_runs(self) -> None:
        """As a service does that lost its database: what it gives later runs are other names."""
        self.forgotten_count += len(self.runs)
        self.runs.clear()

    def copy(self) -> "MemoryFarEnd":
        """One that goes on by itself. Outcomes that wait are not copied."""
        history = defaultdict(list, {uri: [*digests] for uri, digests in self.history.items()})
        runs = {key: replace(run) for key, run in self.runs.items()}
        return MemoryFarEnd(
            dict(self.objects), history, runs, put_count=self.put_count, forgotten_count=self.forgotten_count
        )

    def evidence(self) -> Evidence:
        (run,) = self.runs.values()
        return Evidence(dict(self.objects), run.finish, run.prefix, dict(self.history))

    def _run(self, run_id: str) -> Run:
        for run in self.runs.values():
            if run.run_id == run_id:
                return run
        raise RunUnknown("unknown run", status=404)

    def _next(self, kind: str) -> Outcome:
        return self.outcomes[kind].popleft() if self.outcomes[kind] else FINE

    def _answer(self, outcome: Outcome) -> None:
        if outcome.error is not None:
            raise outcome.error()
