"""What each step leads to, found out by making it for real, once for all worlds in which it sees the same.

An engine's step depends on the file and the far end as they are now, on what the engine holds in its variables, and on
what becomes of its call: not on where the others are. So worlds with many engines are put together from steps that single
engines have made. Files, far ends and positions have numbers; equal ones have the same.
"""

from __future__ import annotations

import struct
import zlib
from collections import OrderedDict
from collections.abc import Callable
from contextlib import closing
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

from spool import RunState, Spool
from streaming.upload.model import NO_WISHES, Wishes
from tests.model.engines import Engine, Stage
from tests.model.positions import NOW, Eyes
from tests.support import plays
from tests.support.memory_far_end import MemoryFarEnd

NOBODY = -1
IDLE = 0  # the position of an engine that is not amid a turn
ANEW = Wishes(anew=True)
PAUSED_MAX = 200  # engines; each has its file open
_CHANGES_AT = (24, 92)  # of a database's header: SQLite believes its cache as long as they are the same
_CHANGES_STEP = 1000  # more than anybody commits between two files that are laid


class View(NamedTuple):
    """All that an engine can see at a step, and all that decides how it goes on. `fault`: what becomes of its call."""

    file: int
    far_end: int
    position: int
    fault: str = ""
    is_copy: bool = False
    tracker_is_dead: bool = False
    is_asked_anew: bool = False


class After(NamedTuple):
    """What a step leads to."""

    file: int
    far_end: int
    position: int = IDLE


class File(NamedTuple):
    """A spool's file. `is_over`: no turn changes anything any more, unless a person asks for it."""

    packed: bytes
    is_finished: bool
    is_over: bool


class Numbers:
    """Each different thing's number, by what it is known by."""

    def __init__(self) -> None:
        self._numbers: dict[bytes, int] = {}
        self.things: list[Any] = []

    def of(self, mark: object, make: Callable[[], object]) -> int:
        digest = blake2b(repr(mark).encode(), digest_size=16).digest()
        number = self._numbers.setdefault(digest, len(self.things))
        if number == len(self.things):
            self.things.append(make())
        return number


class Steps:
    """Every step that was made, and the engines that wait where one has led."""

    def __init__(self, place: Path, *, may_refuse: bool = True) -> None:
        self._may_refuse = may_refuse
        self._eyes = Eyes()
        (template,) = place.glob("*.template")
        path = template.with_suffix(".spool")
        far_end = MemoryFarEnd()
        self._stages = (Stage(path, far_end), Stage(place / "elsewhere" / path.name, far_end))
        self._changes = _CHANGES_STEP
        self._files, self._far_ends, self._positions = Numbers(), Numbers(), Numbers()
        self._known: dict[object, Any] = {}
        self._paused: OrderedDict[int, Engine] = OrderedDict()
        self.made = 0
        self.made_again = 0  # to have an engine where it was once
        self._positions.of((), lambda: ("", None))
        path.write_bytes(template.read_bytes())
        path.chmod(0o600)
        self.origin = After(self.number_of_file(path), self.number_of_far_end(far_end))

    def file(self, number: int) -> File:
        found: File = self._files.things[number]
        return found

    def far_end(self, number: int) -> MemoryFarEnd:
        found: MemoryFarEnd = self._far_ends.things[number]
        return found

    def paused_at(self, position: int) -> str:
        """The failpoint."""
        return str(self._positions.things[position][0])

    def after(self, view: View) -> After:
        """What an engine's step leads to. Raises AssertionError for what must never happen in one."""
        if view not in self._known:
            self._known[view] = self._make(view)
        found: After = self._known[view]
        return found

    def appended(self, file: int, number: int) -> int:
        """The file with one more batch."""
        return self._written(file, ("append", number), lambda spool: spool.append([plays.batch_of(number)]))

    def ended(self, file: int) -> int:
        """The file of a run whose tracker has ended it."""
        return self._written(file, ("end",), lambda spool: spool.end(exit_code=0, run_status="finished", ended_at=NOW))

    def forgotten(self, far_end: int) -> int:
        """The far end without its runs."""
        far = self.far_end(far_end).copy()
        far.forget_runs()
        return self.number_of_far_end(far)

    def number_of_file(self, path: Path) -> int:
        """Of what lies there."""
        is_finished, is_over = self._eyes.state(path) is RunState.FINISHED, self._eyes.is_over(path)
        return self._files.of(
            self._eyes.content(path), lambda: File(zlib.compress(path.read_bytes(), 1), is_finished, is_over)
        )

    def number_of_far_end(self, far_end: MemoryFarEnd) -> int:
        runs = [(run.run_id, repr(run.finish)) for run in far_end.runs.values()]
        stored = sorted((uri, blake2b(body).digest()) for uri, body in far_end.objects.items())
        return self._far_ends.of((runs, stored, far_end.forgotten_count), far_end.copy)

    def close(self) -> None:
        for engine in self._paused.values():
            engine.crash()
        self._eyes.close_all()

    # -- making one

    def _make(self, view: View) -> After:
        engine = self._engine_at(view)
        self._show(view)
        engine.go_on(view.fault)
        self.made += 1
        stage = self._stages[view.is_copy]
        mark = engine.position(may_refuse=self._may_refuse)
        position = self._positions.of((mark, view.is_copy) if mark else (), lambda: (engine.paused_at, view))
        self._keep(position, engine)
        return After(self.number_of_file(stage.path), self.number_of_far_end(stage.far_end), position)

    def _engine_at(self, view: View) -> Engine:
        """An engine in the position that the view has, if need be one that does again what led there."""
        ways = [view]
        while ways[-1].position != IDLE and ways[-1].position not in self._paused:
            ways.append(self._positions.things[ways[-1].position][1])
        first = ways.pop()
        wishes = ANEW if first.is_asked_anew else NO_WISHES
        engine = self._paused.pop(first.position, None) or Engine(self._stages[view.is_copy], wishes)
        for way in [first, *reversed(ways)][:-1]:
            self._show(way)
            engine.go_on(way.fault)
            self.made_again += 1
        return engine

    def _keep(self, position: int, engine: Engine) -> None:
        if position == IDLE or position in self._paused:
            engine.crash()
            return
        self._paused[position] = engine
        if len(self._paused) > PAUSED_MAX:
            self._paused.popitem(last=False)[1].crash()

    def _written(self, file: int, what: tuple[object, ...], write: Callable[[Spool], object]) -> int:
        key = (file, *what)
        if key not in self._known:
            path = self._stages[0].path
            self._lay(path, file)
            with closing(Spool(path, clock=lambda: NOW)) as spool:
                write(spool)
            self._known[key] = self.number_of_file(path)
        return int(self._known[key])

    # -- what is shown, and what is seen then

    def _show(self, view: View) -> None:
        stage = self._stages[view.is_copy]
        self._lay(stage.path, view.file)
        stage.far_end.__dict__.update(vars(self.far_end(view.far_end).copy()))
        stage.tracker_is_dead = view.tracker_is_dead

    def _lay(self, path: Path, number: int) -> None:
        """In place, and with a header that tells everybody who has it open that it has changed."""
        content = bytearray(zlib.decompress(self.file(number).packed))
        self._changes += _CHANGES_STEP
        for at in _CHANGES_AT:
            struct.pack_into(">I", content, at, self._changes)
        if not path.exists():
            path.touch(0o600)
        with path.open("r+b") as file:
            file.write(content)
            file.truncate()
