"""What to ask for next time, from what was used."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streaming.cli.commands.advise import LEAST_SAMPLES
from streaming.collect.need import Advice, Need, Used, told
from streaming.read.advice import advise, need_of
from streaming.read.status import summaries
from streaming.tables.figures import need_figures
from tests.streaming.cli.conftest import InProcess
from tests.support.processes import Home
from tests.support.runs import HEADER, ended_run

Sample = tuple[float, float]  # CPUs, MiB


def run_of(place: Path, samples: list[Sample], *, interval_s: float = 1.0, **metadata: Any) -> None:
    rows = b"".join(b"%.3f,%.2f,%.1f\n" % (1e9 + at * interval_s, cpus, mib) for at, (cpus, mib) in enumerate(samples))
    ended_run(place, row_count=0, csv=HEADER + rows, **metadata)


def need(samples: list[Sample], interval_s: float = 1.0) -> Need:
    made = Need()
    for at, (cpus, mib) in enumerate(samples):
        made.add(1e9 + at * interval_s, cpus, mib)
    return made


def used(of: Need, **tags: str) -> Used:
    return Used("a", {"orchestrator": "slurm", "tags": tags}, of)


def test_burst_of_one_sample_is_not_worth_a_core() -> None:
    assert need([(8.0, 100)] + [(1.8, 100)] * 199).cpus == pytest.approx(1.8, abs=0.05)
    assert need([(8.0, 100)] * 20 + [(1.8, 100)] * 180).cpus == pytest.approx(8.0, abs=0.05)


def test_peak_of_one_sample_counts_because_it_kills() -> None:
    made = need([(1.0, 9800)] + [(1.0, 100)] * 199)
    assert told([used(made, limit_cpus="8", limit_memory_mib="65536")]) == {
        "used": "1.0 of 8 CPUs, 9.6 GiB of 64.0 GiB at its peak",
        "next time": "ask for --cpus-per-task=2 --mem=12G",
    }


def test_of_figures_the_same_is_said_as_of_samples() -> None:
    samples = [(0.05 * (at % 40), 100.0 + at) for at in range(200)]
    table = np.array([(1e9 + at, cpus, mib) for at, (cpus, mib) in enumerate(samples)])
    table = np.vstack([table, [(np.nan, 90, 1), (1e9, np.nan, 1e9), (1e9, 90, np.nan)]])
    figures = need_figures(*table.T)
    assert figures is not None
    of_figures, of_samples = Need.of(**figures), need(samples)
    assert told([used(of_figures, limit_cpus="8")]) == told([used(of_samples, limit_cpus="8")])
    assert (of_figures.cpus, of_figures.peak_mib) == (of_samples.cpus, of_samples.peak_mib)
    assert Need.of(20, cpus=1.15, peak_mib=1, first_at=1, last_at=99).cpus == pytest.approx(1.15)


def test_one_rank_of_many_does_not_say_what_its_node_needs() -> None:
    rank = used(need([(1.0, 100)] * 100), limit_cpus="2", limit_memory_mib="1024", job="39", world_size="8")
    assert told([rank])["next time"] == "by all its runs: tracker-stream advise 39"
    assert told([rank, rank])["next time"] == "ask for --cpus-per-task=2 --mem=300M"


@pytest.mark.parametrize(
    ("samples", "interval_s"), [([(1.0, 100)] * (LEAST_SAMPLES - 1), 10.0), ([(1.0, 100)] * 500, 0.1), ([], 1.0)]
)
def test_too_short_to_tell(samples: list[Sample], interval_s: float) -> None:
    assert not need(samples, interval_s).is_enough
    said = {"next time": "too short to tell what to ask for"}
    assert told([used(need(samples, interval_s), limit_cpus="8")]) == said
    assert told([used(need(samples, interval_s))]) == {}


@pytest.mark.parametrize(
    ("orchestrator", "mib", "words"),
    [
        ("slurm", 300, "--cpus-per-task=1 --mem=400M"),
        ("slurm", 1000, "--cpus-per-task=1 --mem=2G"),
        ("kubernetes", 3000, "cpu: 1, memory: 4Gi"),
        ("", 300, "1 CPU, 400 MiB"),
    ],
)
def test_request_in_the_schedulers_words(orchestrator: str, mib: float, words: str) -> None:
    assert Advice(0.5, mib, None, None, orchestrator).request() == words


def rank(job: str, number: int, host: str, **more: str) -> dict[str, Any]:
    tags = {"job": job, "rank": str(number), "host": host, "step": "0", "limit_cpus": "4", "limit_memory_mib": "8000"}
    return {"tags": {**tags, **more}, "orchestrator": "slurm", "job_name": "train", "project_name": "vision"}


def test_memory_of_a_node_is_that_of_all_its_ranks(tmp_path: Path) -> None:
    for host, peaks in {"n1": (400, 700), "n2": (500,)}.items():
        for number, peak in enumerate(peaks):
            run_of(tmp_path, [(0.9, peak)] * 100, **rank("39", number, host))
    run_of(tmp_path, [(3.0, 100)] * 100, **rank("40", 0, "n1"))
    advice = advise(summaries(tmp_path))
    assert advice is not None
    assert advice.used_against_asked() == ("3.0 of 4", "1.1 GiB of 7.8 GiB")
    assert advice.request() == "--cpus-per-task=4 --mem=2G"


def test_advice_on_a_project_leaves_short_runs_out(home: Home, cli: InProcess) -> None:
    run_of(home.spool_dir, [(1.5, 200)] * 100, **rank("39", 0, "n1"))
    run_of(home.spool_dir, [(4.0, 7000)] * 5, **rank("40", 0, "n1"))
    run_of(home.spool_dir, [(1.0, 100)] * 5, job_name="short", project_name="vision")
    run_of(home.spool_dir, [(1.0, 100)] * 100, job_name="other", project_name="other")
    lines = cli("advise", "vision").stdout.splitlines()
    assert lines[1].split() == ["short", "1", "-", "-"]
    used = ["1.5", "of", "4", "200", "MiB", "of", "7.8", "GiB"]
    assert lines[2].split() == ["train", "2", *used, "--cpus-per-task=2", "--mem=300M"]
    assert lines[3].startswith("-: too short to tell")
    assert len(lines) == 4
    assert "--cpus-per-task=2" in cli("advise", "39").stdout
    assert "no run or job" in cli("advise", "nosuch").stderr


def test_status_of_a_run_says_used_against_asked(home: Home, cli: InProcess) -> None:
    run_of(home.spool_dir, [(1.5, 200)] * 100, **rank("39", 0, "n1"))
    text = cli("status", "latest").stdout
    assert "1.5 of 4 CPUs, 200 MiB of 7.8 GiB at its peak" in text
    assert "ask for --cpus-per-task=2 --mem=300M" in text


def test_rows_without_our_columns_say_nothing(tmp_path: Path) -> None:
    ended_run(tmp_path, row_count=0, csv=b"timestamp,x\n1,2\n")
    assert need_of(next(tmp_path.glob("*.spool"))).sample_count == 0
