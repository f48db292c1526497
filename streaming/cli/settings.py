"""Where the command's settings come from: flag, environment, TOML file, default, in this order.

A TOML file that somebody named (`--config FILE`) or that lies in the user's own configuration directory may set all. One
that just lies in the working directory may have been put there by anybody: it may only say what the run is, and only if
it and its folder belong to the user and nobody else can write them.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from streaming import config
from streaming.config import Found, Setting
from streaming.errors import BadArgument

FILE_NAME = "tracker-stream.toml"
_MOST_AT_HAND = (
    8192  # bytes: of 32 kB of dots, which may have come with a repository, Python's reader makes half a minute
)
_WRITABLE_BY_OTHERS = 0o022  # where there is an ACL, the group's bits are its mask: they show whatever it grants


def resolve(chosen: tuple[Setting, ...], flags: Mapping[str, Any], named_file: Path | None) -> Found:
    """The chosen settings; of tags each by itself. Raises BadArgument for a flag, and for a named file that is none."""
    files = [read_file(named_file, chosen)] if named_file else [_file_at_hand(chosen), _users_file(chosen)]
    environment = config.environment(chosen)
    given = {name: value for name, value in flags.items() if value is not None and value != ()}
    if given_tags := given.get(config.TAGS.name):
        given[config.TAGS.name] = _tags_of_flags(given_tags)
    sources = [Found(given), environment, *files]
    values: dict[str, Any] = {setting.name: setting.default for setting in chosen}
    unusable: dict[str, str] = {}
    for found in reversed(sources):
        for name in found.values:
            unusable.pop(name, None)  # what counts more can be used
        tags = {**(values.get(config.TAGS.name) or {}), **found.values.get(config.TAGS.name, {})}
        values.update(found.values, **({config.TAGS.name: tags} if tags else {}))
        unusable.update(found.unusable)
    return Found(values, unusable)


def _tags_of_flags(flags: Iterable[str]) -> dict[str, str]:
    given = {}
    for flag in flags:
        key, equals, value = flag.partition("=")
        if not equals or not key:
            raise BadArgument(f"{config.TAGS.flag} {flag!r} is not KEY=VALUE", hint="e.g. --tag fold=3")
        given[key] = value
    return given


def users_path() -> Path:
    """The file in the user's own configuration directory."""
    from spool.directory import user_directory

    return user_directory("config") / FILE_NAME


def _users_file(chosen: tuple[Setting, ...]) -> Found:
    try:
        return _trusted_file(users_path(), chosen)
    except RuntimeError:  # no home directory is known
        return Found()


def _file_at_hand(chosen: tuple[Setting, ...]) -> Found:
    """The one in the working directory, which nobody named."""
    is_of_use = any(setting.describes_run for setting in chosen)
    return _trusted_file(Path(FILE_NAME), chosen, is_named=False) if is_of_use else Found()


def _trusted_file(path: Path, chosen: tuple[Setting, ...], *, is_named: bool = True) -> Found:
    """What a file holds, if only the user can have written it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return Found()
    except OSError as error:
        return Found(unusable={str(path): f"{path} cannot be read ({error.strerror})"})
    with open(descriptor, encoding="utf-8") as file:
        doubt = _who_else_writes(os.fstat(descriptor), os.stat(path.parent))
        if not doubt and not is_named and os.fstat(descriptor).st_size > _MOST_AT_HAND:
            doubt = "it is too large for a few words about a run"
        if doubt:
            hint = f"name it (--config {path}) if you trust it"
            return Found(unusable={str(path): f"{path} is not used, because {doubt}: {hint}"})
        try:
            return _checked(path, _parse(file.read()), chosen, is_named=is_named)
        except ValueError as error:
            return Found(unusable={str(path): f"the settings file {path} is not TOML ({error})"})


def _who_else_writes(file: os.stat_result, folder: os.stat_result) -> str:
    """Who but the user may have written it; "" if nobody."""
    if not stat.S_ISREG(file.st_mode):
        return "it is no file"
    for what, status in (("it", file), ("its folder", folder)):
        if status.st_uid != os.geteuid():
            return f"{what} belongs to another user"
        if status.st_mode & _WRITABLE_BY_OTHERS:
            return f"{what} can be written by others"
    return ""


def read_file(path: Path, chosen: tuple[Setting, ...] = config.RECORDING) -> Found:
    """The settings of a TOML file that the user named. Raises BadArgument if it cannot be read or is not TOML."""
    try:
        return _checked(path, _parse(path.read_text(encoding="utf-8")), chosen)
    except OSError as error:
        raise BadArgument(
            f"the settings file {path} cannot be read ({error.strerror})", hint="give another --config"
        ) from error
    except ValueError as error:
        raise BadArgument(f"the settings file {path} is not TOML ({error})", hint="correct it") from error


def _parse(text: str) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        content: dict[str, Any] = tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    return content


def _checked(path: Path, content: Mapping[str, Any], chosen: tuple[Setting, ...], *, is_named: bool = True) -> Found:
    """The values of the chosen settings, and what is wrong with any of the file's."""
    values, unusable = {}, {}
    for name, value in content.items():
        setting = config.BY_NAME.get(name)
        if setting is None:
            unusable[name] = _unknown(path, name)
        elif not is_named and not setting.describes_run:
            hint = f"put it into {users_path()}, or name the file (--config {path})"
            unusable[str(path)] = f"{path} lies here unasked, and sets more than what a run is ({name}): {hint}"
        elif setting in chosen:
            try:
                values[name] = setting.check(value, f"{path}: {name}")
            except BadArgument as error:
                unusable[name] = str(error)
    return Found(values, unusable)


def _unknown(path: Path, name: str) -> str:
    if name == "token":
        return f'{path} holds a token: put it into a file of its own, and token_file = "..." into the settings'
    import difflib

    close = difflib.get_close_matches(name, config.BY_NAME, n=1)
    hint = f"did you mean {close[0]}?" if close else f"known are: {', '.join(config.BY_NAME)}"
    return f"{path}: {name!r} is not a setting: {hint}"
