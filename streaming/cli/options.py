"""Flags made from the table of settings, so that flag, environment, TOML file and default count in that order."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from streaming import config
from streaming.cli import settings
from streaming.config import Kind, Setting
from streaming.errors import BadArgument


class Seconds(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # generic from click 8.4 on
    """A number of seconds, at least `least`."""

    name = "seconds"

    def __init__(self, least: float = 0.0) -> None:
        self._least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            number = float(value)
        except ValueError:
            number = -1.0
        if not self._least <= number < float("inf"):
            self.fail(f"{value!r} is not a number of seconds, {self._least:g} or more", param, ctx)
        return number


class Checked(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """What the setting's own rules take."""

    def __init__(self, setting: Setting) -> None:
        self.name = "text"
        self._setting = setting

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return self._setting.parse(value, self._setting.flag)
        except BadArgument as error:
            return self.fail(str(error), param, ctx)


def with_settings(*chosen: Setting, is_recording: bool = False) -> Callable[[Any], Any]:
    """Adds `--config` and a flag for each setting; the command gets their values under the settings' names,
    and always a directory of spools.

    A flag that cannot be used is a usage error. What the environment or a file holds is one, too, but not for a command
    that records: it gets `unusable`, what is wrong by the setting's name, and goes on.
    """

    def decorate(command: Any) -> Any:
        @functools.wraps(command)
        def with_values(*args: Any, config_file: Path | None, **given: Any) -> Any:
            from spool import directory

            flags = {setting.name: given.pop(setting.name) for setting in chosen}
            found = settings.resolve(chosen, flags, config_file)
            if is_recording:
                given["unusable"] = found.unusable
            elif found.unusable:
                raise click.UsageError("; ".join(found.unusable.values()))
            values = dict(found.values)
            if config.SPOOL_DIR in chosen:
                values[config.SPOOL_DIR.name] = directory.chosen(values[config.SPOOL_DIR.name])
            return command(*args, **given, **values)

        for setting in reversed(chosen):
            with_values = _option(setting)(with_values)
        return click.option(
            "--config",
            "-c",
            "config_file",
            type=click.Path(dir_okay=False, path_type=Path),
            help=f"TOML file with settings.  [default: {settings.FILE_NAME} in the user's configuration directory;"
            " names and tags also from the one in the working directory]",
        )(with_values)

    return decorate


def _option(setting: Setting) -> Any:
    if setting is config.TAGS:
        return click.option(
            "--tag", "tags", multiple=True, metavar="K=V", help=f"{setting.help}  [env: {setting.variable}]"
        )
    kinds: dict[Kind, dict[str, Any]] = {
        Kind.SECONDS: {"type": Seconds(setting.least)},
        Kind.SWITCH: {"is_flag": True, "default": None},
        Kind.MODE: {"type": click.Choice([mode.value for mode in config.Mode])},
        Kind.URL: {"type": Checked(setting), "metavar": "URL"},
        Kind.TOKEN_FILE: {"type": Checked(setting), "metavar": "PATH"},
        Kind.TEXT: {"metavar": "TEXT"},
    }
    default = "" if setting.default in (None, False) else f"; default: {setting.default}"
    return click.option(
        *(setting.flags or (setting.flag,)),
        setting.name,
        help=f"{setting.help}  [env: {setting.variable}{default}]",
        **kinds[setting.kind],
    )


def complete_run(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """For the shell's completion: the runs that begin like that."""
    from spool import directory

    paths = directory.spool_paths(directory.chosen())
    names = [*map(directory.short_name, paths), *(path.stem for path in paths)]
    return [name for name in names if name.startswith(incomplete)]
