"""Which fault happens when: drawn from a seed beforehand, printed, and then carried out."""

import random
import signal
from collections.abc import Callable
from dataclasses import dataclass

from tests.support import faults
from tests.support.far_end import FarEnd
from tests.support.faults import Fault

PAUSE_S = (0.3, 3.0)  # between two events
OUTAGE_S = (1.0, 12.0)
STOPPED_S = (0.5, 3.0)

ANSWERS: dict[str, Callable[[], Fault]] = {
    "reply lost": faults.reply_lost,
    "reply lost by reset": lambda: faults.reply_lost(reset=True),
    "closed": faults.closed,
    "reset": lambda: faults.closed(reset=True),
    "503": lambda: faults.answer(503, retry_after=1),
    "500": lambda: faults.answer(500),
    "429": lambda: faults.answer(429, retry_after="2"),
    "captive portal": faults.captive_portal,
    "redirect": lambda: faults.redirect("https://portal.invalid/"),
    "not JSON": faults.not_json,
    "truncated": lambda: faults.truncated(40),
    "delayed": lambda: faults.delayed(1.5),
    "half-closed": lambda: faults.half_closed(20),
    "silent": faults.silent,
}
ONLY_PUT: dict[str, Callable[[], Fault]] = {
    "cut upload": lambda: faults.cut_upload(10),
    "no ETag": faults.no_etag,
    "wrong checksum": faults.wrong_checksum,
    "pretended": faults.pretended,
    "expired token": lambda: faults.s3_error("ExpiredToken", 400),
    "slow down": lambda: faults.s3_error("SlowDown", 503),
    "conflict": lambda: faults.s3_error("ConditionalRequestConflict", 409),
}
KILLS = ("kill uploader", "kill tracker", "kill both", "stop and go on", "terminate uploader", "interrupt uploader")


@dataclass(frozen=True)
class Event:
    """`at_s` after the beginning. `target`: a number that picks one of the runs that are there then."""

    at_s: float
    name: str
    kind: str = ""
    door: str = ""
    times: int = 1
    lasts_s: float = 0.0
    target: int = 0

    def __str__(self) -> str:
        more = [self.kind, self.door, f"x{self.times}" if self.times > 1 else ""]
        lasts = f"for {self.lasts_s:.1f} s" if self.lasts_s else ""
        return " ".join(part for part in (f"{self.at_s:7.1f}", self.name, *more, lasts) if part)


def draw(chance: random.Random, duration_s: float, *, kills_per_minute: float = 0.0) -> list[Event]:
    """The whole schedule."""
    events: list[Event] = []
    at_s = chance.uniform(*PAUSE_S)
    while at_s < duration_s:
        events.append(_event(chance, at_s))
        at_s += chance.uniform(*PAUSE_S)
    kill_count = int(kills_per_minute * duration_s / 60)
    events += [Event(chance.uniform(0, duration_s), "kill uploader") for _ in range(kill_count)]
    return sorted(events, key=lambda event: event.at_s)


def _event(chance: random.Random, at_s: float) -> Event:
    sort = chance.choices(("answer", "outage", "kill", "credentials", "drain"), (40, 10, 35, 10, 5))[0]
    target = chance.randrange(1_000_000)
    if sort == "answer":
        kind = chance.choice(("put", "put", "put", "register", "finish", "refresh"))
        names = [*ANSWERS, *ONLY_PUT] if kind == "put" else list(ANSWERS)
        return Event(at_s, chance.choice(names), kind=kind, times=chance.choice((1, 1, 2, 4)))
    if sort == "outage":
        door = chance.choice(("api", "s3", "both"))
        return Event(at_s, "outage", door=door, lasts_s=chance.uniform(*OUTAGE_S))
    if sort == "kill":
        return Event(at_s, chance.choice(KILLS), lasts_s=0.0, target=target)
    if sort == "credentials":
        return Event(at_s, chance.choice(("expire", "revoke", "reset connections")))
    return Event(at_s, "drain")


def fault_of(event: Event) -> Fault | None:
    """The fault that meets requests, if the event is of that sort."""
    made = {**ANSWERS, **ONLY_PUT}.get(event.name)
    return made() if made else None


def change_credentials(event: Event, far_end: FarEnd) -> bool:
    acts = {"expire": far_end.expire_now, "revoke": far_end.revoke, "reset connections": far_end.reset_connections}
    if event.name not in acts:
        return False
    acts[event.name]()
    return True


SIGNALS = {
    "kill uploader": signal.SIGKILL,
    "kill tracker": signal.SIGKILL,
    "kill both": signal.SIGKILL,
    "stop and go on": signal.SIGSTOP,
    "terminate uploader": signal.SIGTERM,
    "interrupt uploader": signal.SIGINT,
}
