"""Fuzz for some minutes: each target in turn for some seconds, from seed to seed. Exit code 1 if something broke."""

import argparse
import logging
import os
import random
import sys
import tempfile
import time
import traceback
from pathlib import Path

from tests.fuzz import answers, csv_files, requests_to_the_server, spool_files
from tests.fuzz.target import Target

TARGETS = [*csv_files.TARGETS, *spool_files.TARGETS, *requests_to_the_server.TARGETS, *answers.TARGETS]
ROUND_S = 5.0  # for each target, about
FIRST_EXAMPLES = 20
FASTER_MAX = 4  # times as many as the last time


def fuzz(targets: list[Target], *, minutes: float, seed: int) -> list[str]:
    """The names of targets that something broke. Such a one is told of, and not attacked again."""
    until = time.monotonic() + 60 * minutes
    examples = dict.fromkeys((target.name for target in targets), FIRST_EXAMPLES)
    broken: list[str] = []
    while time.monotonic() < until:
        for target in [target for target in targets if target.name not in broken]:
            seed += 1
            began_at = time.monotonic()
            try:
                target.attack(seed, examples[target.name])
            except Exception:  # noqa: BLE001 - whatever it is, it is what we look for
                broken.append(target.name)
                print(f"BROKEN: {target.name}, seed {seed}", flush=True)
                traceback.print_exc()
            pace = ROUND_S / max(time.monotonic() - began_at, 0.1)
            examples[target.name] = max(FIRST_EXAMPLES, int(examples[target.name] * min(pace, FASTER_MAX)))
    return broken


def main() -> int:
    form = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__)
    form.add_argument("--minutes", type=float, default=5.0)
    form.add_argument("--seed", type=int, default=random.randrange(10**6))
    form.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(target.name for target in TARGETS)}")
    given = form.parse_args()
    print(f"seed {given.seed}", flush=True)
    for package in ("streaming", "spool"):
        logging.getLogger(package).setLevel(logging.CRITICAL)
    targets = [target for target in TARGETS if not given.names or target.name in given.names]
    with tempfile.TemporaryDirectory() as place:
        os.environ["XDG_STATE_HOME"] = str(Path(place, "state"))
        broken = fuzz(targets, minutes=given.minutes, seed=given.seed)
    for target in targets:
        print(f"{target.tried:9,}  {target.name}{'  BROKEN' if target.name in broken else ''}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
