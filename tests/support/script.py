"""The fault script: which fault meets which request."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

from tests.support.faults import NO_FAULT, Fault
from tests.support.wire import Head

KINDS = ("register", "refresh", "finish", "put", "region", "other", "connect", "any")
Matching = Callable[[Head], bool]


@dataclass
class Rule:
    """A fault for the requests number `first` to `last` (None: all further ones) that come to this rule.

    A rule sees only what no earlier rule took. As a context manager it is cleared at the end of the block.
    """

    script: "Script"
    kind: str
    fault: Fault
    first: int = 1
    last: int | None = None
    matching: Matching | None = None
    seen: int = 0
    fired: int = 0

    def clear(self) -> None:
        self.script.remove(self)

    def concerns(self, kind: str, head: Head | None) -> bool:
        if self.kind != kind and (self.kind != "any" or kind == "connect"):
            return False
        return self.matching is None or (head is not None and self.matching(head))

    def take(self) -> bool:
        """Count one request; True if it is this rule's."""
        self.seen += 1
        fires = self.first <= self.seen and (self.last is None or self.seen <= self.last)
        self.fired += fires
        return fires

    def __enter__(self) -> "Rule":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.clear()


class Script:
    """Rules in the order they were given, those for a number of requests before those until cleared."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rules: list[Rule] = []

    def add(self, kind: str, fault: Fault, first: int, last: int | None, matching: Matching | None) -> Rule:
        if kind not in KINDS:
            raise ValueError(f"kind {kind!r} is none of {', '.join(KINDS)}")
        rule = Rule(self, kind, fault, first, last, matching)
        with self._lock:
            self._rules.append(rule)
            self._rules.sort(key=lambda each: each.last is None)
        return rule

    def remove(self, rule: Rule) -> None:
        with self._lock:
            self._rules = [each for each in self._rules if each is not rule]

    def clear(self, kind: str | None = None) -> None:
        with self._lock:
            self._rules = [each for each in self._rules if kind is not None and each.kind != kind]

    def take(self, kind: str, head: Head | None) -> Fault:
        """The fault for this request: that of the first rule that fires."""
        with self._lock:
            for rule in self._rules:
                if rule.concerns(kind, head) and rule.take():
                    return rule.fault
        return NO_FAULT
