"""Flags made from the table of settings, so that flag, environment, TOML file and default count in that order."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from streaming.cli import settings
from streaming.cli.settings import Kind, Setting
from streaming.errors import BadArgument

_FILE_KEY = "tracker_stream.settings_file"


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


def with_settings(*chosen: Setting) -> Callable[[Any], Any]:
    """Adds `--config` and a flag for each setting. Values arrive under the settings' names; use `as_given` on tags."""

    def decorate(command: Any) -> Any:
        for setting in reversed(chosen):
            command = _option(setting)(command)
        return click.option(
            "--config",
            "-c",
            type=click.Path(dir_okay=False, path_type=Path),
            is_eager=True,
            expose_value=False,
            callback=_read_file,
            help=f"TOML file with settings.  [default: {settings.DEFAULT_FILE}, if it is there]",
        )(command)

    return decorate


def _option(setting: Setting) -> Any:
    if setting is settings.TAGS:
        return click.option(
            "--tag", "tags", multiple=True, metavar="K=V", help=f"{setting.help}  [env: {setting.variable}]"
        )
    kinds: dict[Kind, dict[str, Any]] = {
        Kind.SECONDS: {"type": Seconds(setting.least)},
        Kind.SWITCH: {"is_flag": True},
        Kind.MODE: {"type": click.Choice([mode.value for mode in settings.Mode])},
        Kind.TEXT: {"metavar": "TEXT"},
    }
    return click.option(
        *(setting.flags or (setting.flag,)),
        setting.name,
        default=setting.default,
        envvar=setting.variable,
        show_envvar=True,
        show_default=setting.default is not None and setting.kind is not Kind.SWITCH,
        help=setting.help,
        **kinds[setting.kind],
    )


def _read_file(ctx: click.Context, _param: click.Parameter, path: Path | None) -> None:
    """Before any other flag is looked at: what the file says becomes the default."""
    try:
        content = settings.read_file(path)
    except BadArgument as error:
        raise click.UsageError(str(error), ctx) from error
    ctx.meta[_FILE_KEY] = content
    ctx.default_map = {name: value for name, value in content.items() if name != settings.TAGS.name}


def all_tags(ctx: click.Context, flags: tuple[str, ...]) -> dict[str, str]:
    """Tags of flags, environment and file together. Raises BadArgument."""
    environment = os.environ.get(settings.TAGS.variable, "")
    return settings.merge_tags(flags, environment, ctx.meta.get(_FILE_KEY, {}).get(settings.TAGS.name, {}))


def spool_directory(given: str | None) -> Path:
    """Where runs are kept: what was given, else the default."""
    from spool import directory

    return Path(given).expanduser().absolute() if given else directory.default_directory()


def complete_run(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """For the shell's completion: the runs that begin like that."""
    from spool import directory

    paths = directory.spool_paths(directory.default_directory())
    names = [*map(directory.short_name, paths), *(path.stem for path in paths)]
    return [name for name in names if name.startswith(incomplete)]
