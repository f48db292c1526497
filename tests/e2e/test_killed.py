"""SIGKILL of the uploader, of the caller, of both."""

import pytest

from tests.e2e.far_side import FarSide
from tests.e2e.program import User, told
from tests.support.processes import eventually, kill_marked

pytestmark = [pytest.mark.weed, pytest.mark.xdist_group("weed-1")]

RUN = """
manager = StreamingManager(TOKEN, csv_path=CSV, upload_interval=1, host_info={}, cloud_info={}, spool_interval=0.1)
manager.start()
write(0, 10)
wait_for(lambda: manager.uploaded_uris)
say("uploaded")
input()
write(10, 10)
say("wrote")
input()
assert manager.stop(exit_code=0)
"""


def test_killed_uploader_is_replaced_and_nothing_is_lost(far_side: FarSide, user: User) -> None:
    program = user.start(RUN, stdin=True)
    assert program.read_line() == "uploaded"
    first = user.kill_uploader()
    program.say("write")
    assert program.read_line() == "wrote"
    assert user.kill_uploader() != first
    program.say("stop")
    result = program.wait().check_unfelt()
    assert result.stderr.count(b"uploader.restarted") >= 2
    far_side.judge(told(20), run_status="finished", exit_code=0)
    user.wait_gone()


def test_killed_caller_is_noticed_and_its_run_ended_as_failed(far_side: FarSide, user: User) -> None:
    """What the CSV holds beyond the spool is taken over too: the caller's last rows were never looked at by it."""
    program = user.start(RUN.replace("spool_interval=0.1", "spool_interval=1000"), stdin=True)
    _ = user.uploader()
    eventually(lambda: list(user.home.path.glob("metrics-*.csv")), 20)
    program.kill()
    run = far_side.judge(told(10), run_status="failed", exit_code=None)
    assert run.data_source == "inline"
    user.wait_gone()


def test_unfinished_last_line_of_a_killed_caller_is_left_out(far_side: FarSide, user: User) -> None:
    program = user.start(RUN, stdin=True)
    assert program.read_line() == "uploaded"
    (csv,) = user.home.path.glob("metrics-*.csv")
    with open(csv, "ab") as file:
        file.write(b"1700000010,3,30\n1700000011,4")
    program.kill()
    far_side.judge(told(11), run_status="failed", exit_code=None)
    user.wait_gone()


def _kill_both(user: User) -> None:
    program = user.start(RUN, stdin=True)
    assert program.read_line() == "uploaded"
    program.say("write")
    assert program.read_line() == "wrote"
    kill_marked(user.marker)
    program.kill()
    user.wait_gone()


def test_both_killed_is_adopted_by_the_next_start_with_the_same_token(far_side: FarSide, user: User) -> None:
    _kill_both(user)
    program = user.start(
        """
manager = StreamingManager(TOKEN, csv_path=CSV, upload_interval=3600, host_info={}, cloud_info={})
manager.start()
write(0, 3)
say(manager.wait_until_registered(60))
input()
manager.stop()
""",
        stdin=True,
    )
    own_id = program.read_line()
    eventually(lambda: len(far_side.runs()) == 2 and far_side.runs()[0].is_finished, 60, lambda: str(far_side.runs()))
    program.say("stop")
    program.wait().check_unfelt()
    orphan, own = far_side.wait_finished(count=2)
    assert own.run_id == own_id
    far_side.judge(told(20), run=orphan, run_status="failed", exit_code=None)
    far_side.judge(told(3), run=own, run_status="finished", exit_code=0)
    user.wait_gone()


def test_both_killed_is_not_adopted_with_another_token(far_side: FarSide, user: User) -> None:
    _kill_both(user)
    other = far_side.target.tokens.add(f"other-{user.marker}")
    user.run(
        """
manager = StreamingManager(TOKEN, csv_path=CSV, host_info={}, cloud_info={})
manager.start()
write(0, 3)
assert manager.stop()
""",
        SENTINEL_API_TOKEN=other,
    ).check_unfelt()
    user.wait_gone()
    orphan, own = far_side.runs()
    assert not orphan.is_finished
    far_side.judge(told(3), run=own, run_status="finished", exit_code=0)


def test_both_killed_is_delivered_by_drain(far_side: FarSide, user: User) -> None:
    _kill_both(user)
    drained = user.command("drain")
    assert (drained.exit_code, drained.stdout.split()[-1]) == (0, b"delivered"), drained
    far_side.judge(told(20), run_status="failed", exit_code=None)


def test_killed_in_the_dark_leaves_no_process(far_side: FarSide, user: User) -> None:
    """Nobody answers, and the caller is gone: the uploader gives up after its time, and drain does the rest."""
    far_side.shut()
    program = user.start(
        """
manager = StreamingManager(TOKEN, csv_path=CSV, upload_interval=1, host_info={}, cloud_info={})
manager.start()
write(0, 10)
say("wrote")
input()
""",
        stdin=True,
        TRACKER_STREAM_LINGER="1",
    )
    assert program.read_line() == "wrote"
    user.uploader()
    program.kill()
    user.wait_gone()
    far_side.open()
    assert user.command("drain").exit_code == 0
    far_side.judge(told(10), run_status="failed", exit_code=None)
