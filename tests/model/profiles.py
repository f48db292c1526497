"""Hypothesis profiles: `ci` is the same everywhere; HYPOTHESIS_PROFILE=deep looks further, by chance."""

import os

from hypothesis import HealthCheck, Phase, settings

_ALL = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
_CI = settings(_ALL, max_examples=60, stateful_step_count=30, derandomize=True, database=None)
PROFILES = {
    "ci": _CI,
    "quick": settings(_CI, phases=[Phase.generate]),  # says that something fails, not what is the least that fails
    "deep": settings(_ALL, max_examples=2000, stateful_step_count=60),
}
PROFILE = PROFILES[os.environ.get("HYPOTHESIS_PROFILE", "ci")]
