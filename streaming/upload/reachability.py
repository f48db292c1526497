"""Whether an address can be reached, found out once for all runs that are delivered there.

While nobody answers, one request at a time asks again, after growing pauses; every other run learns at once what that
one met. The first answer, whatever it says, lets all of them go on.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, TypeVar

from spool import Registration
from spool.model import Receipt
from streaming.clients.credentials import CredentialKeeper, Credentials
from streaming.clients.deadline import Unanswered
from streaming.clients.sentinel import SentinelApi
from streaming.errors import Unreachable
from streaming.upload.model import Terms
from streaming.upload.retry import Attempts

if TYPE_CHECKING:
    from streaming.clients.s3 import ObjectStore

UNANSWERED_S = 0.75  # without a connection: who waits for a run is told that nobody can be reached
ASKED_LOOK_S = 0.5  # while another run asks
FRESH_S = 2.0  # what was heard of an address so lately says that it answers

Result = TypeVar("Result")


class Address:
    """One address as all threads see it."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._attempts = Attempts()
        self._problem: Unreachable | None = None
        self._is_asked = False
        self._ask_at = 0.0
        self._unanswered = Unanswered()
        self._answered_at = float("-inf")

    def call(self, request: Callable[[], Result]) -> Result:
        """The request's result. Raises what it raises, and Unreachable without asking where that is known already."""
        known = self._begin()
        try:
            with self._unanswered.watching():
                result = request()
        except Unreachable as error:
            self._failed(error, known)
            raise
        except BaseException:
            self._answered()
            raise
        self._answered()
        return result

    @property
    def is_unanswered(self) -> bool:
        """Whether somebody asks, and no connection has come about for a while: the network may swallow everything."""
        return self._clock() - self._unanswered.since > UNANSWERED_S

    def answers_since(self, at: float) -> bool:
        """Whether an answer, or a connection, has come from there since then."""
        return max(self._answered_at, self._unanswered.connected_at) >= at

    def ask_now(self) -> None:
        """The next request asks, however long the pause would be: somebody has a reason to believe in it."""
        with self._lock:
            self._ask_at = 0.0
            self._attempts.begin_anew()

    def _begin(self) -> Unreachable | None:
        """What is known of the address, which is asked now. Raises Unreachable if it is not."""
        with self._lock:
            if self._problem is not None:
                left_s = self._ask_at - self._clock()
                if self._is_asked or left_s > 0:
                    raise Unreachable(
                        self._problem.message,
                        cause=self._problem.cause,
                        hint=self._problem.hint,
                        retry_after_s=max(left_s, ASKED_LOOK_S),
                    )
                self._is_asked = True
            return self._problem

    def _failed(self, problem: Unreachable, known: Unreachable | None) -> None:
        """Nobody answered. One that has a pause was met, and told, at another address on the way to this one."""
        with self._lock:
            is_ours = problem.retry_after_s is None
            if is_ours and self._problem is known:  # else another thread has told meanwhile
                self._problem = problem
                self._ask_at = self._clock() + self._attempts.failed(problem)
            if is_ours:
                problem.retry_after_s = max(0.0, self._ask_at - self._clock())
            self._is_asked = False

    def _answered(self) -> None:
        with self._lock:
            self._problem, self._is_asked = None, False
            self._answered_at = self._clock()
            self._attempts.begin_anew()


