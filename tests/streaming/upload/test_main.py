"""The engine as a process: its log."""

import subprocess
import sys
from pathlib import Path

from streaming.upload.main import LOG_MAX_BYTES

TALKATIVE = """
import logging
from streaming.upload.main import start_logging
start_logging(logging.INFO)
for number in range(15_000):
    logging.getLogger("streaming.upload").info("line %d %s", number, "x" * 100)
"""


def test_log_of_an_engine_that_serves_for_months_does_not_grow_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "uploader.log"
    with path.open("ab") as log:
        subprocess.run([sys.executable, "-c", TALKATIVE], stderr=log, check=True)
    assert path.stat().st_size <= LOG_MAX_BYTES + 1000
    assert "line 14999 " in path.read_text().splitlines()[-1]
