"""Days of some runs at a virtual clock; and that a finish that is not sent is noticed."""

import pytest

from streaming.upload import delivery
from tests.model.year import year
from tests.support.oracle import Verdict


@pytest.mark.timeout(300)
def test_days_of_runs_with_outages_and_dying_engines_lose_and_double_nothing() -> None:
    with year(runs=5, days=10, seed=1) as passing:
        passing.pass_by()
    assert passing.counts["runs"] > 5
    assert passing.counts["engines that died"] > 0


@pytest.mark.timeout(300)
def test_finish_that_is_never_sent_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "_finish", lambda *_arguments, **_options: True)
    with year(runs=1, days=1, seed=1) as passing, pytest.raises(Verdict, match="rows lost"):
        passing.pass_by()
