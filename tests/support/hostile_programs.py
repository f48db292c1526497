"""A program that makes it hard for us, and the judge of what it delivered."""

from pathlib import Path

from tests.support import oracle, programs
from tests.support.far_end import FarEnd
from tests.support.processes import Home, ProgramResult, start_program, start_script, wait_gone


class Hostile:
    """Runs one program in these surroundings, and judges what it delivered."""

    def __init__(self, home: Home, marker: str, far_end: FarEnd) -> None:
        self.home, self.marker, self.far_end = home, marker, far_end

    def environment(self, **more: str) -> dict[str, str]:
        return programs.surroundings(self.home, self.marker, self.far_end, **more)

    def run(self, script: str | Path, **more: str) -> ProgramResult:
        with start_script(script, self.environment(**more)) as program:
            return program.wait()

    def run_command(self, command: list[str | Path], **more: str) -> ProgramResult:
        with start_program(command, self.environment(**more)) as program:
            return program.wait()

    def judge(self, count: int, *, run_status: str = "finished", exit_code: int | None = 0) -> None:
        self.far_end.wait_finished()
        wait_gone(self.marker)
        oracle.judge(self.far_end.evidence(), programs.told(count), run_status=run_status, exit_code=exit_code)

    def log(self) -> str:
        return programs.log_of(self.home.spool_dir)
