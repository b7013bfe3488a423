"""The FAT partition within an image file, edited by mtools: no root, no mount."""

from __future__ import annotations

import os
from pathlib import Path

from layer1.errors import ToolError
from layer1.pi.partitions import Partition
from layer1.processes import last_lines, run

CMDLINE = "cmdline.txt"
_TIME_S = 1577836800
"""The time of every file written, 2020-01-01: the same files make the same bytes."""


class Fat:
    """The root folder of one FAT partition."""

    def __init__(self, image: Path, partition: Partition) -> None:
        self._drive = f"{image}@@{partition.start_bytes}"

    def names(self) -> frozenset[str]:
        """Return the names in the root folder, in lower case: FAT does not tell them apart."""
        listing = self._mtool("mdir", "-b", "-a", "::/")
        found = (line.removeprefix("::/").rstrip("/").lower() for line in listing.splitlines())
        return frozenset(name for name in found if name)

    def read(self, name: str, folder: Path) -> bytes:
        """Return a file's bytes, by way of a folder that only the owner can enter."""
        place = folder / "read"
        self._mtool("mcopy", "-n", "-o", f"::/{name}", str(place))
        data = place.read_bytes()
        place.unlink()
        return data

    def write(self, name: str, data: bytes, folder: Path) -> None:
        """Write a file over whatever has its name, by way of a folder that only the owner can enter."""
        place = folder / "write"
        place.touch(mode=0o600)
        place.write_bytes(data)
        os.utime(place, (_TIME_S, _TIME_S))
        self._mtool("mcopy", "-o", "-m", str(place), f"::/{name}")
        place.unlink()

    def _mtool(self, program: str, *arguments: str) -> str:
        # mtools writes local times, and reads its owner's drive letters.
        settings = [f"SOURCE_DATE_EPOCH={_TIME_S}", "TZ=UTC", "MTOOLSRC=/dev/null"]
        result = run(["env", *settings, program, "-i", self._drive, *arguments])
        if result.returncode != 0:
            raise ToolError(f"{program} could not work on the FAT partition: {last_lines(result.stderr)}")
        return result.stdout
