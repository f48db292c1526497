"""The command `tracker-stream`: one file per subcommand, loaded when it is called."""

from __future__ import annotations

import importlib
from typing import Any

import click

_COMMANDS = {
    "run": "streaming.cli.run:run",
    "drain": "streaming.cli.drain:drain",
    "target": "streaming.cli.target:target",
}


class LazyGroup(click.Group):
    """Imports a subcommand only when it is needed, so that each starts as fast as it can."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _, name = _COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tracker-stream")
def main(**_: Any) -> None:
    """Record the resources of long jobs, and deliver every row to the Sentinel API and S3."""


if __name__ == "__main__":
    main()
