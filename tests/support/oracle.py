"""The one oracle: after the faults have stopped, was anything lost, doubled, changed, reordered, felt or told?

    told = Told(header=HEADER, acknowledged=[b"1,2\\n", b"3,4\\n"], maybe=[b"5,6\\n"])
    judge(far_end.evidence(), told, run_status="finished", exit_code=0)

Each question is a function that raises `Verdict` with an explanation; `judge` asks them all and reports together.
Objects may be keyed by `s3://bucket/key`, by `bucket/key` or by `key`: any store that can be read will do.
"""

import gzip
import hashlib
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import Any

from tests.support.service import finish_problems

KEY = re.compile(r"/(\d{8})-([0-9a-f]{12})\.csv\.gz$")
SHOWN_MAX = 5
SHOWN_BYTES = 80
TRACEBACK = b"Traceback (most recent call last)"
FLAGS_AND_MTIME = slice(3, 8)  # of a gzip member's header

Line = tuple[bytes, bytes]  # (header, row)


class Verdict(AssertionError):
    """What does not hold, one finding per line."""

    def __init__(self, question: str, findings: Sequence[str]) -> None:
        super().__init__(f"not {question}:\n" + "\n".join(f"  - {finding}" for finding in findings))
        self.question = question
        self.findings = tuple(findings)


ANYTHING: Any = object()  # any value will do


@dataclass(frozen=True)
class Evidence:
    """What the far side holds of one run. `history`: every content (sha256) that each key ever held, if known."""

    objects: Mapping[str, bytes]
    finish: Mapping[str, Any] | None
    prefix: str | None = None  # only objects below this belong to the run; None: all do
    history: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def own_uris(self) -> list[str]:
        if self.prefix is None:
            return sorted(self.objects)
        below = self.prefix.rstrip("/") + "/"
        return sorted(uri for uri in self.objects if uri.startswith(below) or _is_bare_below(uri, below))

    def named_uris(self) -> list[str]:
        return list((self.finish or {}).get("data_uris", []))

    def content(self, uri: str) -> bytes | None:
        return next((self.objects[name] for name in _names(uri) if name in self.objects), None)

    def names(self, uri: str) -> bool:
        """Whether the finish names the object that is stored as `uri`."""
        return any(uri in _names(named) for named in self.named_uris())


@dataclass(frozen=True)
class Told:
    """What the test knows: batches or rows as bytes, in the order in which they were appended.

    `acknowledged`: their append returned. `maybe`: it did not, so each is there whole, once, or not at all.
    An entry may be a pair (header, bytes) where the header changed; otherwise it stands under `header`.
    """

    header: bytes
    acknowledged: Sequence[bytes | Line]
    maybe: Sequence[bytes | Line] = ()

    def acknowledged_lines(self) -> list[Line]:
        return [line for batch in self.acknowledged for line in self.lines(batch)]

    def maybe_batches(self) -> list[list[Line]]:
        return [self.lines(batch) for batch in self.maybe]

    def maybe_lines(self) -> list[Line]:
        return [line for batch in self.maybe_batches() for line in batch]

    def lines(self, batch: bytes | Line) -> list[Line]:
        header, rows = batch if isinstance(batch, tuple) else (self.header, batch)
        return [(header, row) for row in split_rows(rows)]

    def headers(self) -> set[bytes]:
        return {self.header, *(header for header, _ in (*self.acknowledged_lines(), *self.maybe_lines()))}


def split_rows(csv: bytes) -> list[bytes]:
    """CSV lines with their newline; a bare CR, NUL or any other byte is part of its line."""
    lines = csv.split(b"\n")
    last = lines.pop()
    return [line + b"\n" for line in lines] + ([last] if last else [])


def delivered(evidence: Evidence) -> list[Line]:
    """Every row that the finish refers to, with its header, in that order; unreadable objects give none."""
    finish = evidence.finish or {}
    if finish.get("data_source") == "inline":
        return _csv_lines(str(finish.get("data_csv", "")).encode("utf-8", "surrogateescape"))
    return [line for uri in evidence.named_uris() for line in _csv_lines(_unzipped(evidence.content(uri)))]


# -- the questions -----------------------------------------------------------------------------------------------------


def conserved(evidence: Evidence, told: Told) -> None:
    """Every acknowledged row is delivered once, nothing foreign is, and the finish names exactly what is stored."""
    findings = [*_naming_findings(evidence), *_row_findings(evidence, told), *_batch_findings(evidence, told)]
    _require("conserved", findings)


def intact(evidence: Evidence, told: Told) -> None:
    """Every object is a gzip of one known header and whole rows, under a key that tells its number and its sha256."""
    own = evidence.own_uris()
    findings = [finding for uri in own for finding in _object_findings(uri, evidence.objects[uri], told)]
    for uri, digests in evidence.history.items():
        if uri in own and len(set(digests)) > 1:
            findings.append(f"{uri} held {len(set(digests))} different contents in turn")
    _require("intact", findings + _inline_findings(evidence, told))


