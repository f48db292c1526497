"""Nothing forgets how far the CSV file was taken over: neither freeing room for new rows, nor rows beside the file."""

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from spool import Spool
from streaming import StreamingManager
from streaming.collect.csv_tail import CsvFeeder
from streaming.upload import delivery
from streaming.upload.adoption import end_dead_run
from tests.support import oracle, plays
from tests.support.far_end import FarEnd
from tests.support.memory_far_end import MemoryFarEnd
from tests.support.oracle import Told
from tests.support.processes import Home, wait_gone

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


def test_append_beside_a_csv_file_is_refused_and_names_the_file(
    home: Home, marker: str, far_end: FarEnd, tmp_path: Path
) -> None:
    csv_path = tmp_path / "rows.csv"
    csv_path.write_bytes(HEADER + b"1,a\n")
    urls: dict[str, Any] = {"api_url": far_end.api_url, "s3_endpoint_url": far_end.s3_endpoint_url}
    manager = StreamingManager(
        far_end.token, str(csv_path), spool_dir=home.spool_dir, host_info={}, cloud_info={}, **urls
    )
    manager.start()
    with pytest.raises(ValueError, match="come from"):
        manager.append(HEADER + b"2,b\n")
    manager.stop()
    wait_gone(marker)
    oracle.judge(far_end.evidence(), Told(HEADER, [b"1,a\n"]), run_status="finished", exit_code=0)
