"""The oracle says no where it should: a check that cannot fail is a defect."""

import base64
import gzip
import sqlite3
import zlib
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import oracle
from tests.support.oracle import Evidence, Told, Verdict, judge, object_of
from tests.support.processes import Home, clean_environment, start_script
from tests.support.secrecy import secret

HEADER = b"timestamp,x\n"
PREFIX = "s3://bucket/run"
ROWS = [b"%d,%d\n" % (n, n * n) for n in range(6)]
TOLD = Told(HEADER, ROWS)
CANARY = "canary-secret-key-0123456789abcdef"


def finish_of(uris: list[str], **changes: Any) -> dict[str, Any]:
    ended = {"run_status": "finished", "exit_code": 0, "finished_at": "2030-01-01T00:00:00+00:00"}
    return {"data_source": "s3", "data_uris": uris, **ended, **changes}


def evidence_of(*segments: bytes, header: bytes = HEADER) -> Evidence:
    objects = dict(object_of(header, rows, number, PREFIX) for number, rows in enumerate(segments, 1))
    return Evidence(objects, finish_of(list(objects)), PREFIX)


def good() -> Evidence:
    return evidence_of(b"".join(ROWS[:3]), b"".join(ROWS[3:]))


def inline(csv: str, **changes: Any) -> Evidence:
    payload = finish_of([], data_source="inline", data_csv=csv, **changes)
    del payload["data_uris"]
    return Evidence({}, payload, PREFIX)


def test_good_run_passes() -> None:
    judge(good(), TOLD, run_status="finished", exit_code=0)


@pytest.mark.parametrize("cut", ["s3://", "s3://bucket/"])
def test_objects_may_be_keyed_without_scheme_or_bucket(cut: str) -> None:
    made = good()
    judge(replace(made, objects={uri.removeprefix(cut): held for uri, held in made.objects.items()}), TOLD)


def test_objects_of_other_runs_do_not_count() -> None:
    made = good()
    judge(replace(made, objects={**made.objects, "s3://bucket/run2/x": b"other", "s3://b2/run/x": b"other"}), TOLD)


def test_inline_run_passes_and_is_judged_too() -> None:
    csv = (HEADER + b"".join(ROWS)).decode()
    judge(inline(csv), TOLD)
    with pytest.raises(Verdict, match="1 rows lost"):
        oracle.conserved(inline(csv.removesuffix("5,25\n")), TOLD)
    with pytest.raises(Verdict, match="ends within a line"):
        oracle.intact(inline(csv[:-1]), TOLD)


@pytest.mark.parametrize("csv", ["", HEADER.decode()])
def test_run_without_rows_passes(csv: str) -> None:
    judge(inline(csv), Told(HEADER, []))
    with pytest.raises(Verdict, match="6 rows lost"):
        judge(inline(csv), TOLD)


def test_header_change_is_part_of_a_row() -> None:
    new = b"timestamp,x,y\n"
    first = object_of(HEADER, ROWS[0], 1, PREFIX)
    second = object_of(new, b"9,9,9\n", 2, PREFIX)
    made = Evidence(dict([first, second]), finish_of([first[0], second[0]]), PREFIX)
    judge(made, Told(HEADER, [ROWS[0], (new, b"9,9,9\n")]))
    with pytest.raises(Verdict, match="lost"):
        judge(made, Told(HEADER, [ROWS[0], b"9,9,9\n", (new, b"8,8,8\n")]))


# -- conserved ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("segments", "words"),
    [
        ((ROWS[:5],), "1 rows lost: b'5,25"),
        ((ROWS, ROWS[5:]), "1 rows delivered too often: b'5,25"),
        (([*ROWS, b"foreign\n"],), "1 rows foreign: b'foreign"),
        (([*ROWS[:5], b"5,24\n"],), "1 rows lost: b'5,25"),
    ],
)
def test_lost_doubled_and_foreign_rows_are_found(segments: tuple[list[bytes], ...], words: str) -> None:
    with pytest.raises(Verdict, match=words):
        oracle.conserved(evidence_of(*map(b"".join, segments)), TOLD)


def test_equal_rows_are_counted() -> None:
    told = Told(HEADER, [b"1,1\n", b"1,1\n"])
    oracle.conserved(evidence_of(b"1,1\n1,1\n"), told)
    with pytest.raises(Verdict, match="lost"):
        oracle.conserved(evidence_of(b"1,1\n"), told)
    with pytest.raises(Verdict, match="too often"):
        oracle.conserved(evidence_of(b"1,1\n" * 3), told)


def test_unacknowledged_batch_is_there_whole_once_or_not() -> None:
    told = Told(HEADER, ROWS[:4], maybe=[b"".join(ROWS[4:])])
    judge(evidence_of(b"".join(ROWS[:4])), told)
    judge(evidence_of(b"".join(ROWS)), told)
    with pytest.raises(Verdict, match="in part: 1 of 2"):
        judge(evidence_of(b"".join(ROWS[:5])), told)
    with pytest.raises(Verdict, match="too often"):
        judge(evidence_of(b"".join([*ROWS, *ROWS[4:]])), told)