def ordered(evidence: Evidence, told: Told) -> None:
    """The finish names objects by rising number, and reading them in that order gives the rows as appended."""
    numbers = [int(found.group(1)) for uri in evidence.named_uris() if (found := KEY.search(uri))]
    findings = [f"object {later} named after {earlier}" for earlier, later in pairwise(numbers) if later <= earlier]
    _require("ordered", findings + _order_findings(delivered(evidence), told))


def live(
    evidence: Evidence,
    *,
    run_status: str = ANYTHING,
    exit_code: int | None = ANYTHING,
    ended_between: tuple[datetime, datetime] | None = None,
) -> None:
    """The run was finished, with the closed payload; `exit_code=None` demands that the key is left out."""
    finish = evidence.finish
    if finish is None:
        raise Verdict("live", ["the run was never finished"])
    findings = [f"finish payload: {problem['loc'][-1]}: {problem['msg']}" for problem in finish_problems(dict(finish))]
    for key, wanted in (("run_status", run_status), ("exit_code", exit_code)):
        if wanted is not ANYTHING and finish.get(key) != wanted:
            findings.append(f"{key} is {finish.get(key)!r} instead of {wanted!r}")
    if exit_code is None and "exit_code" in finish:
        findings.append("exit_code is sent, though it is unknown")
    _require("live", findings or _time_findings(str(finish["finished_at"]), ended_between))


def unfelt(
    *,
    exit_code: int,
    stderr: bytes,
    duration_s: float,
    expected_exit_code: int = 0,
    at_most_s: float | None = None,
    traceback_count: int = 0,
) -> None:
    """The user's program ended as it would have without us, in time, with no more tracebacks than its own."""
    findings = []
    if exit_code != expected_exit_code:
        findings.append(f"exit code {exit_code} instead of {expected_exit_code}")
    if stderr.count(TRACEBACK) != traceback_count:
        findings.append(f"{stderr.count(TRACEBACK)} tracebacks on stderr instead of {traceback_count}")
    if at_most_s is not None and duration_s > at_most_s:
        findings.append(f"took {duration_s:.2f} s, more than {at_most_s:.2f} s")
    _require("unfelt", [*findings, "stderr: " + stderr[-2000:].decode(errors="replace")] if findings else [])


def judge(
    evidence: Evidence,
    told: Told,
    *,
    run_status: str = ANYTHING,
    exit_code: int | None = ANYTHING,
    ended_between: tuple[datetime, datetime] | None = None,
    others: Iterable[Callable[[], None]] = (),
) -> None:
    """Ask whether the run is conserved, intact, ordered and live, and what `others` ask; raise one report of it all."""
    questions: list[Callable[[], None]] = [
        lambda: conserved(evidence, told),
        lambda: intact(evidence, told),
        lambda: ordered(evidence, told),
        lambda: live(evidence, run_status=run_status, exit_code=exit_code, ended_between=ended_between),
        *others,
    ]
    verdicts = [verdict for question in questions if (verdict := _verdict(question))]
    if verdicts:
        held = f"{len(evidence.own_uris())} objects, {len(delivered(evidence))} rows delivered"
        wanted = f"{len(told.acknowledged_lines())} rows acknowledged, {len(told.maybe_lines())} maybe"
        raise Verdict("as promised", [f"{held}; {wanted}", *(str(verdict) for verdict in verdicts)])


def _verdict(question: Callable[[], None]) -> Verdict | None:
    try:
        question()
    except Verdict as verdict:
        return verdict
    return None


# -- findings ----------------------------------------------------------------------------------------------------------


def _naming_findings(evidence: Evidence) -> list[str]:
    if evidence.finish is None:
        return []  # `live` says so
    named = evidence.named_uris()
    findings = [f"{uri} is named {count} times" for uri, count in Counter(named).items() if count > 1]
    findings += [f"{uri} is named, yet not stored" for uri in named if evidence.content(uri) is None]
    return findings + [f"{uri} is stored, yet not named" for uri in evidence.own_uris() if not evidence.names(uri)]


def _row_findings(evidence: Evidence, told: Told) -> list[str]:
    have, must = Counter(delivered(evidence)), Counter(told.acknowledged_lines())
    may = must + Counter(told.maybe_lines())
    surplus = have - may
    doubled = Counter({line: count for line, count in surplus.items() if line in may})
    foreign = Counter({line: count for line, count in surplus.items() if line not in may})
    named = (("lost", must - have), ("delivered too often", doubled), ("foreign", foreign))
    return [f"{sum(lines.values())} rows {what}: {_show(lines)}" for what, lines in named if lines]


