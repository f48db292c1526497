"""The public names, however and how often they are asked for."""

import subprocess
import sys

import pytest

from tests.support.processes import Home, clean_environment, new_marker

ASKED = {
    "twice": "streaming.track; streaming.track",
    "after its module": "import streaming.record.track",
    "after the class": "streaming.StreamingManager",
}


@pytest.mark.parametrize("before", ASKED.values(), ids=list(ASKED))
def test_track_is_the_same_callable_however_often_it_is_asked_for(home: Home, before: str) -> None:
    script = f"import streaming; {before}; assert isinstance(streaming.track, type), streaming.track"
    subprocess.run([sys.executable, "-c", script], env=clean_environment(home, new_marker()), check=True, timeout=60)
