"""In a real notebook: what was tracked in one cell shows itself in the next, offline and without a token."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.processes import ROOT, Home, clean_environment, wait_gone

CELLS = (
    f"import sys; sys.path.insert(0, {str(ROOT)!r}); import streaming",
    "with streaming.track(job_name='cell', interval=0.1) as run:\n    sum(n * n for n in range(3_000_000))",
    "run",
    "frame = run.to_pandas(); print(len(frame), frame['process_memory_mib'].max() > 1, run.summary()['row_count'])",
    "streaming.runs()",
)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")  # of the notebook's own machinery
def test_a_tracked_block_shows_its_charts_and_rows_in_the_next_cell(
    home: Home, marker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("pandas")
    for name, value in clean_environment(home, marker).items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in CELLS])
    nbclient.NotebookClient(notebook, timeout=100, kernel_name="python3").execute()
    charts, frame, listed = (output(notebook, number) for number in (2, 3, 4))
    assert charts["data"]["text/html"].startswith("<iframe sandbox")
    count, is_measured, summed = frame["text"].split()
    assert int(count) == int(summed) > 0
    assert is_measured == "True"
    assert "cell" in listed["data"]["text/html"]
    wait_gone(marker)


def output(notebook: Any, number: int) -> Any:
    return notebook.cells[number].outputs[0]
