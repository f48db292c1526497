"""The oracle's last question: no token and no key on disk, in logs, in argv, in an environment."""

import base64
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

from tests.support.oracle import Verdict

PIECE_BYTES = 1 << 20
CANARY_MIN = 8  # characters; shorter ones would be found by chance
WHERE_SHOWN_MAX = 20


def secret(
    canaries: Iterable[str],
    *,
    directories: Iterable[Path] = (),
    logs: Iterable[str | bytes] = (),
    pids: Iterable[int] = (),
    except_files: Collection[Path] = (),
) -> None:
    """None of the canaries, plain or encoded, is in any byte of these.

    Files are read whole, so deleted pages and journals count, and so do file names; of a process: its argv, its
    environment, and every regular file that it holds open, even one already deleted.
    """
    needles = [(canary, form) for canary in canaries if len(canary) >= CANARY_MIN for form in _forms(canary)]
    if not needles:
        raise ValueError("no canary long enough to look for: this check could not fail")
    places = (*_files(directories, except_files), *_logs(logs), *_processes(pids))
    findings = [f"{_hint(canary)} in {name}" for name, path in places for canary in _found(path, needles)]
    if findings:
        raise Verdict("secret", findings[:WHERE_SHOWN_MAX])


def _forms(canary: str) -> set[bytes]:
    plain = canary.encode()
    shifted = (base64.b64encode(b"\0" * shift + plain)[4 if shift else 0 : -4] for shift in range(3))
    return {plain, quote(canary, safe="").encode(), plain.hex().encode(), canary.encode("utf-16-le"), *shifted}


def _hint(canary: str) -> str:
    return f"{canary[:18]}... ({len(canary)} characters)"


def _files(directories: Iterable[Path], except_files: Collection[Path]) -> Iterator[tuple[str, Path | bytes]]:
    for directory in directories:
        for folder, _, names in os.walk(directory):
            for path in (Path(folder, name) for name in names):
                yield f"the name of {path}", str(path).encode()
                if path not in except_files and path.is_file() and not path.is_symlink():
                    yield str(path), path


def _logs(logs: Iterable[str | bytes]) -> Iterator[tuple[str, bytes]]:
    for number, text in enumerate(logs):
        yield f"log text {number}", text.encode() if isinstance(text, str) else text


def _processes(pids: Iterable[int]) -> Iterator[tuple[str, Path | bytes]]:
    for pid in pids:
        root = Path("/proc", str(pid))
        yield from ((str(root / name), root / name) for name in ("cmdline", "environ"))
        yield from ((f"{link} -> {_target(link)}", link) for link in _open_files(root / "fd"))


def _open_files(folder: Path) -> list[Path]:
    try:
        return [link for link in folder.iterdir() if _target(link).startswith("/") and link.is_file()]
    except OSError:
        return []  # it ended meanwhile


def _target(link: Path) -> str:
    try:
        return os.readlink(link)
    except OSError:
        return ""


def _found(place: Path | bytes, needles: Sequence[tuple[str, bytes]]) -> set[str]:
    overlap = max(len(form) for _, form in needles)
    pieces = [place] if isinstance(place, bytes) else _pieces(place, overlap)
    return {canary for piece in pieces for canary, form in needles if form in piece}


def _pieces(path: Path, overlap: int) -> Iterator[bytes]:
    """The file's bytes in pieces that overlap, so that nothing hides on a border."""
    tail = b""
    try:
        with path.open("rb") as file:
            while piece := file.read(PIECE_BYTES):
                yield tail + piece
                tail = (tail + piece)[-overlap:]
    except (FileNotFoundError, ProcessLookupError):
        return  # gone meanwhile
