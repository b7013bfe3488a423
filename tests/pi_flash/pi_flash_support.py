"""Loop devices that stand for cards, and images to write onto them.

A loop device is neither removable nor on USB, has no serial and no name below /dev/disk/by-id/. `Card`
gives it those four facts: in folders of its own, which only `Sources` can name, and no order can. Whatever
else the guard asks (mounts, swap, holders, size, read-only, sectors, who has it open) the kernel answers.
"""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from layer1.pi.block_device import Sources
from layer1.pi.guard import FlashOrder

MIB = 1 << 20
SERIAL = "4C530001230609118503"
NAME = "usb-SanDisk_Ultra_4C530001230609118503-0:0"


def run(*command: str | Path) -> str:
    return subprocess.run(
        [str(part) for part in command], check=True, capture_output=True, text=True, timeout=60
    ).stdout.strip()


def until_free(*command: str | Path) -> None:
    """Run a command that fails while anything, such as another test's `lsblk`, has the device open."""
    end = time.monotonic() + 30
    while True:
        try:
            run(*command)
        except subprocess.CalledProcessError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)
        else:
            return


@dataclass(kw_only=True)
class Card:
    """A loop device with the facts of a USB card reader.

    Attributes:
        backing: the file behind it; None for a loop device that has none.
        node: /dev/loopN.
        folder: where its own facts are kept.
        removable, bus, serial, link_name: the facts given to it.
        proc: where mounts and swap areas are listed.
    """

    backing: Path
    node: Path
    folder: Path
    removable: str = "1"
    bus: str = "usb"
    serial: str = SERIAL
    link_name: str = NAME
    proc: Path = Path("/proc")
    parts: list[Path] = field(default_factory=list)

    @property
    def device(self) -> str:
        return str(self.folder / "by-id" / self.link_name)

    def order(self, image: Path, **changes: str) -> FlashOrder:
        sha256 = hashlib.sha256(image.read_bytes()).hexdigest()
        fields = {"image_sha256": sha256, "device": self.device, "confirm_erase": self.serial} | changes
        return FlashOrder(image=image, **fields)

    def sources(self) -> Sources:
        """Write down the facts as they are now."""
        self.folder.mkdir(exist_ok=True)
        link = self.link(self.link_name, self.node)
        number = link.stat().st_rdev
        udev = self.folder / "udev"
        udev.mkdir(exist_ok=True)
        lines = ["S:disk/by-id/" + self.link_name, "E:ID_MODEL=Ultra"]
        if self.serial:
            lines += [f"E:ID_SERIAL=SanDisk_Ultra_{self.serial}", f"E:ID_SERIAL_SHORT={self.serial}"]
        (udev / f"b{os.major(number)}:{os.minor(number)}").write_text("\n".join(lines) + "\n")
        return Sources(by_id=link.parent, udev=udev, sysfs=self._sysfs(), proc=self.proc)

    def link(self, name: str, node: Path) -> Path:
        by_id = self.folder / "by-id"
        by_id.mkdir(parents=True, exist_ok=True)
        link = by_id / name
        link.unlink(missing_ok=True)
        link.symlink_to(node)
        return link

    def _sysfs(self) -> Path:
        """A view of /sys in which this device hangs on a bus; every other attribute is the kernel's."""
        root = self.folder / f"sys{len(list(self.folder.glob('sys*')))}"
        port = root / "devices/port"
        port.mkdir(parents=True)
        if self.bus:
            bus = root / "bus" / self.bus
            bus.mkdir(parents=True)
            (port / "subsystem").symlink_to(bus)
        real = Path("/sys/class/block", self.node.name).resolve()
        shown = port / "block" / self.node.name
        own = {real: shown}
        shown.mkdir(parents=True)
        for entry in real.iterdir():
            if (entry / "partition").exists():
                own[entry] = shown / entry.name
                own[entry].mkdir()
                for attribute in entry.iterdir():
                    (own[entry] / attribute.name).symlink_to(attribute)
            elif entry.name == "removable":
                (shown / entry.name).write_text(self.removable + "\n")
            else:
                (shown / entry.name).symlink_to(entry)
        for table in ("class/block", "dev/block"):
            (root / table).mkdir(parents=True)
            for entry in Path("/sys", table).iterdir():
                place = entry.resolve()
                (root / table / entry.name).symlink_to(own.get(place, place))
        return root

    def add_part(self, number: int, start_mib: int, size_mib: int) -> Path:
        """Tell the kernel of a partition, whatever is in the table."""
        sectors = MIB // 512
        run("addpart", self.node, str(number), str(start_mib * sectors), str(size_mib * sectors))
        part = Path(f"{self.node}p{number}")
        self.parts.append(part)
        return part


@contextmanager
def card(folder: Path, size_mib: int = 32, *options: str, backing: Path | None = None) -> Iterator[Card]:
    """A card full of old bytes, with a partition table; gone at the end."""
    folder.mkdir(exist_ok=True)
    if backing is None:
        backing = folder / "medium"
        backing.write_bytes(disk_image(size_mib * MIB, seed="what the card held before"))
    node = Path(run("losetup", "--show", "--find", *options, backing))
    made = Card(backing=backing, node=node, folder=folder / "facts")
    try:
        yield made
    finally:
        for part in made.parts:
            until_free("delpart", node, part.name.removeprefix(f"{node.name}p"))
        until_free("losetup", "--detach", node)


@contextmanager
def mounted(source: Path, point: Path, *options: str) -> Iterator[Path]:
    point.mkdir(exist_ok=True)
    run("mount", *options, source, point)
    try:
        yield point
    finally:
        run("umount", point)


def disk_image(size_bytes: int, seed: str = "an image") -> bytes:
    """Random bytes with one DOS partition: nothing in it is like anything else in it."""
    data = bytearray(random.Random(seed).randbytes(size_bytes))  # noqa: S311
    data[446:510] = bytes(64)
    data[446 + 4] = 0x0C
    data[446 + 8 : 446 + 16] = (2048).to_bytes(4, "little") + (2048).to_bytes(4, "little")
    data[510:512] = b"\x55\xaa"
    return bytes(data)
