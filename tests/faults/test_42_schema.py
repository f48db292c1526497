"""Fault 42: a closed schema, with the live service's names: a run is registered once, and no optional key costs it."""

import pytest

from streaming import StreamingManager
from tests.support.far_end import FarEnd
from tests.support.processes import Home
from tests.support.recorded import drain, record

FORMER_NAMES = {"host_name", "host_allocation", "host_gpu_vram_mib"}


def test_fault_42_a_whole_run_is_registered_once_with_its_host_name(
    home: Home, far_end: FarEnd, marker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACKER_SEND_HOST_IDENTITY", "1")
    far_end.service.forbidden_keys = FORMER_NAMES
    manager = StreamingManager(
        far_end.token,
        metadata={"job_name": "faults"},
        host_info={"host_name": "node-7", "host_gpu_vram_mib": 80, "host_vcpus": 2},
        cloud_info={},
        spool_dir=home.spool_dir,
        stop_timeout=60,
        api_url=far_end.api_url,
        s3_endpoint_url=far_end.s3_endpoint_url,
    )
    manager.start()
    manager.append(b"timestamp,x\n1,2\n")
    assert manager.stop()
    assert far_end.journal.count("register") == 1
    told = far_end.run().metadata
    assert (told["host_hostname"], told["host_gpu_memory_mib"], told["host_vcpus"]) == ("node-7", 80, 2)


def test_fault_42_a_key_that_is_refused_is_dropped_and_the_rows_arrive(home: Home, far_end: FarEnd) -> None:
    far_end.service.complaints = {"job_name": "enum"}
    recorded = record(home.spool_dir, far_end, segments=2)
    drain(recorded, far_end)
    recorded.judge(far_end)
    assert "job_name" not in far_end.run().metadata
    assert far_end.journal.count("register") == 2
