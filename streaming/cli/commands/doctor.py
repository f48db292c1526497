"""`tracker-stream doctor`: check what recording and delivering need, and say what to do about the rest."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from itertools import chain
from pathlib import Path

import click

from streaming import config
from streaming.cli import doctor_checks as checks
from streaming.cli import options
from streaming.cli.doctor_checks import Context, Finding, Level
from streaming.cli.terminal.screen import stdout
from streaming.cli.terminal.table import Line, clean
from streaming.read.names import find_runs

SCHEMA_VERSION = 1
_STYLES = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "red"}


@click.command()
@click.argument("runs", metavar="[RUN]...", nargs=-1, shell_complete=options.complete_run)
@click.option("--json", "as_json", is_flag=True, help="One JSON document, for programs.")
@options.with_settings(config.SPOOL_DIR, *config.DELIVERY, is_recording=True)
def doctor(
    runs: tuple[str, ...], as_json: bool, unusable: Mapping[str, str], spool_dir: Path, **addresses: str | None
) -> None:
    """Check that this machine can record and deliver; with RUN, that the run's file is intact. Exit code 1 if not.

    No rows are sent; each check of the network takes a few seconds at most. A run's file is read whole, and its rows are
    compared with their checksums.

    \b
    Example: tracker-stream doctor
    """
    usable = {name: None if name in unusable else text for name, text in addresses.items()}
    context = Context(spool_dir, **usable, environment=os.environ)
    screen, found = stdout(), []
    settings = (Finding(Level.FAIL, "settings", text) for text in unusable.values())
    if runs:
        findings = chain.from_iterable(map(checks.check_run, find_runs(context.spool_dir, runs)))
    else:
        findings = chain(settings, checks.run_checks(context))
    for finding in findings:
        found.append(finding)
        if not as_json:
            screen.write(_lines(finding))
    if as_json:
        click.echo(json.dumps(_document(found), indent=2))
    sys.exit(1 if any(finding.level is Level.FAIL for finding in found) else 0)


def _lines(finding: Finding) -> list[Line]:
    level = (f"{finding.level.value:<4}", _STYLES[finding.level])
    lines: list[Line] = [[level, (f"  {finding.check + ':':<16} {clean(finding.text)}", "")]]
    if finding.hint:
        lines.append([(f"      -> {clean(finding.hint)}", "bold")])
    return lines


def _document(found: list[Finding]) -> dict[str, object]:
    return {
        "schema_version": SCHEMA_VERSION,
        "ok": all(finding.level is not Level.FAIL for finding in found),
        "findings": [
            {"level": each.level.value, "check": each.check, "text": each.text, "hint": each.hint or None}
            for each in found
        ],
    }