class Reached:
    """Service and store for one token (`delivery.Service`, `delivery.Store`), each behind its address."""

    def __init__(
        self, token: str, *, api_url: str, s3_endpoint_url: str | None, address: Callable[[str], Address]
    ) -> None:
        """`address`: the one that all runs share. Raises BadArgument for URLs that are not safe to use."""
        self._service = SentinelApi(token, base_url=api_url)
        self._service_url = api_url
        self._keeper = CredentialKeeper(self._refresh)
        self._s3_endpoint_url = s3_endpoint_url
        self._store_lock = threading.Lock()
        self._made_store: ObjectStore | None = None
        self.addresses = (address(api_url), address(s3_endpoint_url or "S3"))
        self._api, self._s3 = self.addresses

    def unanswered(self) -> str:
        """Which address does not answer now, in words; "" if all do."""
        named = zip((self._service_url, self._s3_endpoint_url or "S3"), self.addresses, strict=True)
        silent = [name for name, address in named if address.is_unanswered]
        return f"{silent[0]} does not answer" if silent else ""

    def answers_since(self, at: float) -> bool:
        """Whether service or store has answered, or at least let us connect, since then."""
        return any(address.answers_since(at) for address in self.addresses)

    def register(self, payload: dict[str, Any], *, idempotency_key: str) -> tuple[Registration, Credentials]:
        return self._api.call(lambda: self._service.register(payload, idempotency_key=idempotency_key))

    def finish(self, run_id: str, payload: dict[str, Any]) -> dict[str, Any]:
        return self._api.call(lambda: self._service.finish(run_id, payload))

    def _refresh(self, run_id: str) -> Credentials:
        return self._api.call(lambda: self._service.refresh(run_id))

    def keep(self, run_id: str, credentials: Credentials) -> None:
        self._keeper.keep(run_id, credentials)

    def put(self, run_id: str, uri: str, body: bytes) -> Receipt:
        return self._s3.call(lambda: self._store().put(run_id, uri, body))

    def forget(self, run_id: str) -> None:
        """The run is delivered, or given up."""
        self._keeper.forget(run_id)
        if self._made_store is not None:
            self._made_store.forget(run_id)

    def reset(self) -> None:
        """Drop connections that did not survive, e.g. a suspension."""
        self._service.reset()
        if self._made_store is not None:
            self._made_store.reset()

    def _store(self) -> ObjectStore:
        """Made when it is needed first: a run of a few rows, which goes inside its finish, needs no boto3."""
        with self._store_lock:
            if self._made_store is None:
                from streaming.clients.s3 import ObjectStore

                self._made_store = ObjectStore(self._keeper, endpoint_url=self._s3_endpoint_url)
            return self._made_store


class AllReached:
    """The clients for all terms in use, and what is known of their addresses. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._addresses: dict[str, Address] = {}
        self._reached: dict[Terms, Reached] = {}

    def by(self, terms: Terms) -> Reached:
        """The clients for these terms, shared by all threads; an address's state by all clients."""
        with self._lock:
            if terms not in self._reached:
                self._reached[terms] = Reached(
                    terms.token,
                    api_url=terms.api_url,
                    s3_endpoint_url=terms.s3_endpoint_url,
                    address=lambda url: self._addresses.setdefault(url, Address()),
                )
            return self._reached[terms]

    def unanswered(self, terms: Terms) -> str:
        """Which of their addresses does not answer now, in words; "" if none is asked in vain."""
        reached = self._reached.get(terms)
        return reached.unanswered() if reached is not None else ""

    def answers_since(self, terms: Terms, at: float) -> bool:
        """Whether their service or store was heard of since then, on the monotonic clock."""
        reached = self._reached.get(terms)
        return reached is not None and reached.answers_since(at)

    def drop_stale(self, terms: Terms) -> None:
        """Somebody waits for an answer now. Over an old connection nobody learns whether the network still carries; a new
        one tells at once."""
        reached = self._reached.get(terms)
        if reached is not None and not reached.answers_since(time.monotonic() - FRESH_S):
            reached.reset()

    def ask_now(self) -> None:
        for address in [*self._addresses.values()]:
            address.ask_now()

    def reset(self) -> None:
        """Drop all connections."""
        for reached in [*self._reached.values()]:
            reached.reset()

    def forget_all_but(self, in_use: Collection[Terms]) -> None:
        """A process that lives for long meets many terms and addresses."""
        with self._lock:
            for terms in self._reached.keys() - in_use:
                self._reached.pop(terms).reset()
            addresses = {address for reached in self._reached.values() for address in reached.addresses}
            self._addresses = {url: address for url, address in self._addresses.items() if address in addresses}
