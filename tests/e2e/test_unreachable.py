"""Service and S3 cannot be reached: at the start, at the stop, all the time, or because they were killed."""

import pytest

from streaming.server.process.embedded import EmbeddedServer
from tests.e2e.far_side import FarSide, restart
from tests.e2e.program import User, told

pytestmark = [pytest.mark.weed, pytest.mark.xdist_group("weed-1")]


def test_run_that_starts_offline_is_delivered_when_the_far_side_is_back(far_side: FarSide, user: User) -> None:
    far_side.shut()
    program = user.start(
        """
manager = StreamingManager(TOKEN, csv_path=CSV, upload_interval=1, host_info={}, cloud_info={})
before = time.monotonic()
manager.start()
assert time.monotonic() - before < 5
write(0, 20)
say("started")
input()
wait_for(lambda: manager.uploaded_uris)
write(20, 5)
assert manager.stop()
""",
        stdin=True,
    )
    assert program.read_line() == "started"
    user.uploader()
    far_side.open()
    program.say("go on")
    program.wait().check_unfelt()
    far_side.judge(told(25), run_status="finished", exit_code=0)
    user.wait_gone()


def test_run_that_stops_offline_is_delivered_by_its_uploader_afterwards(far_side: FarSide, user: User) -> None:
    program = user.start(
        """
manager = StreamingManager(TOKEN, CSV, 1, host_info={}, cloud_info={}, stop_timeout=1)
manager.start()
write(0, 10)
wait_for(lambda: manager.uploaded_uris)
say("uploaded")
input()
write(10, 10)
assert manager.stop(exit_code=3) == {}
""",
        stdin=True,
    )
    assert program.read_line() == "uploaded"
    far_side.shut()
    program.say("stop")
    result = program.wait().check_unfelt(at_most_s=60)
    assert b"tracker-stream drain" in result.stderr
    assert b"10 row(s)" in result.stderr
    far_side.open()
    far_side.judge(told(20), run_status="finished", exit_code=3)
    user.wait_gone()


def test_service_and_s3_are_killed_and_come_back(target: EmbeddedServer, far_side: FarSide, user: User) -> None:
    program = user.start(
        """
manager = StreamingManager(TOKEN, csv_path=CSV, upload_interval=1, host_info={}, cloud_info={})
manager.start()
write(0, 10)
wait_for(lambda: manager.uploaded_uris)
say("uploaded")
input()
write(10, 10)
time.sleep(1.5)
say("waits")
input()
write(20, 10)
assert manager.stop()
""",
        stdin=True,
    )
    assert program.read_line() == "uploaded"
    try:
        target.stop()
        program.say("go on")
        assert program.read_line() == "waits"
    finally:
        restart(target)
    program.say("go on")
    program.wait().check_unfelt()
    far_side.judge(told(30), run_status="finished", exit_code=0)
    user.wait_gone()


def test_exception_while_the_far_side_is_down_ends_within_the_short_bound(far_side: FarSide, user: User) -> None:
    far_side.shut()
    result = user.run(
        """
manager = StreamingManager(TOKEN, csv_path=CSV, upload_interval=1, host_info={}, cloud_info={})
manager.start()
write(0, 10)
raise RuntimeError("the user's own")
""",
        TRACKER_STREAM_LINGER="1",
    ).check_unfelt(exit_code=1, traceback_count=1, at_most_s=25)
    assert b"the user's own" in result.stderr
    user.wait_gone()
    far_side.open()
    assert user.command("drain").exit_code == 0
    far_side.judge(told(10), run_status="failed", exit_code=1)