def _batch_findings(evidence: Evidence, told: Told) -> list[str]:
    """A batch whose append did not return is there whole or not at all (judged by rows that occur once)."""
    have = Counter(delivered(evidence))
    usual = Counter(told.acknowledged_lines()) + Counter(told.maybe_lines())
    findings = []
    for number, batch in enumerate(told.maybe_batches()):
        distinct = [line for line in batch if usual[line] == 1]
        present = sum(1 for line in distinct if have[line])
        if 0 < present < len(distinct):
            findings.append(f"unacknowledged batch {number} is there in part: {present} of {len(distinct)} rows")
    return findings


def _object_findings(uri: str, content: bytes, told: Told) -> list[str]:
    csv, found = _unzipped(content), KEY.search(uri)
    if csv is None:
        return [f"{uri} is not one whole gzip member ({len(content)} bytes)"]
    findings = _csv_findings(uri, csv, told)
    if found is None:
        findings.append(f"{uri} is not named as <8 digits>-<12 hex digits>.csv.gz")
    elif found.group(2) != hashlib.sha256(csv).hexdigest()[:12]:
        findings.append(f"{uri} holds content of sha256 {hashlib.sha256(csv).hexdigest()[:12]}")
    if any(content[FLAGS_AND_MTIME]):
        findings.append(f"{uri} has a time or a flag in its gzip header: its bytes may differ at each repeat")
    return findings


def _csv_findings(where: str, csv: bytes, told: Told) -> list[str]:
    header, *rows = split_rows(csv) or [b""]
    findings = []
    if header not in told.headers():
        findings.append(f"{where} begins with {_shorten(header)}, which is no known header")
    headers = told.headers()
    if repeated := sum(row in headers for row in rows):
        findings.append(f"{where} has {repeated} more header lines")
    if not rows:
        findings.append(f"{where} holds no row")
    if not csv.endswith(b"\n"):
        findings.append(f"{where} ends within a line")
    return findings


def _inline_findings(evidence: Evidence, told: Told) -> list[str]:
    finish = evidence.finish or {}
    if finish.get("data_source") != "inline":
        return []
    csv = str(finish.get("data_csv", "")).encode("utf-8", "surrogateescape")
    if csv in {b"", *told.headers()}:
        return []  # a run without rows
    return _csv_findings("the inline CSV", csv, told)


def _order_findings(have: list[Line], told: Told) -> list[str]:
    """Walk along both: what is delivered is what was acknowledged, in order, with maybe-rows here and there."""
    must, maybe = told.acknowledged_lines(), Counter(told.maybe_lines())
    known = Counter(must) + maybe
    position = 0
    for line in have:
        if position < len(must) and line == must[position]:
            position += 1
        elif maybe[line]:
            maybe[line] -= 1
        elif line in known and position < len(must):
            return [f"{_shorten(line[1])} comes where {_shorten(must[position][1])} (row {position}) was appended"]
    return []


def _time_findings(text: str, ended_between: tuple[datetime, datetime] | None) -> list[str]:
    if ended_between is None:
        return []
    at, (earliest, latest) = datetime.fromisoformat(text.replace("Z", "+00:00")), ended_between
    return [] if earliest <= at <= latest else [f"finished_at {at} is not between {earliest} and {latest}"]


# -- small things ------------------------------------------------------------------------------------------------------


def _require(question: str, findings: Sequence[str]) -> None:
    if findings:
        raise Verdict(question, findings)


def _names(uri: str) -> tuple[str, ...]:
    bare = uri.removeprefix("s3://")
    return uri, bare, bare.partition("/")[2]


def _is_bare_below(name: str, below: str) -> bool:
    return any(name.startswith(start) for start in _names(below) if start)


def _unzipped(content: bytes | None) -> bytes | None:
    """The content of exactly one gzip member, or None."""
    if content is None:
        return None
    unpacker = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        csv = unpacker.decompress(content)
    except zlib.error:
        return None
    return csv if unpacker.eof and not unpacker.unused_data else None


def _csv_lines(csv: bytes | None) -> list[Line]:
    header, *rows = split_rows(csv or b"") or [b""]
    return [(header, row) for row in rows]


def _shorten(row: bytes) -> str:
    return repr(row) if len(row) <= SHOWN_BYTES else f"{row[:SHOWN_BYTES]!r}... ({len(row)} bytes)"


def _show(lines: Counter[Line]) -> str:
    shown = ", ".join(_shorten(row) for _, row in list(lines)[:SHOWN_MAX])
    return shown + (", ..." if len(lines) > SHOWN_MAX else "")


def object_of(header: bytes, rows: bytes, number: int, prefix: str) -> tuple[str, bytes]:
    """A right object, for tests that fill a store themselves: its URI and its bytes."""
    csv = header + rows
    return f"{prefix}/{number:08d}-{hashlib.sha256(csv).hexdigest()[:12]}.csv.gz", gzip.compress(csv, mtime=0)
