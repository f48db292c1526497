"""`streaming.track`, as a context and as a decorator."""

from contextlib import closing
from pathlib import Path

import pytest

from spool import Spool
from tests.e2e.far_side import FarSide
from tests.e2e.program import User

pytestmark = [pytest.mark.weed, pytest.mark.xdist_group("weed-2")]


def test_tracked_block_arrives(far_side: FarSide, user: User) -> None:
    user.run(
        """
import streaming
with streaming.track(job_name="block", tags={"fold": 3}, interval=0.1):
    time.sleep(1)
"""
    ).check_unfelt()
    run = far_side.judge(user.recorded(), run_status="finished", exit_code=0)
    assert user.recorded().acknowledged_lines()
    assert (run.metadata["job_name"], run.metadata["tags"]["fold"]) == ("block", 3)
    user.wait_gone()


def test_exception_out_of_a_tracked_block_means_failed(far_side: FarSide, user: User) -> None:
    result = user.run(
        """
import streaming
with streaming.track(interval=0.1):
    time.sleep(0.3)
    raise RuntimeError("the user's own")
"""
    ).check_unfelt(exit_code=1, traceback_count=1)
    assert result.stderr.rstrip().endswith(b"RuntimeError: the user's own")
    far_side.judge(user.recorded(), run_status="failed", exit_code=1)
    user.wait_gone()


def test_each_call_of_a_decorated_function_is_a_run_of_its_own(far_side: FarSide, user: User) -> None:
    user.run(
        """
import streaming
@streaming.track(job_name="calls", interval=0.1, upload_interval=1)
def work(seconds, code):
    time.sleep(seconds)
    if code:
        sys.exit(code)
    return seconds
assert work(0.3, 0) == 0.3
work(1.5, 5)
"""
    ).check_unfelt(exit_code=5)
    found = far_side.wait_finished(count=2)  # in the order in which they were registered: any
    first, second = sorted(found, key=lambda run: run.run_status == "failed")
    ours = [user.recorded(path) for path in sorted(user.spools(), key=_began_at)]
    far_side.judge(ours[0], run=first, run_status="finished", exit_code=0)
    far_side.judge(ours[1], run=second, run_status="failed", exit_code=5)
    user.wait_gone()


def _began_at(path: Path) -> float:
    """Names tell seconds only: of two runs of one second, either may come first."""
    with closing(Spool(path)) as spool:
        return spool.run().started_at


def test_without_token_rows_are_kept_for_drain(far_side: FarSide, user: User) -> None:
    result = user.run(
        """
import logging, streaming
logging.basicConfig(level=logging.INFO)
del os.environ["SENTINEL_API_TOKEN"]
with streaming.track(interval=0.1):
    time.sleep(0.4)
"""
    ).check_unfelt()
    assert b"tracker-stream drain" in result.stderr
    user.wait_gone()
    assert far_side.runs() == []
    assert user.command("drain").exit_code == 0
    far_side.judge(user.recorded(), run_status="finished", exit_code=0)