def test_naming_is_checked_both_ways() -> None:
    made = good()
    first, second = made.named_uris()
    extra = object_of(HEADER, ROWS[0], 3, PREFIX)
    for finish, objects, words in (
        (finish_of([first]), made.objects, "stored, yet not named"),
        (finish_of([first, second, second]), made.objects, "is named 2 times"),
        (finish_of([first, second, extra[0]]), made.objects, "named, yet not stored"),
        (finish_of([first, second]), {**made.objects, extra[0]: extra[1]}, "stored, yet not named"),
    ):
        with pytest.raises(Verdict, match=words):
            oracle.conserved(Evidence(objects, finish, PREFIX), TOLD)


def test_stored_objects_count_against_an_inline_finish() -> None:
    made = inline((HEADER + b"".join(ROWS)).decode())
    with pytest.raises(Verdict, match="stored, yet not named"):
        judge(replace(made, objects=good().objects), TOLD)


# -- intact ------------------------------------------------------------------------------------------------------------


def broken(content: bytes, key: str | None = None) -> Evidence:
    made = evidence_of(b"".join(ROWS))
    (uri,) = made.objects
    return Evidence({key or uri: content}, finish_of([key or uri]), PREFIX)


def zipped(csv: bytes, mtime: float = 0) -> bytes:
    return gzip.compress(csv, mtime=mtime)


CSV = HEADER + b"".join(ROWS)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (zipped(CSV.replace(b"25", b"26")), "holds content of sha256"),
        (zipped(CSV)[:-4], "not one whole gzip member"),
        (zipped(CSV) + zipped(b"x"), "not one whole gzip member"),
        (CSV, "not one whole gzip member"),
        (zipped(CSV, mtime=1), "a time or a flag in its gzip header"),
        (zipped(b"".join(ROWS)), "no known header"),
        (zipped(HEADER + CSV), "1 more header lines"),
        (zipped(HEADER), "holds no row"),
        (zipped(CSV[:-1]), "ends within a line"),
    ],
)
def test_damaged_objects_are_found(content: bytes, words: str) -> None:
    with pytest.raises(Verdict, match=words):
        oracle.intact(broken(content), TOLD)


def test_key_that_does_not_tell_number_and_digest_is_found() -> None:
    with pytest.raises(Verdict, match="is not named as"):
        oracle.intact(broken(zipped(CSV), f"{PREFIX}/0001.csv.gz"), TOLD)


def test_key_that_held_different_contents_is_found() -> None:
    made = good()
    (first, _) = made.named_uris()
    oracle.intact(replace(made, history={first: ["a", "a"]}), TOLD)
    with pytest.raises(Verdict, match="2 different contents"):
        oracle.intact(replace(made, history={first: ["a", "b"]}), TOLD)


def unzipped(content: bytes) -> bytes | None:
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error):
        return None


@given(st.data())
def test_any_bit_that_matters_is_found(data: st.DataObject) -> None:
    """All but deflate's padding, and the header's level and system: those change nothing that is read."""
    made = evidence_of(b"".join(ROWS))
    ((uri, content),) = made.objects.items()
    flipped = bytearray(content)
    flipped[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    if unzipped(bytes(flipped)) == CSV:
        return
    with pytest.raises(Verdict):
        judge(replace(made, objects={uri: bytes(flipped)}), TOLD)


# -- ordered -----------------------------------------------------------------------------------------------------------


def test_reordered_rows_and_objects_are_found() -> None:
    swapped = [ROWS[0], ROWS[2], ROWS[1], *ROWS[3:]]
    with pytest.raises(Verdict, match=r"b'2,4.*comes where b'1,1"):
        oracle.ordered(evidence_of(b"".join(swapped)), TOLD)
    made = good()
    with pytest.raises(Verdict, match="object 1 named after 2"):
        oracle.ordered(replace(made, finish=finish_of(made.named_uris()[::-1])), TOLD)


def test_unacknowledged_rows_may_come_in_between() -> None:
    oracle.ordered(evidence_of(b"".join(ROWS)), Told(HEADER, [*ROWS[:2], *ROWS[3:]], maybe=[ROWS[2]]))


# -- live --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"run_status": "failed"}, "run_status is 'failed' instead of 'finished'"),
        ({"exit_code": 1}, "exit_code is 1 instead of 0"),
        ({"pid": 7}, "finish payload: pid"),
        ({"finished_at": "yesterday"}, "finish payload: finished_at"),
    ],
)
def test_wrong_finish_is_found(changes: Mapping[str, Any], words: str) -> None:
    made = replace(good(), finish={**(good().finish or {}), **changes})
    with pytest.raises(Verdict, match=words):
        oracle.live(made, run_status="finished", exit_code=0)


def test_unfinished_run_is_found() -> None:
    with pytest.raises(Verdict, match="never finished"):
        judge(replace(good(), finish=None), TOLD)


