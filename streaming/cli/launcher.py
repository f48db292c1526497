"""What the command `tracker-stream` starts with: installed beside our packages as `tracker_stream.py`.

`streaming` is a common word. A user's own `streaming.py` on PYTHONPATH, or another distribution with a package of that
name, must not keep a job's command from running. So nothing but `sys` and `os` is imported before our own packages come
first; and if they cannot be had, `run` becomes the command, unrecorded, and says why in one line.
"""

from __future__ import annotations

import os
import sys

_OURS = os.path.join("streaming", "record", "command.py")
_SIGN = "StreamingManager"  # what the `__init__.py` of no other package of this name says
_WITHOUT_VALUE = ("-q", "--quiet")


def main() -> None:
    """Run the command line, by our own packages if they are there."""
    why = _put_us_first()
    if not why:
        _leave_no_halves()
        try:
            from streaming.cli import command_line

            if sys.argv[1:2] == ["run"]:
                import streaming.cli.commands.run  # noqa: F401 - now, while its command can still be run without it
        except Exception as error:  # noqa: BLE001 - whatever it is, the command is to run
            why = f"its own code cannot be loaded ({type(error).__name__}: {error})"
        else:
            command_line()
    sys.exit(_without_us(sys.argv[1:], why))


def _put_us_first() -> str:
    """The standard library first, then we, then the rest, and PYTHONPATH last. Why that cannot be; "" if it can."""
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep) if not sys.flags.ignore_environment else []
    later = [sys.path[0], *given] if not getattr(sys.flags, "safe_path", False) else given
    rest = [entry for entry in sys.path if entry and entry not in later]
    here = os.path.dirname(os.path.abspath(__file__))
    ours = [entry for entry in (here, *rest, *given) if entry and os.path.isfile(os.path.join(entry, _OURS))]
    if not ours:
        return "its packages are not found"
    if not _is_intact(ours[0]):
        return f"another distribution was installed over its package `streaming` in {ours[0]}"
    library = os.path.dirname(os.path.abspath(os.__file__))
    count = sum(
        1 for entry in rest if entry.endswith(".zip") or entry in (library, os.path.join(library, "lib-dynload"))
    )
    sys.path[:] = list(dict.fromkeys(rest[:count] + [ours[0]] + rest[count:] + [entry for entry in later if entry]))
    for name in [name for name in sys.modules if name.split(".")[0] in ("streaming", "spool")]:
        del sys.modules[name]  # somebody's sitecustomize had imported another one
    return ""


def _leave_no_halves() -> None:
    """Under a limit for files (`ulimit -f`) Python would write compiled modules in part, and fail on them ever after."""
    import resource

    if resource.getrlimit(resource.RLIMIT_FSIZE)[0] != resource.RLIM_INFINITY:
        sys.dont_write_bytecode = True


def _is_intact(folder: str) -> bool:
    try:
        with open(os.path.join(folder, "streaming", "__init__.py"), encoding="utf-8", errors="replace") as file:
            return _SIGN in file.read()
    except OSError:
        return False


def _without_us(words: list[str], why: str) -> int:
    """Become the command of `run`; for any other, say why not."""
    command = _command_of(words)
    what = "this run is NOT recorded" if command else "nothing can be done"
    print(f"tracker-stream: {what}: {why}", file=sys.stderr)
    if not command:
        print("tracker-stream:   repair: pip install --force-reinstall --no-deps tracker-stream", file=sys.stderr)
        print(
            "tracker-stream:   (better: an environment of its own, so that the packages do not meet)", file=sys.stderr
        )
        return 1
    import signal

    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them; the command must not
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        print(f"tracker-stream: {command[0]}: {error.strerror}", file=sys.stderr)
        return 127 if isinstance(error, FileNotFoundError) else 126


def _command_of(words: list[str]) -> list[str]:
    """CMD of `run [OPTIONS] [--] CMD...`, without knowing the options: all take a value but for the quiet ones."""
    if words[:1] != ["run"]:
        return []
    rest = words[1:]
    while rest and rest[0].startswith("-") and rest[0] != "--":
        option = rest.pop(0)
        has_value = option in _WITHOUT_VALUE or "=" in option or (option[1] != "-" and len(option) > 2)
        if not has_value and rest:
            rest.pop(0)
    return rest[1:] if rest[:1] == ["--"] else rest
