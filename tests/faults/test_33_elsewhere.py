"""Fault 33: a run registered twice, lived offline, copied to another machine: one run, delivered once."""

import json
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import pytest

from spool import RunState, Spool, system
from streaming.upload.model import Outcome
from tests.support import faults, oracle, processes
from tests.support.far_end import FarEnd
from tests.support.oracle import Evidence
from tests.support.processes import ROOT, Home, clean_environment
from tests.support.recorded import Recorded, Waits, append, drain, record, rows
from tests.support.runs import dead_tracker
from tests.support.secrecy import secret
from tests.support.streamed import Streamed


def copied_elsewhere(recorded: Recorded, directory: Path) -> Recorded:
    """A copy as another machine sees it: same file, yet neither host nor boot are those of its tracker."""
    directory.mkdir(mode=0o700)
    path = directory / recorded.path.name
    system.create_private_file(path)
    with closing(sqlite3.connect(recorded.path)) as source, closing(sqlite3.connect(path)) as target:
        source.backup(target)
        (text,) = target.execute("SELECT tracker FROM run").fetchone()
        elsewhere = {**json.loads(text), "host": "another/machine", "boot_id": "another boot"}
        target.execute("UPDATE run SET tracker = ?", (json.dumps(elsewhere),))
        target.commit()
    return replace(recorded, path=path)


def only_named(evidence: Evidence) -> Evidence:
    """Without objects that no finish names: a copy cuts its segments elsewhere than the original."""
    named = set(evidence.named_uris())
    return replace(evidence, objects={uri: held for uri, held in evidence.objects.items() if uri in named})


# -- registered twice --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", [faults.reply_lost(), faults.reply_lost(reset=True), faults.truncated(200)])
def test_fault_33_lost_reply_of_register_is_one_run(
    home: Home, far_end: FarEnd, marker: str, lost: faults.Fault
) -> None:
    far_end.fail_next("register", lost, times=2)
    with Streamed(far_end, home, marker) as streamed:
        streamed.append()
        streamed.wait_sent(1)
        assert streamed.stop()
        streamed.judge()
    assert far_end.journal.count("register") == 3
    assert len({entry.headers["idempotency-key"] for entry in far_end.journal.requests("register")}) == 1
    assert len(far_end.runs) == 1


def test_fault_33_prefix_of_the_first_answer_that_was_kept_stays(home: Home, far_end: FarEnd) -> None:
    """A service that names another prefix in mid-run is not followed."""
    recorded = record(home.spool_dir, far_end, segments=2)
    far_end.nth("put", 2, faults.answer(503))
    assert drain(recorded, far_end, Waits(at_most=0)) is Outcome.WAITING
    far_end.always("refresh", faults.with_fields(upload_uri_prefix="s3://far-end-bucket/somewhere/else"))
    assert drain(recorded, far_end) is Outcome.DELIVERED
    recorded.judge(far_end)


# -- offline -----------------------------------------------------------------------------------------------------------


def drain_command(home: Home, far_end: FarEnd, marker: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = clean_environment(home, marker, **far_end.environment())
    command = [sys.executable, "-m", "streaming", "drain", *arguments]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=100)


