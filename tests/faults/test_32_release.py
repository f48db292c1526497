"""Freeing room for new rows takes only what S3 holds, and not the memory of how far the CSV file was taken over."""

from contextlib import closing
from pathlib import Path

from spool import Spool
from streaming import delivery
from streaming.dead_runs import end_dead_run
from streaming.feeder import CsvFeeder
from tests.support import oracle, plays
from tests.support.memory_far_end import MemoryFarEnd
from tests.support.oracle import Told

HEADER = b"timestamp,x\n"


def test_rows_of_the_csv_are_not_taken_again_after_the_sent_ones_were_released(tmp_path: Path) -> None:
    csv_path = tmp_path / "rows.csv"
    csv_path.write_bytes(HEADER + b"1,a\n2,b\n")
    far_end = MemoryFarEnd()
    with closing(Spool.create(tmp_path / "spools", plays.new_run(csv_path=csv_path))) as spool:
        for _ in range(2):
            CsvFeeder(spool, csv_path).take()
            delivery.deliver(spool, far_end, far_end)
            spool.release_sent()
            csv_path.write_bytes(csv_path.read_bytes() + b"3,c\n")
        end_dead_run(spool)
        delivery.deliver(spool, far_end, far_end)
    rows = [b"1,a\n2,b\n3,c\n3,c\n"]
    oracle.judge(far_end.evidence(), Told(HEADER, rows), run_status="failed", exit_code=None)
