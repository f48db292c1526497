"""`tracker-stream run`, with and without a token, and what drain makes of the latter."""

import json
import signal

import pytest

from tests.e2e.far_side import FarSide
from tests.e2e.program import User
from tests.support.processes import Home

pytestmark = [pytest.mark.weed, pytest.mark.xdist_group("weed-2")]

FAST = ("run", "--interval", "0.1", "--upload-interval", "1")


@pytest.mark.parametrize(
    ("command", "exit_code"),
    [
        (("python3", "-c", "import time; time.sleep(0.5)"), 0),
        (("sh", "-c", "sleep 0.5; exit 9"), 9),
        (("sh", "-c", "sleep 0.5; kill -KILL $$"), 137),
    ],
)
def test_exit_code_and_rows_arrive(far_side: FarSide, user: User, command: tuple[str, ...], exit_code: int) -> None:
    user.command(*FAST, "--job-name", "the-job", "--", *command).check_unfelt(exit_code=exit_code)
    status = "finished" if exit_code == 0 else "failed"
    run = far_side.judge(user.recorded(), run_status=status, exit_code=exit_code)
    assert run.metadata["job_name"] == "the-job"
    assert json.loads(run.metadata["command"]) == list(command)
    assert {"host_id", "host_hostname", "host_ip"}.isdisjoint(run.metadata)  # nobody opted in
    user.wait_gone()


def test_long_command_is_uploaded_while_it_runs(far_side: FarSide, user: User) -> None:
    program = user.start_command(*FAST, "--", "sh", "-c", "echo out; read line; echo err >&2; exit 4", stdin=True)
    assert program.read_line() == "out"
    far_side.wait_objects(2)
    program.say("end")
    result = program.wait().check_unfelt(exit_code=4)
    assert b"err\n" in result.stderr
    run = far_side.judge(user.recorded(), run_status="failed", exit_code=4)
    assert len(run.data_uris) >= 2
    header = user.recorded().header.split(b",")
    assert header[0] == b'"timestamp"'
    assert all(name.startswith((b'"system_', b'"process_')) for name in header[1:])
    user.wait_gone()


def test_command_that_is_not_there_is_a_failed_run(far_side: FarSide, user: User) -> None:
    result = user.command(*FAST, "--", "no-such-command-anywhere").check_unfelt(exit_code=127)
    assert b"no-such-command-anywhere: command not found" in result.stderr
    (run,) = far_side.wait_finished()
    assert (run.run_status, run.exit_code, far_side.target.inline_csv(run.run_id)) == ("failed", 127, b"")
    user.wait_gone()


def test_forwarded_signal_ends_command_and_run(far_side: FarSide, user: User) -> None:
    script = "import time; print('up', flush=True); time.sleep(600)"
    program = user.start_command(*FAST, "--", "python3", "-c", script)
    assert program.read_line() == "up"
    program.send_signal(signal.SIGTERM)
    program.wait().check_unfelt(exit_code=143)
    far_side.judge(user.recorded(), run_status="failed", exit_code=143)
    user.wait_gone()


def test_without_token_nothing_is_sent_and_drain_delivers_later(far_side: FarSide, home: Home, marker: str) -> None:
    nobody = User(home, marker, far_side.environment(token=False))
    result = nobody.command(*FAST, "--", "sh", "-c", "sleep 0.5; exit 6").check_unfelt(exit_code=6)
    assert b"tracker-stream drain" in result.stderr
    nobody.wait_gone()
    assert (far_side.api.passed_count, far_side.s3.passed_count, far_side.runs()) == (0, 0, [])
    refused = nobody.command("drain")
    assert refused.exit_code != 0
    assert b"SENTINEL_API_TOKEN" in refused.stderr
    drained = nobody.command("drain", SENTINEL_API_TOKEN=far_side.token)
    assert (drained.exit_code, drained.stdout.split()[-1]) == (0, b"delivered"), drained
    far_side.judge(nobody.recorded(), run_status="failed", exit_code=6)
