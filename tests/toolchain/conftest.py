"""What the tests of the toolchain share."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from toolchain_support import FakeMachine  # noqa: E402 - the path comes first


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeMachine:
    """A machine with nothing on PATH but a shell's tools, an empty home and an empty cache."""
    return FakeMachine(tmp_path, monkeypatch)
