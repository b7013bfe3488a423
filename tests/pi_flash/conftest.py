"""A card and an image for the tests of flashing; all of them need root, for loop devices and mounts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pi_flash_support import MIB, Card, card, disk_image


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """11 MiB and a bit: two whole chunks, a part of one, and a last sector that is not full."""
    path = tmp_path / "pi-1.img"
    path.write_bytes(disk_image(11 * MIB + 700))
    return path


@pytest.fixture
def usb(tmp_path: Path) -> Iterator[Card]:
    with card(tmp_path / "card") as made:
        yield made
