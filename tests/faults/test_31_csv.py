"""Fault 31, from the file to the objects: bytes arrive as they were written, whatever they are."""

from contextlib import closing
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spool import Spool
from streaming.collect.csv_tail import CsvFeeder
from streaming.upload import delivery
from tests.support import oracle, plays
from tests.support.memory_far_end import MemoryFarEnd
from tests.support.oracle import Line, Told

HEADER, OTHER = b"timestamp,cpu\n", b"timestamp,cpu,gpu\n"
rows = st.one_of(
    st.binary(max_size=20).map(lambda raw: b"1," + raw.replace(b"\n", b"") + b"\n"),
    st.sampled_from(
        [b"1,\x00\n", b"2,\r3\n", b"4,5,6,7,8\n", b"9\n", b"\xff\xfe,1\n", b"1,2\r\n", b'1,"quoted, cell"\n', b"\n"]
    ),
)
sections = st.lists(
    st.tuples(st.sampled_from([HEADER, OTHER]), st.lists(rows, min_size=1, max_size=6)), min_size=1, max_size=5
)


def delivered(directory: Path, writes: list[bytes], *, is_final: bool = True) -> MemoryFarEnd:
    """A CSV file is written piece by piece, fed after each piece, delivered after every second."""
    csv_path = directory / "rows.csv"
    far_end = MemoryFarEnd()
    with closing(Spool.create(directory / "spools", plays.new_run(csv_path=csv_path))) as spool:
        feeder = CsvFeeder(spool, csv_path)
        for number, piece in enumerate(writes):
            with csv_path.open("ab") as csv:
                csv.write(piece)
            feeder.take()
            if number % 2:
                delivery.deliver(spool, far_end, far_end)
        feeder.take(is_final=is_final)
        spool.end(exit_code=0, run_status="finished", ended_at=1e9)
        delivery.deliver(spool, far_end, far_end)
    return far_end


def told_of(parts: list[tuple[bytes, list[bytes]]]) -> Told:
    lines: list[bytes | Line] = [(header, row) for header, some in parts for row in some]
    return Told(HEADER, lines)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=sections, cuts=st.lists(st.integers(0, 400), max_size=5))
def test_fault_31_bytes_arrive_as_written_under_their_headers(
    tmp_path_factory: object, parts: list[tuple[bytes, list[bytes]]], cuts: list[int]
) -> None:
    directory = tmp_path_factory.mktemp("csv")  # type: ignore[attr-defined]
    csv = b"".join(header + b"".join(some) for header, some in parts)
    ends = sorted({min(cut, len(csv)) for cut in cuts} | {len(csv)})
    pieces = [csv[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]
    far_end = delivered(directory, pieces)
    is_inline = (far_end.evidence().finish or {}).get("data_source") == "inline"
    told = told_of(parts)
    oracle.conserved(far_end.evidence(), told)
    oracle.ordered(far_end.evidence(), told)
    if not is_inline:
        oracle.intact(far_end.evidence(), told)


def test_fault_31_new_header_begins_a_new_segment(tmp_path: Path) -> None:
    far_end = delivered(tmp_path, [HEADER + b"1,a\n", b"2,b\n" + OTHER + b"3,c,d\n"])
    heads = [oracle.split_rows(oracle._unzipped(content) or b"")[0] for _, content in sorted(far_end.objects.items())]
    assert heads == [HEADER, OTHER]
    oracle.judge(far_end.evidence(), Told(HEADER, [b"1,a\n2,b\n", (OTHER, b"3,c,d\n")]))


def test_fault_31_row_of_ten_megabytes_arrives(tmp_path: Path) -> None:
    row = b"1," + b"x" * 10_000_000 + b"\n"
    far_end = delivered(tmp_path, [HEADER, row[:5_000_000], row[5_000_000:] + b"2,b\n"])
    oracle.judge(far_end.evidence(), Told(HEADER, [row, b"2,b\n"]))


def test_fault_31_half_a_line_waits_for_its_end(tmp_path: Path) -> None:
    far_end = delivered(tmp_path, [HEADER + b"1,a\n2,", b"", b"b\n3,c"])
    oracle.judge(far_end.evidence(), Told(HEADER, [b"1,a\n2,b\n3,c\n"]))


def test_fault_31_invalid_utf_8_is_not_put_into_json(tmp_path: Path) -> None:
    far_end = delivered(tmp_path, [HEADER + b"1,\xff\xfe\n"])
    assert (far_end.evidence().finish or {})["data_source"] == "s3"
    oracle.judge(far_end.evidence(), Told(HEADER, [b"1,\xff\xfe\n"]))
