"""`drain`: its exit-code table row by row, and that one bad run never stops another."""

import re
import signal
from contextlib import closing
from pathlib import Path

import pytest

from spool import Registration, Spool, Tracker, directory, ownership
from streaming.read.status import Condition, summarize
from tests.streaming.cli.conftest import AsProgram, InProcess
from tests.support import faults, oracle, secrecy
from tests.support.far_end import FarEnd
from tests.support.oracle import Told
from tests.support.processes import Home, ProgramResult, eventually, kill, marked
from tests.support.programs import uploaders
from tests.support.runs import HEADER, dead_run, ended_run, live_run, make_run, rows


@pytest.fixture
def drain(program: AsProgram, far_end: FarEnd) -> AsProgram:
    """The command with the settings of the far end."""
    return AsProgram({**program.environment, **far_end.environment()})


def words(result: ProgramResult) -> dict[str, str]:
    """What the lines on stdout say of each run, by name."""
    lines = result.stdout.decode().splitlines()
    return {line.split()[0]: line.split(None, 1)[1] for line in lines}


def test_0_everything_was_delivered_and_nothing_is_left(home: Home, drain: AsProgram, far_end: FarEnd) -> None:
    paths = [ended_run(home.spool_dir, row_count=5), dead_run(home.spool_dir, row_count=7)]
    result = drain("drain")
    assert result.exit_code == 0, result.stderr
    assert {words(result)[path.stem].split()[-1] for path in paths} == {"delivered"}
    assert [summarize(path).condition for path in paths] == [Condition.DELIVERED] * 2
    assert {run.finish["run_status"] for run in far_end.runs if run.finish} == {"finished", "failed"}
    again = drain("drain")
    assert (again.exit_code, again.stdout) == (0, f"Nothing to deliver in {home.spool_dir}.\n".encode())


def test_run_with_a_refused_token_is_drained_with_the_right_one_at_once(
    home: Home, drain: AsProgram, far_end: FarEnd
) -> None:
    """Its uploader does not hold on to a run that it can never deliver."""
    with_wrong_token = AsProgram({**drain.environment, "SENTINEL_API_TOKEN": "wrong"})
    assert with_wrong_token("run", "--", "true").exit_code == 0
    (path,) = directory.spool_paths(home.spool_dir)
    assert not ownership.is_owned(path)
    result = drain("drain", "--timeout", "60")
    assert (result.exit_code, words(result)[path.stem].split()[-1]) == (0, "delivered")


def test_run_that_its_uploader_still_tries_to_deliver_is_waited_for(
    home: Home, drain: AsProgram, far_end: FarEnd
) -> None:
    far_end.down()
    assert drain("run", "--exit-wait", "0", "--", "true").exit_code == 0
    (path,) = directory.spool_paths(home.spool_dir)
    eventually(lambda: ownership.is_owned(path), 30, "its uploader lingers")
    far_end.up()
    assert drain("drain", "--timeout", "90").exit_code == 0
    assert summarize(path).condition is Condition.DELIVERED


def test_every_row_arrives_once(home: Home, drain: AsProgram, far_end: FarEnd) -> None:
    ended_run(home.spool_dir, row_count=40_000)
    assert drain("drain").exit_code == 0
    oracle.judge(far_end.evidence(), Told(HEADER, [rows(40_000)]), run_status="finished", exit_code=0)


def test_1_what_the_service_refuses_for_good(home: Home, drain: AsProgram, far_end: FarEnd) -> None:
    bad, good = sorted([ended_run(home.spool_dir), ended_run(home.spool_dir)])  # their names decide, in one second
    refuse_first(far_end)
    result = drain("drain", "-j", "1")
    assert result.exit_code == 1
    assert "failed: " in words(result)[bad.stem]
    assert "no such team" in words(result)[bad.stem]
    assert words(result)[good.stem].endswith("delivered")
    assert summarize(bad).condition is Condition.FAILED


def refuse_first(far_end: FarEnd) -> None:
    """The first registration is refused for good; runs are handed out oldest first."""
    far_end.fail_next("register", faults.json_answer(422, {"detail": "no such team"}))


