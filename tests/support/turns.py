"""The turns of a run's delivery, one after the other in this thread, with clients and waits of the test's choice."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from spool import Registration, directory
from spool.model import Receipt
from streaming.clients.credentials import Credentials
from streaming.errors import StreamError
from streaming.upload.delivery import Service, Store
from streaming.upload.model import Outcome, Terms, Turn, Wishes
from streaming.upload.reachability import Reached
from streaming.upload.run_delivery import RunDelivery


class GaveUp(StreamError):
    """The test has seen enough."""


class Wait(Protocol):
    """How a test waits between two turns. Raises GaveUp when it has seen enough."""

    def wait(self, seconds: float) -> None: ...


class AnyClients(Protocol):
    """Service and store, opened together."""

    @property
    def service(self) -> Service: ...
    @property
    def store(self) -> Store: ...


@dataclass
class Direct:
    """Clients without what several runs would share (`streaming.upload.reachability.Reached`)."""

    clients: AnyClients

    def register(self, payload: dict[str, Any], *, idempotency_key: str) -> tuple[Registration, Credentials]:
        return self.clients.service.register(payload, idempotency_key=idempotency_key)

    def finish(self, run_id: str, payload: dict[str, Any]) -> dict[str, Any]:
        return self.clients.service.finish(run_id, payload)

    def keep(self, run_id: str, credentials: Credentials) -> None:
        self.clients.store.keep(run_id, credentials)

    def put(self, run_id: str, uri: str, body: bytes) -> Receipt:
        return self.clients.store.put(run_id, uri, body)

    def forget(self, run_id: str) -> None:
        pass


class NoWait:
    """Goes on at once, and for ever."""

    def wait(self, seconds: float) -> None:
        pass


def delivery_of(path: Path, clients: AnyClients, **options: Any) -> RunDelivery:
    return RunDelivery(path, lambda _terms: cast(Reached, Direct(clients)), **options)


def drain_run(
    path: Path,
    clients: AnyClients,
    time: Wait,
    *,
    api_url: str,
    token: str = "",
    has_ended: bool = False,
    spares_recent: bool = False,
    anew: bool = False,
    anywhere: bool = False,
    waits_for_token: bool = True,
    report: Callable[[StreamError | None], None] = lambda _problem: None,
) -> Outcome:
    """Turn by turn until nothing is left to do, or the time is over. Raises what makes the run impossible to deliver."""
    terms = Terms(token or getattr(clients, "token", None) or "", api_url, None)
    wishes = Wishes(has_ended, spares_recent, anew, anywhere)
    delivery = delivery_of(path, clients)
    while True:
        turn = delivery.turn(terms, wishes)
        wishes = Wishes(has_ended, spares_recent)
        report(cast(StreamError | None, turn.problem))
        if turn.outcome is Outcome.ERROR:
            raise turn.problem or AssertionError("an error without a cause")
        if turn.outcome is Outcome.GOES_ON:
            continue
        if turn.outcome not in (Outcome.WAITING, Outcome.BUSY, Outcome.TOKEN_REFUSED) or (
            turn.outcome is Outcome.TOKEN_REFUSED and not waits_for_token
        ):
            return turn.outcome
        try:
            time.wait(turn.wait_s)
        except GaveUp:
            return Outcome.BUSY if turn.outcome is Outcome.BUSY else Outcome.WAITING


def adopt_all(spool_directory: Path, token: str, clients: AnyClients, *, api_url: str) -> dict[Path, Turn]:
    """What the engine does with the runs that were left behind in a directory, until each is done or cannot go on."""
    turns: dict[Path, Turn] = {}
    for path in directory.spool_paths(spool_directory):
        delivery = delivery_of(path, clients)
        while (turn := delivery.turn(Terms(token, api_url, None), is_adopted=True)).outcome is Outcome.GOES_ON:
            pass
        turns[path] = turn
    return turns
