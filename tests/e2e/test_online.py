"""The far side is there all the time."""

import json

import pytest

from tests.e2e.far_side import FarSide
from tests.e2e.program import User, told

pytestmark = [pytest.mark.weed, pytest.mark.xdist_group("weed-2")]


def test_short_run_finishes_inline(far_side: FarSide, user: User) -> None:
    result = user.run(
        """
write(0, 5)
manager = StreamingManager(TOKEN, csv_path=CSV, metadata={"job_name": "short", "tags": {"fold": 3}})
manager.start()
write(5, 5)
answer = manager.stop(exit_code=7, run_status="failed")
import json
say(json.dumps([answer, manager.run_id, manager.uploaded_uris]))
"""
    ).check_unfelt()
    run = far_side.judge(told(10), run_status="failed", exit_code=7)
    answer, run_id, uris = json.loads(result.stdout)
    assert answer
    assert (run.data_source, run_id, uris) == ("inline", run.run_id, [])
    assert (run.metadata["job_name"], run.metadata["tags"]) == ("short", {"fold": 3, "run": user.spool().stem[-16:-8]})
    assert run.metadata["host_vcpus"] >= 1  # discovered, since the caller gave none
    user.wait_gone()


def test_long_run_arrives_in_several_objects(far_side: FarSide, user: User) -> None:
    result = user.run(
        """
manager = StreamingManager(TOKEN, csv_path=CSV, upload_interval=1, host_info={}, cloud_info={}, spool_interval=0.05)
manager.start()
written = 0
while len(manager.uploaded_uris) < 3:
    write(written, 10)
    written += 10
    time.sleep(0.05)
assert manager.is_alive
write(written, 1)
manager.stop()
say(written + 1)
say(len(manager.uploaded_uris))
"""
    ).check_unfelt()
    written, object_count = (int(line) for line in result.stdout.split())
    run = far_side.judge(told(written), run_status="finished", exit_code=0)
    assert run.data_source == "s3"
    assert len(run.data_uris) == object_count >= 4
    user.wait_gone()


def test_appended_rows_and_updated_csv_arrive(far_side: FarSide, user: User) -> None:
    """Two runs of one program: one fed by `append`, one by a CSV that only `csv_update_fn` brings up to date."""
    result = user.run(
        """
direct = StreamingManager(TOKEN, upload_interval=1, host_info={}, cloud_info={})
direct.start()
for number in range(30):
    direct.append(HEADER + row(number))
wait_for(lambda: direct.uploaded_uris)
direct.append(row(30) + row(31))
direct.stop(exit_code=1, run_status="failed")

class Update:
    count = 0
    def __call__(self):
        write(self.count, 4)
        self.count += 4

updated = StreamingManager(TOKEN, CSV, 1, None, {}, {}, Update())
updated.start()
wait_for(lambda: updated.uploaded_uris)
updated.stop()
say(updated._updates._update.count)
"""
    ).check_unfelt()
    first, second = far_side.wait_finished(count=2)
    far_side.judge(told(32), run=first, run_status="failed", exit_code=1)
    far_side.judge(told(int(result.stdout)), run=second, run_status="finished", exit_code=0)
    user.wait_gone()