def test_unknown_exit_code_must_be_left_out() -> None:
    with pytest.raises(Verdict, match="exit_code is 0 instead of None"):
        oracle.live(good(), exit_code=None)
    finish = {key: content for key, content in finish_of(["s3://b/k"]).items() if key != "exit_code"}
    oracle.live(replace(good(), finish=finish), exit_code=None)


def test_time_of_the_report_is_not_that_of_the_end() -> None:
    at = datetime(2030, 1, 1, tzinfo=timezone.utc)
    second = timedelta(seconds=1)
    oracle.live(good(), ended_between=(at - second, at + second))
    with pytest.raises(Verdict, match="is not between"):
        oracle.live(good(), ended_between=(at - 2 * second, at - second))


# -- unfelt ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"exit_code": 1}, "exit code 1 instead of 0"),
        ({"stderr": oracle.TRACEBACK}, "1 tracebacks"),
        ({"duration_s": 9.0}, "took 9.00 s"),
    ],
)
def test_felt_programs_are_found(changes: dict[str, Any], words: str) -> None:
    fine: dict[str, Any] = {"exit_code": 0, "stderr": b"", "duration_s": 0.1, "at_most_s": 1.0}
    oracle.unfelt(**fine)
    with pytest.raises(Verdict, match=words):
        oracle.unfelt(**{**fine, **changes})


# -- secret ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "leak",
    [
        CANARY.encode(),
        base64.b64encode(b"user:" + CANARY.encode() + b":more"),
        CANARY.encode("utf-16-le"),
        CANARY.encode().hex().encode(),
        b"x" * ((1 << 20) - 5) + CANARY.encode(),
    ],
)
def test_canary_in_a_file_is_found(tmp_path: Path, leak: bytes) -> None:
    file = tmp_path / "deep" / "file"
    file.parent.mkdir()
    file.write_bytes(b"harmless")
    secret([CANARY], directories=[tmp_path])
    file.write_bytes(b"\0\1" + leak + b"\n")
    with pytest.raises(Verdict, match="canary-secret-key-"):
        secret([CANARY], directories=[tmp_path])
    secret([CANARY], directories=[tmp_path], except_files=[file])


def test_canary_in_a_deleted_row_of_sqlite_is_found(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "db")
    connection.execute("PRAGMA secure_delete=OFF")
    connection.execute("CREATE TABLE t (x)")
    connection.execute("INSERT INTO t VALUES (?)", (CANARY,))
    connection.commit()
    connection.execute("DELETE FROM t")
    connection.commit()
    connection.close()
    with pytest.raises(Verdict):
        secret([CANARY], directories=[tmp_path])


def test_canary_in_a_file_name_or_log_is_found(tmp_path: Path) -> None:
    secret([CANARY], logs=["all is well", b"here too"])
    with pytest.raises(Verdict, match="log text 1"):
        secret([CANARY], logs=["all is well", f"token={CANARY}"])
    (tmp_path / f"x-{CANARY}").touch()
    with pytest.raises(Verdict, match="the name of"):
        secret([CANARY], directories=[tmp_path])


WAITS = "import sys; {extra}; print('ready', flush=True); sys.stdin.readline()"
OPENS = "import os; f = open('held', 'w+'); f.write(sys.argv[1][::-1]); f.flush(); os.unlink('held')"


def test_canary_in_a_process_is_found(home: Home, marker: str) -> None:
    environment = clean_environment(home, marker)
    for extra, more, arguments, words in (
        ("pass", {}, (CANARY,), "cmdline"),
        ("pass", {"X": CANARY}, (), "environ"),
        (OPENS, {}, (CANARY[::-1],), r"fd/\d+ -> .*deleted"),
    ):
        script = WAITS.format(extra=extra)
        with start_script(script, {**environment, **more}, *arguments, stdin=True) as program:
            assert program.read_line() == "ready"
            with pytest.raises(Verdict, match=words):
                secret([CANARY], pids=[program.pid])
    with start_script(WAITS.format(extra="pass"), environment, stdin=True) as program:
        assert program.read_line() == "ready"
        secret([CANARY], pids=[program.pid])


@pytest.mark.parametrize("canaries", [[], ["short"]])
def test_check_that_could_not_fail_is_refused(canaries: list[str]) -> None:
    with pytest.raises(ValueError, match="could not fail"):
        secret(canaries, directories=[])


# -- all of it ---------------------------------------------------------------------------------------------------------


def test_report_tells_all_that_is_wrong() -> None:
    def leaks() -> None:
        secret([CANARY], logs=[CANARY])

    made = replace(evidence_of(b"".join(ROWS[:1])), finish=finish_of([], run_status="failed"))
    with pytest.raises(Verdict) as caught:
        judge(made, TOLD, run_status="finished", others=[leaks])
    report = str(caught.value)
    assert all(words in report for words in ("6 rows lost", "not named", "'failed' instead of", "not secret"))
    assert "1 objects, 0 rows delivered; 6 rows acknowledged" in report
