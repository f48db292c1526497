"""The runs of a soak: started, struck by faults, and judged."""

import random
import signal
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spool import Spool, SpoolError, directory, queries
from tests.soak import player
from tests.support import oracle
from tests.support.far_end import FarEnd
from tests.support.oracle import Line, Told, Verdict, split_rows
from tests.support.processes import Process, find, kill, start_program

SORTS = ("append", "csv", "run")
ENDINGS = {"stop": 0, "failed": 3, "nothing": 0, "os._exit": 5}
WORK = "import sys, time; time.sleep(float(sys.argv[1]))"


@dataclass
class SoakRun:
    """One user's program and what became of its rows."""

    name: str
    sort: str
    ending: str
    place: Path
    program: Any
    struck: list[str] = field(default_factory=list)
    exit_code: int | None = None
    stderr: bytes = b""
    findings: list[str] = field(default_factory=list)
    row_count: int = 0
    object_count: int = 0

    @classmethod
    def start(cls, number: int, chance: random.Random, place: Path, environment: dict[str, str]) -> "SoakRun":
        sort, ending = SORTS[number % len(SORTS)], chance.choice(list(ENDINGS))
        name, seconds = f"soak-{number:04d}", f"{chance.uniform(4, 30):.1f}"
        if sort == "run":
            ending = "stop"
            command = ["-m", "streaming", "run", "-n", name, "-i", "0.2", "--upload-interval", "1", "--"]
            command += [sys.executable, "-c", WORK, seconds]
        else:
            command = ["-m", "tests.soak.player", sort, name, seconds, ending, str(place)]
        return cls(name, sort, ending, place, start_program([sys.executable, *command], environment))

    def poll(self) -> bool:
        """Whether its program has ended; then its exit code is judged."""
        if self.exit_code is None and self.program.popen.poll() is not None:
            result = self.program.wait()
            self.exit_code, self.stderr = result.exit_code, result.stderr
            if not self.struck and (self.exit_code != ENDINGS[self.ending] or oracle.TRACEBACK in self.stderr):
                self.findings.append(f"felt: exit code {self.exit_code}, {self.stderr[-600:]!r}")
        return self.exit_code is not None

    def strike_tracker(self, number: signal.Signals) -> None:
        self.struck.append(number.name)
        if process := find(self.program.pid):
            kill(process, number)

    # -- afterwards

    def judge(self, far_end: FarEnd, spools: dict[str, Path]) -> None:
        mine = [run for run in far_end.runs if run.metadata.get("job_name") == self.name]
        told = self.told(spools.get(self.name))
        self.row_count = len(told.acknowledged_lines())
        if len(mine) != 1:
            if mine or self.row_count:
                self.findings.append(f"registered {len(mine)} times, {self.row_count} rows acknowledged")
            return
        evidence = far_end.evidence(mine[0].run_id)
        self.object_count = len(evidence.own_uris())
        try:
            oracle.judge(evidence, told)
        except Verdict as verdict:
            self.findings.append(str(verdict))

    def told(self, spool: Path | None) -> Told:
        """What was acknowledged: as the program wrote it down, or (of a tracked command) as the spool has it."""
        if self.sort == "append":
            acks = self.place / f"{self.name}.acks"
            numbers = [int(line) for line in acks.read_text().split()] if acks.exists() else []
            return self._told([*numbers], [len(numbers)])
        if self.sort == "csv":
            csv_path = self.place / f"{self.name}.csv"
            csv = csv_path.read_bytes() if csv_path.exists() and spool else b""
            return Told(player.HEADER, [row for row in split_rows(csv)[1:] if row.endswith(b"\n")])
        lines = list(exported(spool)) if spool else []
        return Told(lines[0][0] if lines else b"", lines)

    def _told(self, numbers: list[int], maybe: list[int]) -> Told:
        sure = [player.rows_of(self.name, number) for number in numbers]
        return Told(player.HEADER, sure, [player.rows_of(self.name, number) for number in maybe])


def exported(path: Path) -> Iterator[Line]:
    with closing(Spool(path)) as spool:
        for header, rows in queries.exported(spool.connection):
            yield from ((header, row) for row in split_rows(rows))


def spools_by_name(spool_dir: Path) -> dict[str, Path]:
    """The spools by the name of their run. One that was being created when its program was killed has no name yet."""
    found = {}
    for path in directory.spool_paths(spool_dir):
        try:
            with closing(Spool(path)) as spool:
                found[str(spool.run().metadata.get("job_name"))] = path
        except SpoolError:
            continue
    return found


def is_uploader(process: Process) -> bool:
    return " uploader " in process.command
