"""What must hold of any bytes that somebody hands over as a spool: the target of the fuzzers.

`survive` opens them as every command does. Whatever they are, only a SpoolError may come of it, only rows that were appended
are read, and nothing else in the directory changes.
"""

from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

from spool import Spool, SpoolError, queries
from spool.recovery.audit import audit
from spool.recovery.recover import surviving_damage
from streaming.read.status import summarize
from tests.support import spools

CANARY = b"somebody's thesis"


def survive(content: bytes, journal: bytes, directory: Path, *, rows: set[bytes]) -> None:
    """`rows`: what may be read; rows that nobody appended are a finding."""
    path = laid_out(content, journal, directory)
    canary = directory / "thesis.tex"
    canary.write_bytes(CANARY)
    for look in (_summary, _exported, _audited, _delivered):
        with suppress(SpoolError):
            for line in look(path):
                assert line in rows, (look, line)
    assert canary.read_bytes() == CANARY


def laid_out(content: bytes, journal: bytes, directory: Path) -> Path:
    directory.mkdir(mode=0o700, exist_ok=True)
    path = directory / "handed-over-0000000000000000.spool"
    path.write_bytes(content)
    spools.journal_of(path).write_bytes(journal)
    return path


def _summary(path: Path) -> list[bytes]:
    summary = summarize(path)
    assert len(str(summary.problem)) < 2000
    summary.as_json(0.0)
    return []


def _exported(path: Path) -> list[bytes]:
    with closing(Spool(path)) as spool:
        queries.counts(spool.connection)
        return spools.exported(spool).splitlines(keepends=True)


def _audited(path: Path) -> list[bytes]:
    assert all(isinstance(finding, str) for finding in audit(path))
    return []


def _delivered(path: Path) -> list[bytes]:
    return surviving_damage(path, _sealed, report=lambda recovered: _said(str(recovered)))


def _sealed(spool: Spool) -> list[bytes]:
    """What would be sent, each line once."""
    lines: list[bytes] = []
    asked: tuple[Callable[[], object], ...] = (
        spool.run,
        spool.sent_uris,
        spool.csv_offset,
        spool.last_header,
        spool.is_own,
    )
    for question in asked:
        question()
    for segment in spool.seal_pending():
        lines += spool.csv(segment).splitlines(keepends=True)[1:]
    assert len(lines) == len(set(lines)), "a row twice"
    return lines


def _said(text: str) -> None:
    assert len(text) < 2000
