"""Runs of every kind, at once, under a schedule of faults drawn from a seed; then the oracle's verdict on each."""

import argparse
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

from spool import RunState, Spool
from tests.soak import schedule
from tests.soak.runs import SoakRun, is_uploader, spools_by_name
from tests.soak.schedule import Event
from tests.support import secrecy
from tests.support.far_end import FarEnd
from tests.support.oracle import Verdict
from tests.support.processes import Home, Program, clean_environment, kill, marked, new_marker, start_program

CREDENTIALS_LIFETIME_S = 20.0
POLL_S = 0.05
CANARIES_MAX = 90
RECOVERY_S = 300.0  # after the faults: how long the rest may take


class Soak:
    """One soak: `run` until the time is over, `recover`, then `verdict`."""

    def __init__(self, far_end: FarEnd, place: Path, seed: int, runs_at_once: int) -> None:
        self.far_end = far_end
        self.runs_at_once = runs_at_once
        self.place = place
        self.home = Home.below(place)
        self.marker = new_marker()
        self.environment = clean_environment(self.home, self.marker, **far_end.environment())
        self.environment["TRACKER_STREAM_LINGER"] = "20"
        self.chance = random.Random(seed)
        self.runs: list[SoakRun] = []
        self.drains: list[Program] = []
        self.later: list[tuple[float, Event]] = []
        self.began_at = time.monotonic()

    def now_s(self) -> float:
        return time.monotonic() - self.began_at

    def run(self, events: list[Event], duration_s: float) -> None:
        waiting = list(events)
        while self.now_s() < duration_s:
            self._keep_busy()
            while waiting and waiting[0].at_s <= self.now_s():
                self._carry_out(waiting.pop(0))
            self._end_what_lasted()
            time.sleep(POLL_S)

    def _keep_busy(self) -> None:
        active = [run for run in self.runs if not run.poll()]
        if len(active) < self.runs_at_once:
            self.runs.append(SoakRun.start(len(self.runs), self.chance, self.place, self.environment))

    def _carry_out(self, event: Event) -> None:
        print(event, flush=True)
        if fault := schedule.fault_of(event):
            self.far_end.fail_next(event.kind, fault, times=event.times)
        elif event.name == "outage":
            self.far_end.down(event.door)
            self.later.append((self.now_s() + event.lasts_s, event))
        elif event.name == "drain":
            command = [sys.executable, "-m", "streaming", "drain", "--timeout", "20"]
            self.drains.append(start_program(command, self.environment))
        elif not schedule.change_credentials(event, self.far_end):
            self._strike(event)

    def _strike(self, event: Event) -> None:
        number = schedule.SIGNALS[event.name]
        uploaders = [process for process in marked(self.marker) if is_uploader(process)]
        active = [run for run in self.runs if run.exit_code is None]
        if event.name in ("kill tracker", "kill both") and active:
            active[event.target % len(active)].strike_tracker(number)
        if event.name != "kill tracker" and uploaders:
            chosen = uploaders if event.name == "kill both" else [uploaders[event.target % len(uploaders)]]
            for process in chosen:
                kill(process, number)
            if number is signal.SIGSTOP:
                self.later.append((self.now_s() + 2.0, event))

    def _end_what_lasted(self) -> None:
        for item in [item for item in self.later if item[0] <= self.now_s()]:
            self.later.remove(item)
            self._undo(item[1])

    def _undo(self, event: Event) -> None:
        if event.name == "outage":
            self.far_end.up(event.door)
        else:
            for process in marked(self.marker):
                kill(process, signal.SIGCONT)

    def recover(self) -> None:
        """The faults stop. Programs end by themselves; what is left behind is drained, as a user would."""
        self.far_end.clear()
        self.far_end.up()
        self._undo(Event(0, "stop and go on"))
        until = time.monotonic() + RECOVERY_S
        while time.monotonic() < until and not self._have_all_ended():
            time.sleep(POLL_S)
        while time.monotonic() < until and self._is_something_left():
            self._drain(until - time.monotonic())
            time.sleep(1)
        for program in (*self.drains, *(run.program for run in self.runs)):
            program.__exit__()
        while time.monotonic() < until and marked(self.marker):
            time.sleep(POLL_S)

    def _drain(self, within_s: float) -> None:
        command = [sys.executable, "-m", "streaming", "drain", "--timeout", "60"]
        with start_program(command, self.environment) as drain:
            try:
                drain.wait(max(1.0, within_s))
            except AssertionError as late:
                print(f"drain: {late}")

    def _have_all_ended(self) -> bool:
        ended = [run.poll() for run in self.runs]  # each is asked
        return all(ended)

    def _is_something_left(self) -> bool:
        return any(state_of(path) is not RunState.FINISHED for path in spools_by_name(self.home.spool_dir).values())

    def verdict(self) -> int:
        spools = spools_by_name(self.home.spool_dir)
        for run in self.runs:
            run.judge(self.far_end, spools)
        problems = [
            f"{run.name} ({run.sort}, {run.ending}, {run.struck}): {text}" for run in self.runs for text in run.findings
        ]
        problems += [f"left behind: {process}" for process in marked(self.marker)]
        print(self._table(), flush=True)
        try:
            secrecy.secret(self._canaries(), directories=[self.place])
        except Verdict as verdict:
            problems.append(str(verdict))
        print("\n".join(problems) or "Nothing lost, nothing doubled, every run finished.")
        return 1 if problems else 0

    def _canaries(self) -> list[str]:
        """The token, and some of the thousands of keys: each is looked for in every byte of every file."""
        secrets = self.far_end.secrets()
        keys = [secret for secret in secrets if secret != self.far_end.token]
        return [self.far_end.token, *self.chance.sample(keys, min(CANARIES_MAX, len(keys)))]

    def _table(self) -> str:
        lines = [f"\n{'kind':8}{'runs':>6}{'killed':>8}{'rows':>9}{'objects':>9}{'wrong':>7}"]
        for sort in ("append", "csv", "run", "all"):
            mine = [run for run in self.runs if sort in ("all", run.sort)]
            killed, wrong = sum(bool(run.struck) for run in mine), sum(bool(run.findings) for run in mine)
            rows, objects = sum(run.row_count for run in mine), sum(run.object_count for run in mine)
            lines.append(f"{sort:8}{len(mine):6}{killed:8}{rows:9}{objects:9}{wrong:7}")
        counts = ", ".join(
            f"{self.far_end.journal.count(kind)} {kind}" for kind in ("register", "put", "refresh", "finish")
        )
        return "\n".join([*lines, f"requests: {counts}"])


def state_of(path: Path) -> RunState:
    spool = Spool(path)
    try:
        return spool.run().state
    finally:
        spool.close()


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
    parser.add_argument("--runs", type=int, default=5, help="so many at once")
    parser.add_argument("--kills", type=float, default=0.0, help="kill an uploader so often a minute, besides all else")
    parser.add_argument("--keep", type=Path, help="leave everything in this directory, to be looked at")
    options = parser.parse_args()
    events = schedule.draw(random.Random(options.seed), options.minutes * 60, kills_per_minute=options.kills)
    print(f"soak: seed {options.seed}, {options.minutes:g} minutes, {len(events)} faults, {options.runs} runs at once")
    with tempfile.TemporaryDirectory(prefix="soak-") as temporary, FarEnd() as far_end:
        place = (options.keep or Path(temporary)).absolute()
        place.mkdir(exist_ok=True, parents=True)
        far_end.credentials_lifetime_s = CREDENTIALS_LIFETIME_S
        soak = Soak(far_end, place, options.seed, options.runs)
        soak.run(events, options.minutes * 60)
        print("The faults have stopped.", flush=True)
        soak.recover()
        return soak.verdict()


if __name__ == "__main__":
    sys.exit(main())
