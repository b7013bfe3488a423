"""Decides whether a disk may be flashed; tells all that speaks against it at once, and writes nothing."""

from __future__ import annotations

import errno
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from layer1.errors import Layer1Error
from layer1.pi import block_device
from layer1.pi.block_device import Disk, Sources

SOURCES = Sources()
SECTOR_BYTES = 512  # the images' partition tables count in these
_SHA256 = re.compile(r"[0-9a-f]{64}")
_HOW_TO_LIST = "`python -m layer1 pi devices` lists the disks"


class FlashError(Layer1Error):
    """A device was not written, or what it holds now is not the image."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FlashOrder:
    """What to write where.

    Attributes:
        image: a raw disk image.
        image_sha256: its digest, hexadecimal.
        device: path of a whole disk below /dev/disk/by-id/; all it holds is erased.
        confirm_erase: the disk's serial, by which the operator says that it may be erased.
    """

    image: Path
    image_sha256: str
    device: str
    confirm_erase: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A disk that udev names, and why it could not be flashed, if so.

    Attributes:
        device: its by-id path.
        node: such as /dev/sda.
        size_bytes: its size.
        model: for people.
        serial: what `confirm_erase` must say.
        refusals: empty for a disk that can be flashed.
    """

    device: str
    node: str
    size_bytes: int
    model: str
    serial: str
    refusals: tuple[str, ...]


def refusals(order: FlashOrder, sources: Sources = SOURCES) -> tuple[str, ...]:
    """Return everything that speaks against an order; empty when it may be carried out. Writes nothing."""
    size_bytes, problems = image_refusals(order)
    try:
        disk = named(order.device, sources)
    except FlashError as error:
        return (*problems, str(error))
    return (*problems, *order_refusals(order, disk, size_bytes), *_claim_refusals(disk))


def candidates(sources: Sources = SOURCES) -> tuple[Candidate, ...]:
    """Return every whole disk that udev names, with what speaks against flashing it."""
    found = []
    for link in block_device.links(sources):
        try:
            disk = block_device.read(link, sources)
        except (OSError, ValueError):
            continue  # it left meanwhile
        found.append(
            Candidate(
                device=str(link),
                node=str(disk.node),
                size_bytes=disk.size_bytes,
                model=disk.model,
                serial=disk.serial,
                refusals=(*_disk_refusals(disk), *_claim_refusals(disk)),
            )
        )
    return tuple(found)


def refused(order: FlashOrder, problems: tuple[str, ...]) -> FlashError:
    """Return the error that tells refusals."""
    return FlashError(
        "\n".join([f"{order.device}: refused, nothing was written:", *(f"  - {text}" for text in problems)])
    )


def image_refusals(order: FlashOrder) -> tuple[int, tuple[str, ...]]:
    """Return the image's size in bytes and what speaks against it."""
    problems = []
    size_bytes = 0
    try:
        status = order.image.stat()
        if stat.S_ISREG(status.st_mode):
            size_bytes = status.st_size
            with order.image.open("rb") as file:
                bootable = file.read(SECTOR_BYTES)[510:] == b"\x55\xaa"
            if not bootable:
                problems.append(
                    f"the image {order.image} has no partition table: it is compressed, cut off or no disk "
                    "image; name the raw image"
                )
        else:
            problems.append(f"the image {order.image} is not a file; name the node's image file")
    except OSError as error:
        problems.append(
            f"the image {order.image} cannot be read ({error.strerror}); name the node's image file"
        )
    if not _SHA256.fullmatch(order.image_sha256):
        problems.append(
            "the image's SHA-256 must be 64 hexadecimal digits in lower case, as `sha256sum` says"
        )
    return size_bytes, tuple(problems)


