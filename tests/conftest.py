"""What every test shares: the repository on the path, property tests with the same verdict each time."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from hypothesis import HealthCheck, settings

REPOSITORY = Path(__file__).resolve().parent.parent
# First, so that the packages `lab` and `components` win over the folders of tests of the same name.
sys.path.insert(0, str(REPOSITORY))

_COMMON = {
    "deadline": None,  # the machine's load is not a property of the code
    "database": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large],
}
settings.register_profile("repeatable", derandomize=True, max_examples=100, **_COMMON)
# `HYPOTHESIS_PROFILE=search pytest tests/units` looks further, elsewhere each time.
settings.register_profile("search", derandomize=False, max_examples=3000, **_COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))
