"""The demo: one real run through an outage and a SIGKILL, read back from S3 and compared row by row."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from spool import Spool, directory, queries
from streaming.server import EmbeddedServer, embedded

WORK_AT_LEAST_S = 20.0
WORK_AFTER_KILL_S = 4.0
OUTAGE_BEGINS_S = 5.0
OUTAGE_S = 4.0
KILL_AFTER_S = 2.0  # after the server is back
SAMPLE_INTERVAL_S = 0.5
UPLOAD_INTERVAL_S = 2.0
PATIENCE_S = 60.0

# A real workload: it computes on one core, and its memory grows and shrinks, until a file appears.
WORKLOAD = """
import math, os, sys
held = []
while not os.path.exists(sys.argv[1]):
    held.append(bytearray(1 << 20))
    if len(held) > 150:
        held.clear()
    sum(math.sqrt(i) for i in range(200_000))
"""


def main() -> int:
    """Run the demo. Exit code 0 only if every recorded row is in S3 exactly once and the run is finished."""
    began_at = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - began_at:6.1f} s  {text}", flush=True)

    with tempfile.TemporaryDirectory(prefix="tracker-stream-demo-") as scratch:
        say("starting the server: a Sentinel API and SeaweedFS, an S3 that enforces its credentials")
        with embedded(Path(scratch) / "server") as server:
            spool_path, outage_s = record(server, Path(scratch) / "spools", say)
            return report(server, spool_path, outage_s, say)


def record(server: EmbeddedServer, spool_dir: Path, say: Callable[[str], None]) -> tuple[Path, float]:
    """Track the workload through its misfortunes. Returns its spool, and the seconds that the server was away."""
    command = [sys.executable, "-m", "streaming", "run", "--job-name", "demo"]
    command += ["--interval", str(SAMPLE_INTERVAL_S), "--upload-interval", str(UPLOAD_INTERVAL_S)]
    environment = {
        **os.environ,
        **server.environment(),
        "TRACKER_STREAM_DIR": str(spool_dir),
        "TRACKER_DISCOVER_CLOUD": "0",  # the demo stays on this machine
    }
    say("tracker-stream run -- python workload.py")
    enough = spool_dir.with_name("enough")
    tracked = subprocess.Popen([*command, "--", sys.executable, "-c", WORKLOAD, str(enough)], env=environment)
    started_at = time.monotonic()
    time.sleep(OUTAGE_BEGINS_S)
    say("OUTAGE: the API and S3 are killed")
    outage_began_at = time.monotonic()
    server.stop_api()
    server.stop_s3()
    time.sleep(OUTAGE_S)
    server.start_s3()
    server.start_api()
    outage_s = time.monotonic() - outage_began_at
    say("the server is back")
    time.sleep(KILL_AFTER_S)
    (spool_path,) = directory.spool_paths(spool_dir)
    uploader_pid = json.loads(spool_path.with_suffix(directory.LOCK_SUFFIX).read_text())["pid"]
    os.kill(uploader_pid, signal.SIGKILL)
    say(f"SIGKILL to the uploader (pid {uploader_pid})")
    time.sleep(max(WORK_AFTER_KILL_S, started_at + WORK_AT_LEAST_S - time.monotonic()))
    enough.touch()
    exit_code = tracked.wait(PATIENCE_S)
    say(f"the workload has ended, exit code {exit_code}")
    return spool_path, outage_s


def report(server: EmbeddedServer, spool_path: Path, outage_s: float, say: Callable[[str], None]) -> int:
    """Read back what S3 holds and what the service knows, compare it with what was recorded, print the table."""
    with closing(Spool(spool_path)) as spool:
        registration = spool.run().registration
        recorded = Counter(row for _, rows in queries.exported(spool.connection) for row in rows.splitlines())
    assert registration is not None, "the run was never registered"
    say("reading the objects back from S3")
    objects = dict(server.read_objects(registration.run_id))
    run = server.run(registration.run_id)
    named = [uri.removeprefix(f"s3://{server.bucket}/") for uri in run.data_uris]
    delivered = Counter(row for key in named for row in gzip.decompress(objects[key]).splitlines()[1:])
    lost = (recorded - delivered).total()
    doubled = (delivered - recorded).total()
    is_finished = run.is_finished and run.run_status == "finished"
    table = {
        "rows recorded": recorded.total(),
        "rows in S3": delivered.total(),
        "lost": lost,
        "doubled": doubled,
        "objects": len(named),
        "outage": f"{outage_s:.0f} s",
        "uploader kills": 1,
        "finish status": run.run_status or "none",
    }
    print()
    for name, value in table.items():
        print(f"  {name:<16}{value:>10}")
    print()
    is_good = recorded.total() > 0 and lost == doubled == 0 and is_finished
    say("every row is there, once" if is_good else "ROWS ARE MISSING, DOUBLED, OR THE RUN IS NOT FINISHED")
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