def test_fault_33_run_that_lived_offline_is_drained_whole_with_its_true_end(
    home: Home, far_end: FarEnd, marker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACKER_STREAM_LINGER", "0")
    far_end.down()
    began = datetime.now(timezone.utc)
    with Streamed(far_end, home, marker, stop_timeout=0) as streamed:
        for _ in range(3):
            streamed.append()
        assert streamed.manager.stop(exit_code=7, run_status="failed") == {}
        ended = datetime.now(timezone.utc)
        processes.kill_marked(marker)
        processes.wait_gone(marker)
        recorded = streamed.recorded
    far_end.up()
    assert far_end.journal.count() == 0
    done = drain_command(home, far_end, marker)
    assert done.returncode == 0, done.stderr
    recorded.judge(far_end, run_status="failed", exit_code=7, ended_between=(began, ended))
    assert drain_command(home, far_end, marker).returncode == 0
    assert far_end.journal.count("finish") == 1
    secret(far_end.secrets(), directories=[home.path], logs=[done.stdout, done.stderr])


# -- copied ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["the copy", "the original"])
@pytest.mark.parametrize("is_sealed", [True, False], ids=["s3", "inline"])
def test_fault_33_copy_of_an_ended_run_is_the_same_run(
    home: Home, far_end: FarEnd, tmp_path: Path, first: str, is_sealed: bool
) -> None:
    original = record(home.spool_dir, far_end, segments=3, is_sealed=is_sealed)
    copy = copied_elsewhere(original, tmp_path / "elsewhere")
    order = [copy, original] if first == "the copy" else [original, copy]
    for each in order:
        assert drain(each, far_end, Waits(at_most=0)) is Outcome.DELIVERED
        assert each.run().state is RunState.FINISHED
    assert len(far_end.runs) == 1
    assert [entry.status for entry in far_end.journal.requests("finish")] == [200, 409]
    original.judge(far_end)


def test_fault_33_copy_of_a_dead_run_is_finished_where_its_end_is_said(
    home: Home, far_end: FarEnd, tmp_path: Path
) -> None:
    original = record(home.spool_dir, far_end, segments=3, has_ended=False, tracker=dead_tracker())
    copy = copied_elsewhere(original, tmp_path / "elsewhere")
    assert drain(copy, far_end) is Outcome.UPLOADED  # from there, nobody can see whether it lives
    assert far_end.journal.count("finish") == 0
    assert drain(copy, far_end, has_ended=True) is Outcome.DELIVERED
    copy.judge(far_end, run_status="failed", exit_code=None)
    assert drain(original, far_end) is Outcome.DELIVERED
    assert len(far_end.runs) == 1
    original.judge(far_end, run_status="failed", exit_code=None)


@pytest.mark.parametrize(("age_s", "outcome"), [(2 * 86_400, Outcome.DELIVERED), (3600, Outcome.UPLOADED)])
def test_fault_33_copy_counts_as_alive_until_its_last_append_is_old(
    home: Home, far_end: FarEnd, tmp_path: Path, age_s: float, outcome: Outcome
) -> None:
    appended_at = time.time() - age_s
    original = record(home.spool_dir, far_end, segments=2, has_ended=False, clock=lambda: appended_at)
    copy = copied_elsewhere(original, tmp_path / "elsewhere")
    assert drain(copy, far_end) is outcome


def test_fault_33_copy_of_a_living_run_is_uploaded_never_finished_and_the_run_goes_on(
    home: Home, far_end: FarEnd, marker: str, tmp_path: Path
) -> None:
    with Streamed(far_end, home, marker) as streamed:
        streamed.append()
        streamed.wait_sent(1)
        far_end.down("s3")
        for _ in range(3):
            streamed.append()
        copy = copied_elsewhere(streamed.recorded, tmp_path / "elsewhere")
        far_end.up("s3")
        for _ in range(2):
            assert drain(copy, far_end) is Outcome.UPLOADED
        assert far_end.journal.count("finish") == 0
        assert copy.run().state is RunState.OPEN
        streamed.append()
        assert streamed.stop()
        assert far_end.journal.count("finish") == 1
        assert len(far_end.runs) == 1
        told = streamed.recorded.told
        oracle.judge(only_named(far_end.evidence()), told, run_status="finished", exit_code=0)
    # What is said of the copy afterwards changes nothing any more.
    assert drain(copy, far_end, has_ended=True) is Outcome.DELIVERED
    oracle.judge(only_named(far_end.evidence()), told, run_status="finished", exit_code=0)


def test_fault_33_run_that_lives_here_is_not_ended_by_a_word(home: Home, far_end: FarEnd) -> None:
    """`drain --ended` over a whole directory must not cut off the run that this very machine records."""
    living = record(home.spool_dir, far_end, has_ended=False, tracker=system.identify(processes.os.getpid()))
    assert drain(living, far_end, has_ended=True) is Outcome.UPLOADED
    assert living.run().state is RunState.OPEN
    more = rows(1000, 3)
    with closing(Spool(living.path)) as spool:
        append(spool, more)
        spool.end(exit_code=0, run_status="finished", ended_at=time.time())
    assert drain(living, far_end) is Outcome.DELIVERED
    whole = replace(living.told, acknowledged=[*living.told.acknowledged, more])
    replace(living, told=whole).judge(far_end)


def test_fault_33_copy_for_another_service_is_not_sent_to_this_one(home: Home, far_end: FarEnd) -> None:
    from streaming.errors import BadArgument

    with FarEnd() as other:
        recorded = record(home.spool_dir, other)
        with pytest.raises(BadArgument, match="was recorded for"):
            drain(recorded, far_end)
    assert far_end.journal.count() == 0
