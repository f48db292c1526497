"""One connection's story: read a request, obey or not, journal, then answer as the script says."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.support.faults import Fault, Reading, Sending
from tests.support.script import Script
from tests.support.wire import Answer, BudgetSpent, Head, PeerLeft, Request, Wire

POLL_S = 0.02


@dataclass(frozen=True)
class Knock:
    """A request's head on arrival."""

    kind: str
    head: Head
    fault: Fault
    arrived_at_s: float


Obey = Callable[[Knock, Request | None], Answer]


class Conversation:
    """`obey` does what is asked (or not), writes the journal, and returns the answer to give."""

    def __init__(
        self, wire: Wire, script: Script, kind_of: Callable[[Head], str], obey: Obey, clock: Callable[[], float]
    ):
        self._wire = wire
        self._script = script
        self._kind_of = kind_of
        self._obey = obey
        self._clock = clock

    def run(self) -> None:
        fault = self._script.take("connect", None)
        if fault.name:
            self._send(b"", b"", fault)
            return
        while self._exchange():
            pass

    def _exchange(self) -> bool:
        """One request and its answer; False when the connection is over."""
        head = self._wire.read_head()
        kind = self._kind_of(head)
        knock = Knock(kind, head, self._script.take(kind, head), time.monotonic())
        answer = self._obey(knock, self._read(knock))
        self._wait(knock.fault)
        encoded = answer.encode(date_s=self._clock(), bodiless=head.method == "HEAD")
        start, _, body = encoded.partition(b"\r\n\r\n")
        goes_on = self._send(start + b"\r\n\r\n", body, knock.fault)
        asks_close = head.headers.get("connection", "").lower() == "close"
        return goes_on and answer.declares_length and not asks_close and knock.fault.reading is Reading.ALL

    def _read(self, knock: Knock) -> Request | None:
        """The whole request, or None when the script forbids reading (all of) it."""
        if knock.fault.reading is Reading.NOTHING:
            return None
        self._wire.read_budget_bytes = knock.fault.read_budget_bytes
        self._wire.read_rate_bytes_s = knock.fault.read_rate_bytes_s
        try:
            return self._wire.read_body(knock.head)
        except BudgetSpent:
            return None
        finally:
            self._wire.read_budget_bytes = self._wire.read_rate_bytes_s = None

    def _wait(self, fault: Fault) -> None:
        if fault.delay_s and self._wire.gone.wait(fault.delay_s):
            raise PeerLeft("going down")
        if fault.gate is None:
            return
        fault.gate.reached.set()
        while not fault.gate.released.wait(POLL_S):
            if self._wire.gone.is_set():
                raise PeerLeft("going down")

    def _send(self, start: bytes, body: bytes, fault: Fault) -> bool:
        """Let the answer leave as the fault says; True when the connection may serve another request."""
        wire, data = self._wire, start + body
        if fault.sending is Sending.WHOLE:
            wire.send(data)
            return True
        if fault.sending is Sending.RESET:
            wire.reset()
        elif fault.sending is Sending.SILENT:
            wire.gone.wait()
        elif fault.sending is Sending.TRICKLE:
            wire.send(start if fault.body_only else b"")
            wire.trickle(body if fault.body_only else data, interval_s=fault.interval_s)
            return True
        elif fault.sending in (Sending.HALF_CLOSE, Sending.TRUNCATE):
            wire.send(data[: fault.cut_at_bytes])
            if fault.sending is Sending.HALF_CLOSE:
                wire.half_close()
        return False
