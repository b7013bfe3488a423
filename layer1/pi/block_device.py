"""What the kernel and udev say about a disk that an operator named below /dev/disk/by-id/.

Nothing here writes. A disk's *tree* is the disk, its partitions, and whatever is built on one of them
(device mapper, MD, LVM, a loop device over it), to any depth.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

BUSES = ("mmc", "nvme", "usb")
_SECTOR_BYTES = 512  # the kernel counts sizes in these, whatever the disk's own sectors are
_SYSTEM_MOUNTS = ("/", "/boot", "/boot/efi", "/boot/firmware", "/efi", "/usr", "/var")
_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, kw_only=True, slots=True)
class Sources:
    """Where facts are read; a request cannot name others.

    Attributes:
        by_id: udev's links.
        udev: udev's database.
        sysfs: the kernel's description of devices.
        proc: the kernel's lists of mounts and swap areas.
    """

    by_id: Path = Path("/dev/disk/by-id")
    udev: Path = Path("/run/udev/data")
    sysfs: Path = Path("/sys")
    proc: Path = Path("/proc")


@dataclass(frozen=True, kw_only=True, slots=True)
class Disk:
    """A block device as it is now.

    Attributes:
        link: the by-id path it was named by.
        node: the device itself, such as /dev/sda.
        number: the kernel's number of it, as in `st_rdev`.
        partition: whether it is a part of a disk.
        removable: whether its medium can be taken out.
        bus: "mmc", "nvme" or "usb", or "" for any other.
        size_bytes: its size; 0 for a reader without a card.
        sector_bytes: its logical sectors.
        read_only: whether the kernel refuses writes (a card's lock switch).
        model: for people; may be empty.
        serial: what an operator confirms; empty where the device has none.
        uses: a phrase for each thing that uses its tree.
        system: the mount points of the running system that lie on its tree.
    """

    link: Path
    node: Path
    number: int
    partition: bool
    removable: bool
    bus: str
    size_bytes: int
    sector_bytes: int
    read_only: bool
    model: str
    serial: str
    uses: tuple[str, ...]
    system: tuple[str, ...]


def read(link: Path, sources: Sources) -> Disk:
    """Read the facts of the block device that a by-id link leads to.

    Raises:
        OSError: the device is not there, or left while it was looked at.
        ValueError: the link does not lead to a block device.
    """
    node = link.resolve(strict=True)
    status = node.stat()
    if not stat.S_ISBLK(status.st_mode):
        raise ValueError(f"{link} leads to {node}, which is no block device")
    number = status.st_rdev
    place = (sources.sysfs / "dev/block" / _colon(number)).resolve(strict=True)
    disk = place.parent if (place / "partition").exists() else place
    properties = _udev_properties(number, sources)
    tree = _tree(place, sources)
    mounts = sorted({(tree[device], point) for device, point in _mounts(sources) if device in tree})
    return Disk(
        link=link,
        node=node,
        number=number,
        partition=disk != place,
        removable=_text(disk / "removable") == "1",
        bus=_bus(disk),
        size_bytes=int(_text(place / "size") or 0) * _SECTOR_BYTES,
        sector_bytes=int(_text(disk / "queue/logical_block_size") or _SECTOR_BYTES),
        read_only=_text(place / "ro") != "0",
        model=(properties.get("ID_MODEL") or _text(disk / "device/model") or _text(disk / "device/name")),
        serial=_serial(properties, disk),
        uses=(
            *(f"{name} is mounted at {point}" for name, point in mounts),
            *(f"{tree[device]} is swap space" for device in _swaps(sources) if device in tree),
            *(f"{name} is built on it" for name in sorted(_built(tree, place, sources))),
        ),
        system=tuple(sorted({point for _, point in mounts if point in _SYSTEM_MOUNTS})),
    )


def links(sources: Sources) -> tuple[Path, ...]:
    """Return one by-id link for each whole disk, preferring the one that names its bus."""
    found: dict[int, list[Path]] = {}
    for link in sorted(sources.by_id.glob("*")):
        try:
            number = link.stat().st_rdev
        except OSError:
            continue  # udev has not yet taken away the link of a device that left
        if not (sources.sysfs / "dev/block" / _colon(number) / "partition").exists():
            found.setdefault(number, []).append(link)
    return tuple(min(group, key=lambda link: (not names_bus(link), link.name)) for group in found.values())


def names_bus(link: Path, bus: str = "") -> bool:
    """Tell whether a by-id link names its bus: the given one, or any of `BUSES`."""
    return link.name.startswith(tuple(f"{name}-" for name in ([bus] if bus else BUSES)))


def _colon(number: int) -> str:
    return f"{os.major(number)}:{os.minor(number)}"


def _text(path: Path) -> str:
    """Return an attribute of the kernel, empty where the device has no such attribute."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _udev_properties(number: int, sources: Sources) -> dict[str, str]:
    lines = _text(sources.udev / f"b{_colon(number)}").splitlines()
    pairs = (line[2:].partition("=") for line in lines if line.startswith("E:"))
    return {key: value for key, _, value in pairs}


def _serial(properties: dict[str, str], disk: Path) -> str:
    """Return the serial as udev shortens it; by udev's long form or the kernel's where there is none."""
    return (
        properties.get("ID_SERIAL_SHORT")
        or properties.get("ID_SERIAL")
        or _text(disk / "device/serial")
        or _text(disk / "serial")
    ).strip()


def _bus(disk: Path) -> str:
    """Return the nearest of `BUSES` on the way from a disk to the root of the machine."""
    for folder in disk.parents:
        subsystem = folder / "subsystem"
        name = subsystem.resolve().name if subsystem.is_symlink() else ""
        for bus in BUSES:
            if name.startswith(bus):  # "mmc_host", "nvme-subsystem"
                return bus
    return ""


def _tree(place: Path, sources: Sources) -> dict[str, str]:
    """Return the name of every device of a disk's tree by its number."""
    tree: dict[str, str] = {}
    waiting = [place]
    loops = dict(_loops(sources))
    while waiting:
        folder = waiting.pop()
        device = _text(folder / "dev")
        if device in tree:
            continue
        tree[device] = folder.name
        parts = (part.parent for part in folder.glob("*/partition"))
        holders = (sources.sysfs / "class/block" / holder.name for holder in folder.glob("holders/*"))
        over = (loop for loop, below in loops.items() if below == device)
        waiting.extend(found.resolve() for found in (*parts, *holders, *over))
    return tree


def _loops(sources: Sources) -> Iterator[tuple[Path, str]]:
    """Return each loop device over a block device; the kernel lists those as nobody's holders."""
    for backing in (sources.sysfs / "class/block").glob("loop*/loop/backing_file"):
        device = _device_of(_text(backing))
        if device:
            yield backing.parent.parent, device


def _device_of(path: str) -> str:
    """Return the number of the block device at a path, empty for anything else."""
    try:
        status = Path(path).stat()
    except (OSError, ValueError):
        return ""
    return _colon(status.st_rdev) if stat.S_ISBLK(status.st_mode) else ""


def _mounts(sources: Sources) -> Iterator[tuple[str, str]]:
    """Return device and mount point of each mount.

    Btrfs shows a number that no device has, so the source's own number is given as well.
    """
    for line in (sources.proc / "self/mountinfo").read_text(errors="replace").splitlines():
        fields = line.split(" ")
        point = _unescaped(fields[4])
        yield fields[2], point
        source = _unescaped(fields[fields.index("-", 6) + 2])
        if source.startswith("/"):
            yield _device_of(source), point


def _swaps(sources: Sources) -> Iterator[str]:
    for line in (sources.proc / "swaps").read_text(errors="replace").splitlines()[1:]:
        yield _device_of(_unescaped(line.split()[0]))


def _unescaped(text: str) -> str:
    return _OCTAL.sub(lambda found: chr(int(found[1], 8)), text)


def _built(tree: dict[str, str], place: Path, sources: Sources) -> Iterator[str]:
    """Name what is built on a disk, rather than a part of it."""
    for device, name in tree.items():
        folder = sources.sysfs / "dev/block" / device
        if name == place.name or (folder / "partition").exists():
            continue
        label = _text(folder / "dm/name")
        yield f"{name} ({label})" if label else name
