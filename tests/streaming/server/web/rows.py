"""Rows as the sampler writes them, of a made-up training job: epochs, growing memory, checkpoints, one peak of CPU."""

from __future__ import annotations

import gzip
import hashlib
import io
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import csv as arrow_csv

HOST = {
    "host_hostname": "node-17",
    "host_vcpus": 16,
    "host_cpu_model": "AMD EPYC 9354P",
    "host_memory_mib": 65_536,
    "host_storage_gb": 480.0,
    "host_gpu_model": "NVIDIA L40S",
    "host_gpu_count": 2,
    "host_gpu_memory_mib": 98_304,
}
METADATA = {
    "project_name": "protein-folding",
    "job_name": "train-large",
    "command": '["python", "train.py", "--epochs", "40", "--out", "runs/large 1"]',
    "tags": {"fold": 3, "optimizer": "adamw", "dataset": "v2"},
    "team": "structure",
    "language": "python",
    "orchestrator": "slurm",
    **HOST,
}
EPOCH_S = 900
PEAK_CORES = 15.5
PEAK_AT = 0.61  # where the one second of that peak lies, as a share of the rows
_DIGITS = 4


def rows(*, start: float, count: int, interval_s: float = 1.0, seed: int = 7) -> pa.Table:
    """All columns of the combined CSV."""
    at = np.arange(count) * interval_s
    columns = {"timestamp": np.round(start + at, 3), **_measures(at, np.random.default_rng(seed))}
    return pa.table(
        {name: values if values.dtype.kind == "i" else np.round(values, _DIGITS) for name, values in columns.items()}
    )


def _measures(at: Any, random: Any) -> dict[str, Any]:
    count = len(at)

    def noise(size: float) -> Any:
        return random.normal(0, size, count)

    def whole(values: Any) -> Any:
        return np.clip(values, 0, None).astype(np.int64)

    epoch = (at % EPOCH_S) / EPOCH_S
    trains = epoch > 0.06
    cpu = np.clip(1.2 + 7.5 * trains + 1.2 * np.sin(at / 240) + noise(0.5), 0, 14)
    cpu[int(count * PEAK_AT)] = PEAK_CORES - 0.4
    system_cpu = np.clip(cpu + 0.3 + np.abs(noise(0.1)), 0, PEAK_CORES)
    system_cpu[int(count * PEAK_AT)] = PEAK_CORES
    memory = 9_000 + 26_000 * (1 - np.exp(-3 * at / max(1.0, float(at[-1])))) + 900 * np.sin(at / 700) + noise(60)
    used = memory + 5_200 + 300 * np.sin(at / 5000)
    read = whole(np.where(trains, 38e6 + noise(5e6), 240e6 + noise(2e7)))
    written = whole(np.where(epoch < 0.02, 510e6 + noise(3e7), 2e5 + np.abs(noise(3e5))))
    gpu = np.clip(1.8 * trains + 0.05 + noise(0.04), 0, 2)
    vram = 3_000 + 71_000 * np.minimum(1, at / 60) + 1_500 * trains
    ones = np.ones(count, dtype=np.int64)
    return {
        "system_processes": 312 * ones,
        "system_utime": cpu * 0.9,
        "system_stime": cpu * 0.1,
        "system_cpu_usage": system_cpu,
        "system_memory_free_mib": HOST["host_memory_mib"] - used,
        "system_memory_used_mib": used,
        "system_memory_buffers_mib": 204.7 * ones,
        "system_memory_cached_mib": 5289.0 * ones,
        "system_memory_active_mib": 1039.2 * ones,
        "system_memory_inactive_mib": 4070.7 * ones,
        "system_disk_read_bytes": whole(read * 1.03),
        "system_disk_write_bytes": whole(written * 1.05),
        "system_disk_space_total_gb": 480.0 * ones,
        "system_disk_space_used_gb": 192.7 * ones,
        "system_disk_space_free_gb": 287.3 * ones,
        "system_net_recv_bytes": whole(9e6 + noise(2e6)),
        "system_net_sent_bytes": whole(7e5 + noise(2e5)),
        "system_gpu_usage": gpu,
        "system_gpu_vram_mib": vram,
        "system_gpu_utilized": 2 * ones,
        "process_pid": 27_657 * ones,
        "process_utime": cpu * 0.9,
        "process_stime": cpu * 0.1,
        "process_cpu_usage": cpu,
        "process_memory_mib": memory,
        "process_disk_read_bytes": read,
        "process_disk_write_bytes": written,
        "process_gpu_usage": gpu,
        "process_gpu_vram_mib": vram,
        "process_gpu_utilized": 2 * ones,
    }


def csv_of(table: pa.Table) -> bytes:
    """With a header line."""
    text = io.BytesIO()
    arrow_csv.write_csv(table, text)
    return text.getvalue()


def objects_of(table: pa.Table, *, rows_per_object: int) -> list[tuple[str, bytes]]:
    """Name and gzip bytes of each object, named as the uploader does."""
    starts = range(0, table.num_rows, rows_per_object)
    return [object_of(table.slice(start, rows_per_object), seq) for seq, start in enumerate(starts, start=1)]


def object_of(table: pa.Table, seq: int) -> tuple[str, bytes]:
    plain = csv_of(table)
    return f"{seq:08d}-{hashlib.sha256(plain).hexdigest()[:12]}.csv.gz", gzip.compress(plain, compresslevel=1, mtime=0)