def test_1_a_damaged_run_does_not_stop_the_others(home: Home, drain: AsProgram, far_end: FarEnd) -> None:
    bad = home.spool_dir / "20200101-000000-0000000000000000.spool"
    good = ended_run(home.spool_dir)
    bad.write_bytes(b"no database" * 1000)
    bad.chmod(0o600)
    result = drain("drain")
    assert result.exit_code == 1
    assert "damaged" in words(result)[bad.stem]
    assert words(result)[good.stem].endswith("delivered")


def test_2_usage(home: Home, cli: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    ended_run(home.spool_dir)
    without_token = cli("drain")
    assert without_token.exit_code == 2
    assert "SENTINEL_API_TOKEN" in without_token.stderr
    assert "server env" in without_token.stderr
    monkeypatch.setenv("SENTINEL_API_TOKEN", "t" * 20)
    monkeypatch.setenv("SENTINEL_API_URL", "http://127.0.0.1:9")
    assert cli("drain", "nosuchrun").exit_code == 2
    assert cli("drain", "2", "--all").exit_code == 2
    assert cli("drain", "--jobs", "0").exit_code == 2
    assert cli("drain", "--timeout", "never").exit_code == 2
    assert cli("drain", "--no-such-flag").exit_code == 2


def test_3_target_unreachable_until_the_timeout(home: Home, drain: AsProgram, far_end: FarEnd) -> None:
    path = ended_run(home.spool_dir, row_count=9)
    far_end.down()
    result = drain("drain", "--timeout", "1")
    assert result.exit_code == 3
    assert "9 waiting" in words(result)[path.stem]
    assert "cannot be reached (refused)" in words(result)[path.stem]


def test_3_timeout_while_a_request_hangs_ends_the_request(home: Home, drain: AsProgram, far_end: FarEnd) -> None:
    path = ended_run(home.spool_dir, row_count=9)
    with far_end.always("register", faults.silent()):
        result = drain("drain", "--timeout", "1", deadline_s=50)  # a request alone may take a minute
    assert result.exit_code == 3
    assert "9 waiting" in words(result)[path.stem]


def test_3_another_process_delivers_an_ended_run(home: Home, drain: AsProgram) -> None:
    path = ended_run(home.spool_dir)
    with ownership.own(path):
        result = drain("drain", "--timeout", "3")
    assert result.exit_code == 3
    assert "waiting: another process delivers" in words(result)[path.stem]


def test_4_token_refused_is_asked_once_whatever_the_number_of_runs(
    home: Home, drain: AsProgram, far_end: FarEnd
) -> None:
    for _ in range(5):
        ended_run(home.spool_dir)
    far_end.revoke_token()
    result = drain("drain", "-j", "1")
    assert result.exit_code == 4
    assert far_end.journal.count("register") == 1
    assert result.stdout.count(b"refuses the token") == 5


def test_130_ctrl_c_ends_the_workers_and_keeps_what_was_sent(
    home: Home, drain: AsProgram, far_end: FarEnd, marker: str
) -> None:
    path = ended_run(home.spool_dir, row_count=9)
    held = faults.held(stores=False)
    far_end.fail_next("register", held)
    with drain.start("drain") as running:
        assert held.gate is not None
        assert held.gate.reached.wait(30)
        running.send_signal(signal.SIGINT)
        result = running.wait()
    held.gate.release()
    assert result.exit_code == 130
    assert b"interrupted" in result.stderr
    assert b"Traceback" not in result.stderr
    assert summarize(path).counts.waiting == 9
    eventually(lambda: not marked(marker))


def test_named_run_only_is_delivered(home: Home, drain: AsProgram) -> None:
    chosen, other = ended_run(home.spool_dir), ended_run(home.spool_dir)
    result = drain("drain", chosen.stem[-8:])
    assert result.exit_code == 0
    assert list(words(result)) == [chosen.stem]
    assert summarize(other).condition is Condition.WAITING


def test_live_run_is_uploaded_and_not_finished(home: Home, drain: AsProgram, far_end: FarEnd) -> None:
    path = live_run(home.spool_dir, row_count=9)
    result = drain("drain")
    assert (result.exit_code, words(result)[path.stem].split()[-1]) == (0, "recording")
    assert len(far_end.objects) == 1
    assert far_end.run().finish is None


def test_run_of_a_silent_machine_is_finished_when_the_user_says_it_has_ended(
    home: Home, drain: AsProgram, far_end: FarEnd
) -> None:
    elsewhere = Tracker(pid=1, started_at="1", boot_id="b", pid_namespace="n", host="another/machine")
    path = make_run(home.spool_dir, tracker=elsewhere, row_count=9)
    assert words(drain("drain"))[path.stem].endswith("recording")
    assert "recording: not ended, its tracker was seen" in words(drain("drain", "--ended"))[path.stem]
    assert words(drain("drain", "--ended", path.stem))[path.stem].endswith("delivered")
    assert far_end.run().finish is not None


def test_runs_are_delivered_at_the_same_time(home: Home, drain: AsProgram, far_end: FarEnd) -> None:
    for _ in range(2):
        ended_run(home.spool_dir)
    held = [faults.held(), faults.held()]
    for fault in held:
        far_end.fail_next("register", fault)
    with drain.start("drain", "-j", "2") as running:
        for fault in held:  # the second one knocks while the first one is held
            assert fault.gate is not None
            assert fault.gate.reached.wait(30)
        for fault in held:
            assert fault.gate is not None
            fault.gate.release()
        assert running.wait().exit_code == 0


def test_uploader_that_is_killed_amid_a_drain_is_replaced(
    home: Home, drain: AsProgram, far_end: FarEnd, marker: str
) -> None:
    paths = [ended_run(home.spool_dir, started_at=1000.0 * (n + 1)) for n in range(3)]
    held = faults.held(stores=False)
    far_end.fail_next("register", held)
    with drain.start("drain") as running:
        assert held.gate is not None
        assert held.gate.reached.wait(30)
        for process in uploaders(marker):
            kill(process)
        result = running.wait()
    held.gate.release()
    assert result.exit_code == 0, result.stderr
    assert {words(result)[path.stem].split()[-1] for path in paths} == {"delivered"}
    assert len(far_end.runs) == 3


def test_run_that_kills_whoever_delivers_it_does_not_stop_the_others(
    home: Home, drain: AsProgram, far_end: FarEnd, marker: str
) -> None:
    bad, good = ended_run(home.spool_dir, started_at=1000.0), ended_run(home.spool_dir, started_at=2000.0)
    with closing(Spool(bad)) as spool:
        key = spool.run().spool_id
    held = [faults.held(stores=False) for _ in range(4)]
    for fault in held:
        far_end.fail_next("register", fault, matching=lambda request: request.headers.get("idempotency-key") == key)
    with drain.start("drain") as running:
        for fault in held[:3]:
            assert fault.gate is not None
            eventually(fault.gate.reached.is_set)
            for process in uploaders(marker):
                kill(process)
        result = running.wait()
    for fault in held:
        assert fault.gate is not None
        fault.gate.release()
    assert result.exit_code == 1
    assert "ended, again and again" in words(result)[bad.stem]
    assert words(result)[good.stem].endswith("delivered")


def test_unreachable_service_is_told_within_seconds_however_many_runs_wait(
    home: Home, drain: AsProgram, far_end: FarEnd
) -> None:
    paths = [ended_run(home.spool_dir, started_at=1000.0 + n) for n in range(20)]
    far_end.down()
    result = drain("drain", deadline_s=50)
    assert result.exit_code == 3
    assert result.duration_s < 30
    assert all("cannot be reached (refused)" in words(result)[path.stem] for path in paths)


def test_runs_of_another_service_are_one_line_and_go_here_on_request(
    home: Home, drain: AsProgram, far_end: FarEnd
) -> None:
    paths = [ended_run(home.spool_dir, api_url="https://gone.example", row_count=5) for _ in range(30)]
    result = drain("drain")
    assert result.exit_code == 3
    assert result.stdout.decode().splitlines()[0] == (
        f"30 runs were recorded for https://gone.example, not for {far_end.api_url}, and not sent."
    )
    assert len(result.stdout.splitlines()) == 2
    assert far_end.journal.count() == 0
    result = drain("drain", "--to", far_end.api_url)
    assert result.exit_code == 0, result.stdout
    assert [summarize(path).condition for path in paths] == [Condition.DELIVERED] * 30


def test_forgotten_run_is_registered_anew_on_request(home: Home, drain: AsProgram, far_end: FarEnd) -> None:
    path = ended_run(home.spool_dir, row_count=5)
    with closing(Spool(path)) as spool:
        spool.register(Registration("gone", "s3://bucket/gone"))
    parked = drain("drain")
    assert parked.exit_code == 1
    assert "--anew" in words(drain("drain"))[path.stem]
    assert drain("drain", "--anew", path.stem).exit_code == 0
    assert far_end.run().finish is not None


def test_dry_run_sends_nothing(home: Home, drain: AsProgram, far_end: FarEnd) -> None:
    path = ended_run(home.spool_dir, row_count=12)
    result = drain("drain", "--dry-run")
    assert result.exit_code == 0
    assert words(result)[path.stem].startswith("waiting  12 rows")
    assert far_end.journal.count() == 0


def test_sync_is_a_hidden_alias(home: Home, drain: AsProgram, cli: InProcess) -> None:
    path = ended_run(home.spool_dir)
    assert words(drain("sync"))[path.stem].endswith("delivered")
    assert "sync" not in cli("--help").stdout


def test_piped_output_is_plain_lines(home: Home, drain: AsProgram) -> None:
    ended_run(home.spool_dir, row_count=9)
    result = drain("drain")
    both = (result.stdout + result.stderr).decode()
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", both)
    assert result.stderr.decode().splitlines()[0] == "tracker-stream: draining 1 run: 9 rows, 171 B"


def test_token_is_in_no_argument_and_no_environment_of_a_worker(
    home: Home, drain: AsProgram, far_end: FarEnd, marker: str, tmp_path: Path
) -> None:
    ended_run(home.spool_dir)
    file = tmp_path / "token"
    file.write_text(far_end.token)
    held = faults.held()
    far_end.fail_next("register", held)
    plain = {name: text for name, text in drain.environment.items() if name != "SENTINEL_API_TOKEN"}
    with AsProgram(plain).start("drain", "--token-file", str(file)) as running:
        assert held.gate is not None
        assert held.gate.reached.wait(30)
        secrecy.secret([far_end.token], pids=[process.pid for process in marked(marker)], except_files=[file])
        held.gate.release()
        result = running.wait()
    secrecy.secret([far_end.token], directories=[home.path], logs=[result.stdout, result.stderr])


def test_watch_serves_a_directory_until_sigterm(home: Home, drain: AsProgram, far_end: FarEnd) -> None:
    first = ended_run(home.spool_dir)
    with drain.start("drain", "--watch") as serving:
        eventually(lambda: summarize(first).condition is Condition.DELIVERED)
        second = ended_run(home.spool_dir)  # comes later
        eventually(lambda: summarize(second).condition is Condition.DELIVERED)
        serving.send_signal(signal.SIGTERM)
        result = serving.wait()
    assert result.exit_code == 0
    assert {name: text.split()[-1] for name, text in words(result).items()} == {
        first.stem: "delivered",
        second.stem: "delivered",
    }


def test_watch_delivers_a_run_as_soon_as_it_has_ended(home: Home, drain: AsProgram, far_end: FarEnd) -> None:
    path = live_run(home.spool_dir)
    with drain.start("drain", "--watch") as serving:
        far_end.journal.wait_for_count("put", 1, 30)
        with closing(Spool(path)) as spool:
            spool.end(exit_code=0, run_status="finished", ended_at=2000.0)
        far_end.wait_finished(deadline_s=40)  # long before a live run's next turn after a minute
        serving.send_signal(signal.SIGTERM)
        assert serving.wait().exit_code == 0


def test_watch_that_ends_with_something_waiting_exits_with_3(home: Home, drain: AsProgram, far_end: FarEnd) -> None:
    ended_run(home.spool_dir)
    far_end.down()
    with drain.start("drain", "--watch", "--timeout", "2") as serving:
        assert serving.wait().exit_code == 3
