from __future__ import annotations

import pytest

from layer1.talos import machine_config


@pytest.fixture(scope="session")
def secrets() -> str:
    return machine_config.generate_secrets()
