"""Ours in the place of `resource_tracker.streaming.StreamingManager`; that package's own ResourceTracker, unchanged."""

import json

import pytest

from tests.e2e.far_side import FarSide
from tests.e2e.program import User
from tests.support.oracle import Told, split_rows

pytestmark = [pytest.mark.weed, pytest.mark.xdist_group("weed-2")]

# `rendered` writes all that the ResourceTracker recorded as it does itself, into a CSV that we never see.
TRACKED = """
import csv, io, json
import resource_tracker.streaming, streaming
from resource_tracker import ResourceTracker
from resource_tracker.tracker_procfs import get_process_children
setattr(resource_tracker.streaming, "StreamingManager", streaming.StreamingManager)

def rendered(tracker):
    metrics = tracker.get_combined_metrics()
    text = io.StringIO(newline="")
    writer = csv.writer(text, quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow(metrics.columns)
    writer.writerows(zip(*(metrics[column] for column in metrics.columns)))
    return text.getvalue()

def tracked(token, upload_interval=1, **more):
    return ResourceTracker(
        sentinel_token=token, upload_interval=upload_interval, discover_cloud=False, interval=0.2, **more
    )
"""


def test_rows_of_a_resource_tracker_arrive(far_side: FarSide, user: User) -> None:
    result = user.run(
        TRACKED
        + """
with tracked(TOKEN, streaming_metadata={"job_name": "theirs"}) as tracker:
    wait_for(lambda: tracker._streaming.uploaded_uris)
    time.sleep(0.5)
say(json.dumps([rendered(tracker), tracker.sentinel_result]))
"""
    ).check_unfelt()
    csv, answer = json.loads(result.stdout)
    header, *rows = split_rows(csv.encode())
    run = far_side.judge(Told(header, rows), run_status="finished", exit_code=0)
    assert len(rows) >= 3
    assert run.data_source == "s3"
    assert run.metadata["job_name"] == "theirs"
    assert run.metadata["host_vcpus"] >= 1  # which the ResourceTracker does not pass on
    assert answer == run.statistics or answer
    user.wait_gone()


def test_short_run_and_exception(far_side: FarSide, user: User) -> None:
    result = user.run(
        TRACKED
        + """
try:
    with tracked(TOKEN, 60) as tracker:
        tracker.wait_for_samples(2, timeout=30)
        raise RuntimeError("the user's own")
except RuntimeError:
    say(rendered(tracker))
"""
    ).check_unfelt()
    header, *rows = split_rows(result.stdout.rstrip(b"\n") + b"\n")
    run = far_side.judge(Told(header, rows), run_status="failed", exit_code=1)
    assert run.data_source == "inline"
    user.wait_gone()


def test_resource_tracker_is_not_stopped_by_an_absent_far_side(far_side: FarSide, user: User) -> None:
    """The class that ours stands in for raises in start() then, and the run is never streamed."""
    far_side.shut()
    program = user.start(
        TRACKED
        + """
with tracked(TOKEN) as tracker:
    tracker.wait_for_samples(2, timeout=30)
    say("sampled")
    input()
say(rendered(tracker))
""",
        stdin=True,
    )
    assert program.read_line() == "sampled"
    far_side.open()
    program.say("end")
    header, *rows = split_rows(program.wait().check_unfelt().stdout.rstrip(b"\n") + b"\n")
    far_side.judge(Told(header, rows), run_status="finished", exit_code=0)
    user.wait_gone()


def test_our_processes_are_not_in_the_numbers(far_side: FarSide, user: User) -> None:
    """While our uploader works, the process tree holds the ResourceTracker's two processes only.

    It is asked until that is so: each of the two starts a short-lived process of its own at every sample.
    """
    measured = (
        TRACKED
        + """
streams = STREAMS
del os.environ["SENTINEL_API_TOKEN"]  # which a ResourceTracker would find by itself
with tracked(TOKEN if streams else None) as tracker:
    wait_for(lambda: not streams or tracker._streaming.uploaded_uris)
    before = tracker.n_samples
    wait_for(lambda: tracker.n_samples >= before + 3)
    theirs = {tracker.process_tracker_process.pid, tracker.system_tracker_process.pid}
    wait_for(lambda: get_process_children(os.getpid()) == theirs)
    if streams:
        assert tracker._streaming.is_alive
    say(json.dumps(min(tracker.process_metrics["memory_mib"][-3:])))
"""
    )
    without = user.run(measured.replace("STREAMS", "False")).check_unfelt()
    with_ours = user.run(measured.replace("STREAMS", "True")).check_unfelt()
    far_side.wait_finished()
    memory_without, memory = (json.loads(result.stdout) for result in (without, with_ours))
    assert memory < memory_without + 25  # MiB: an uploader alone has more
    user.wait_gone()