def named(device: str, sources: Sources) -> Disk:
    """Return the block device that an order names.

    Raises:
        FlashError: a refusal; it is not named as it must be, not there, or not a block device.
    """
    link = Path(device)
    if link.parent != sources.by_id or link.name in {"", ".."}:
        raise FlashError(
            f"the device must be a path directly below {sources.by_id}/, for a name such as /dev/sda passes "
            f"from one disk to another; {_HOW_TO_LIST}"
        )
    try:
        return block_device.read(link, sources)
    except ValueError as error:
        raise FlashError(f"{error}; {_HOW_TO_LIST}") from None
    except OSError as error:
        raise FlashError(
            f"{link.name} is not there ({error.strerror}): plug it in, or look for its name; {_HOW_TO_LIST}"
        ) from None


def order_refusals(order: FlashOrder, disk: Disk, image_bytes: int) -> tuple[str, ...]:
    """Return what speaks against writing this image to this disk."""
    problems = list(_disk_refusals(disk))
    if 0 < disk.size_bytes < image_bytes:
        problems.append(
            f"{disk.node} has {disk.size_bytes} bytes and the image {image_bytes}; use a larger card, or a "
            "smaller image"
        )
    if disk.serial and order.confirm_erase != disk.serial:
        problems.append(
            f"confirm_erase is not the serial of {disk.node}: this may not be the disk that you mean. Read "
            "the serial of yours by `python -m layer1 pi devices`, or `lsblk -o NAME,SIZE,MODEL,SERIAL`"
        )
    return tuple(problems)


def _disk_refusals(disk: Disk) -> tuple[str, ...]:
    """Return what speaks against flashing a disk at all."""
    problems = []
    if disk.system:
        problems.append(
            f"{disk.node} holds the running system ({', '.join(disk.system)}); this is never written, "
            "name the card"
        )
    if disk.uses:
        problems.append(
            f"{disk.node} is in use: {_some(disk.uses)}; unmount, swapoff or close these first, if it is the "
            "one you mean"
        )
    if disk.partition:
        problems.append(
            f"{disk.link.name} is a partition ({disk.node}); name the whole disk, without -part at the end"
        )
    if not disk.removable and not disk.bus:
        problems.append(
            f"{disk.node} is not removable, nor on USB, NVMe or MMC: a fixed disk is never written; use a "
            "card reader or a USB case"
        )
    elif not disk.removable and not block_device.names_bus(disk.link, disk.bus):
        problems.append(
            f"{disk.node} is not removable, so its name must say what it is: use its link that starts with "
            f"{disk.bus}-"
        )
    if not disk.size_bytes:
        problems.append(f"{disk.node} has no medium; put the card into the reader")
    if disk.sector_bytes != SECTOR_BYTES:
        problems.append(
            f"{disk.node} has sectors of {disk.sector_bytes} bytes, where the images' partition tables count "
            f"{SECTOR_BYTES}; a board would not find its partitions, use another disk"
        )
    if disk.read_only:
        problems.append(f"{disk.node} is read-only; move the card's lock switch, or the adapter's")
    if not disk.serial:
        problems.append(
            f"{disk.node} shows no serial, so that nobody can confirm that it is the one; use another reader"
        )
    return tuple(problems)


def _some(phrases: tuple[str, ...], most: int = 5) -> str:
    more = len(phrases) - most
    return ", ".join([*phrases[:most], *([f"and {more} more"] if more > 0 else [])])


def _claim_refusals(disk: Disk) -> tuple[str, ...]:
    """Ask the kernel whether somebody holds the device, in ways that lists of mounts do not show."""
    if not disk.size_bytes or disk.uses:
        return ()  # said already
    try:
        os.close(os.open(disk.node, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
    except OSError as error:
        return (claim_problem(disk, error),)
    return ()


def claim_problem(disk: Disk, error: OSError) -> str:
    """Return the refusal that a failed opening of a disk means."""
    if error.errno == errno.EBUSY:
        return (
            f"the kernel says that {disk.node} is held, by a mount (perhaps a container's), another disk "
            "layer or a program; close it, or unplug the disk and plug it in again"
        )
    if error.errno in {errno.EACCES, errno.EPERM}:
        return f"this user may not open {disk.node}; flash as root: `sudo … python -m layer1 pi flash`"
    return f"{disk.node} cannot be opened ({error.strerror}); unplug it and plug it in again"
