"""Rows as the sampler writes them, of a made-up training job: epochs, a slow leak, checkpoints written, a pause."""

from __future__ import annotations

import gzip
import hashlib

import numpy as np

HEADER = (
    '"timestamp","system_processes","system_utime","system_stime","system_cpu_usage","system_memory_free_mib",'
    '"system_memory_used_mib","system_memory_buffers_mib","system_memory_cached_mib","system_memory_active_mib",'
    '"system_memory_inactive_mib","system_disk_read_bytes","system_disk_write_bytes","system_disk_space_total_gb",'
    '"system_disk_space_used_gb","system_disk_space_free_gb","system_net_recv_bytes","system_net_sent_bytes",'
    '"system_gpu_usage","system_gpu_vram_mib","system_gpu_utilized","process_pid","process_children","process_utime",'
    '"process_stime","process_cpu_usage","process_memory_mib","process_disk_read_bytes","process_disk_write_bytes",'
    '"process_gpu_usage","process_gpu_vram_mib","process_gpu_utilized"'
)
HOST = {
    "host_name": "node-17",
    "host_vcpus": 16,
    "host_cpu_model": "AMD EPYC 9354P",
    "host_memory_mib": 65_536,
    "host_storage_gb": 480.0,
    "host_gpu_model": "NVIDIA L40S",
    "host_gpu_count": 2,
    "host_gpu_vram_mib": 98_304,
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
PEAK_ROW = 0.61  # where in the run its single highest second of CPU lies, as a share of its rows
PEAK_CORES = 15.5


def csv_of(*, start: float, row_count: int, interval_s: float = 1.0, seed: int = 7) -> list[str]:
    """One line per row, without the header."""
    random = np.random.default_rng(seed)
    at = np.arange(row_count) * interval_s
    timestamps = start + at
    epoch = (at % EPOCH_S) / EPOCH_S
    trains = (epoch > 0.06).astype(float)
    grows = 1 - np.exp(-3 * at / max(1.0, at[-1]))

    def noise(size: float) -> np.ndarray:
        return random.normal(0, size, row_count)

    process_cpu = np.clip(1.2 + 7.5 * trains + 1.2 * np.sin(at / 240) + noise(0.7), 0, 14)
    process_cpu[int(row_count * PEAK_ROW)] = PEAK_CORES - 0.4
    system_cpu = np.clip(process_cpu + 0.4 + np.abs(noise(0.15)), 0, 16)
    system_cpu[int(row_count * PEAK_ROW)] = PEAK_CORES
    process_memory = 9_000 + 26_000 * grows + 900 * np.sin(at / 700) + noise(60)
    system_memory = process_memory + 5_200 + 300 * np.sin(at / 5000)
    reads = np.where(trains > 0, 38e6 + noise(9e6), 240e6 + noise(3e7)).clip(0)
    writes = np.where(epoch < 0.02, 510e6 + noise(4e7), 2e5 + np.abs(noise(3e5))).clip(0)
    received, sent = np.abs(9e6 + noise(3e6)), np.abs(7e5 + noise(4e5))
    gpu = np.clip(1.86 * trains + 0.05 + noise(0.05), 0, 2)
    vram = 3_000 + 71_000 * np.minimum(1, at / 60) + 1_500 * trains
    lines = []
    for n in range(row_count):
        lines.append(
            f"{timestamps[n]:.3f},312,{process_cpu[n] * 0.9:.2f},{process_cpu[n] * 0.1:.2f},{system_cpu[n]:.4f},"
            f"{65_536 - system_memory[n]:.4f},{system_memory[n]:.4f},204.7383,5289.0234,1039.2266,4070.7188,"
            f"{reads[n] * 1.03:.0f},{writes[n] * 1.05:.0f},480.0,192.66,287.34,{received[n]:.0f},{sent[n]:.0f},"
            f'{gpu[n]:.4f},{vram[n]:.1f},2,27657,"",{process_cpu[n] * 0.9:.2f},{process_cpu[n] * 0.1:.2f},'
            f"{process_cpu[n]:.4f},{process_memory[n]:.4f},{reads[n]:.0f},{writes[n]:.0f},{gpu[n]:.4f},{vram[n]:.1f},2"
        )
    return lines


def objects_of(lines: list[str], *, rows_per_object: int) -> list[tuple[str, bytes]]:
    """Name and gzip bytes of each object, named as the uploader does."""
    found = []
    for seq, first in enumerate(range(0, len(lines), rows_per_object), start=1):
        plain = "\n".join([HEADER, *lines[first : first + rows_per_object], ""]).encode()
        name = f"{seq:08d}-{hashlib.sha256(plain).hexdigest()[:12]}.csv.gz"
        found.append((name, gzip.compress(plain, compresslevel=1, mtime=0)))
    return found
