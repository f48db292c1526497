"""SIGKILL of the uploader, twice, in front of a real S3."""

import pytest

from tests.e2e.far_side import FarSide
from tests.e2e.program import User, told

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
