"""`scripts/bench`: measure, print the table. Exit code 0 whether or not every target is met; the table says it."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import machine, table
from benchmarks.append import measure_append
from benchmarks.browser import measure_browser
from benchmarks.cycle import measure_cycle
from benchmarks.drain import measure_drain
from benchmarks.imports import measure_import
from benchmarks.node import measure_node
from benchmarks.reading import measure_reading
from benchmarks.short_runs import measure_short_runs
from benchmarks.start import measure_start
from benchmarks.tracker import measure_tracker
from benchmarks.unfelt import measure_unfelt
from benchmarks.upload import measure_upload
from benchmarks.uploader import measure_uploader
from benchmarks.world import World, world

MEASUREMENTS: dict[str, Callable[[World], table.Measured]] = {
    "1": measure_cycle,
    "2,3": measure_append,
    "4": measure_drain,
    "5": measure_start,
    "6": measure_import,
    "7": measure_uploader,
    "8": measure_tracker,
    "9": measure_unfelt,
    "10": measure_upload,
    "11,12,13,14": measure_reading,
    "15": measure_node,
    "16,17": measure_short_runs,
    "18": measure_browser,
}


def main() -> None:
    options = _options()
    told, measured = table.from_json(json.loads(options.read.read_text())) if options.read else _measured(options)
    if options.json:
        print(json.dumps(table.as_json(told, measured), indent=1))
    elif options.markdown:
        print(table.as_markdown(machine.sentence(told), measured))
    else:
        print(table.as_text(machine.sentence(told), measured))


def _measured(options: argparse.Namespace) -> tuple[dict[str, Any], list[table.Measured]]:
    began_at = time.monotonic()
    measured = []
    with world(is_quick=options.quick, below=options.dir) as place:
        for rows in chosen(options.only):
            print(f"measuring row {rows} ...", file=sys.stderr, flush=True)
            measured.append(MEASUREMENTS[rows](place))
            print(table.lines_of(measured[-1]), file=sys.stderr, flush=True)
    took_s = time.monotonic() - began_at
    return machine.describe(is_quick=options.quick, took_s=took_s, below=options.dir), measured


def chosen(only: str | None) -> list[str]:
    """The measurements that cover these rows of the table, in order; all without any."""
    wanted = set(only.split(",")) if only else None
    return [rows for rows in MEASUREMENTS if wanted is None or wanted & set(rows.split(","))]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer and smaller measurements, under 2 minutes")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON document, for machines")
    form.add_argument("--markdown", action="store_true", help="the README's section, between its markers")
    parser.add_argument("--read", type=Path, metavar="FILE", help="measure nothing, show what --json once printed")
    parser.add_argument("--only", metavar="ROWS", help="rows of the table, e.g. 2,4")
    parser.add_argument("--dir", type=Path, help="where to measure (default: below this checkout, on its disk)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
