"""Writes an image onto a card or disk, behind a guard, and reads it back.

The start of an image (partition table, and on a Pi the start of its boot partition) is blanked first and
written last. So a card whose writing was cut off boots nothing, and the next run simply starts again. What
was written is read back from the medium before anything is called done.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import mmap
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from layer1.images.download import OnProgress, Progress
from layer1.pi.block_device import Disk, Sources
from layer1.pi.guard import (
    SECTOR_BYTES,
    SOURCES,
    FlashError,
    FlashOrder,
    claim_problem,
    image_refusals,
    named,
    order_refusals,
    refusals,
    refused,
)

CHUNK_BYTES = 4 << 20  # one write; also what is blanked first and written last
_MIB = 1 << 20
_TAIL_BYTES = _MIB  # holds the second copy of a GPT, which tools would restore
_FLUSH_BUFFERS, _READ_PARTITIONS = 0x1261, 0x125F  # BLKFLSBUF and BLKRRPART of <linux/fs.h>


@dataclass(frozen=True, kw_only=True, slots=True)
class Flashed:
    """A device that holds the image.

    Attributes:
        device: the by-id path.
        serial: its serial.
        bytes_written: size of the image.
        sha256: digest of the bytes read back from the device.
    """

    device: str
    serial: str
    bytes_written: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class _Image:
    """An open image whose digest was right when it was read, and the digest of each of its chunks."""

    file: int
    name: str
    size_bytes: int
    chunks: tuple[bytes, ...]


def flash(order: FlashOrder, on_progress: OnProgress, sources: Sources = SOURCES) -> Flashed:
    """Write an image onto a device and compare what the device then holds.

    Args:
        order: what and where.
        on_progress: called with every chunk checked, written and compared.
        sources: where facts about devices are read.

    Raises:
        FlashError: the device or the image was refused, before the first byte was written; or writing failed
            or the device returned other bytes, after which its start is blank where it still takes writes.
    """
    problems = refusals(order, sources)
    if problems:
        raise refused(order, problems)
    with _claimed(order, sources) as (device, disk), _checked(order, on_progress) as image:
        step = "blanking its start"
        try:
            _blank(device, disk)
            step = "writing"
            _write(device, image, disk, on_progress)
            step = "reading back"
            sha256 = _compare(device, image, disk, on_progress)
        except OSError as error:
            raise FlashError(
                f"{order.device}: {step} failed ({error.strerror}): it was pulled out, or it or its reader "
                f"is bad. {_spoiled(device, disk)}; flash it again, or another one"
            ) from None
        _show_partitions(device, disk, on_progress)
    return Flashed(device=order.device, serial=disk.serial, bytes_written=image.size_bytes, sha256=sha256)


def digest(image: Path) -> str:
    """Return the SHA-256 of an image file.

    Raises:
        FlashError: it cannot be read.
    """
    try:
        with image.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise FlashError(f"{image}: cannot be read ({error.strerror}); name the node's image file") from None


@contextmanager
def _claimed(order: FlashOrder, sources: Sources) -> Iterator[tuple[int, Disk]]:
    """Open the device so that nothing can mount it meanwhile, and judge it again as the one that is open.

    Raises:
        FlashError: it cannot be opened for writing alone, or is not what it was a moment ago.
    """
    disk = named(order.device, sources)
    flags = os.O_RDWR | os.O_EXCL | os.O_DIRECT | os.O_SYNC | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        device = os.open(disk.node, flags)
    except OSError as error:
        raise refused(order, (claim_problem(disk, error),)) from None
    try:
        disk = named(order.device, sources)
        size_bytes, problems = image_refusals(order)
        problems = (*problems, *order_refusals(order, disk, size_bytes))
        if os.fstat(device).st_rdev != disk.number:
            problems = (*problems, "it was exchanged while it was looked at; look again")
        if problems:
            raise refused(order, problems)
        yield device, disk
    finally:
        os.close(device)


# --- the image


@contextmanager
def _checked(order: FlashOrder, on_progress: OnProgress) -> Iterator[_Image]:
    """Open the image and check its digest.

    Raises:
        FlashError: it is not the image that was ordered.
    """
    with ExitStack() as stack:
        try:
            file = stack.enter_context(order.image.open("rb"))
            image, found = _read_image(file, order.image.name, on_progress)
        except OSError as error:
            raise refused(
                order, (f"the image {order.image} cannot be read ({error.strerror}); make it again",)
            ) from None
        if found != order.image_sha256:
            problem = (
                f"the image {order.image} is not the one that was ordered: its SHA-256 is {found}, ordered "
                f"was {order.image_sha256}; it was changed or made again since, so order it as it is, or "
                "make it again"
            )
            raise refused(order, (problem,))
        yield image


def _read_image(file: BufferedReader, name: str, on_progress: OnProgress) -> tuple[_Image, str]:
    """Read an image once; return what is needed to read it again, and its SHA-256."""
    label = f"check {name}"
    total_bytes = os.fstat(file.fileno()).st_size
    whole, chunks = hashlib.sha256(), []
    while block := file.read(CHUNK_BYTES):
        whole.update(block)
        chunks.append(hashlib.sha256(block).digest())
        on_progress(_progress(label, file.tell(), total_bytes))
    on_progress(_progress(label, file.tell(), total_bytes, done=True))
    image = _Image(file=file.fileno(), name=name, size_bytes=file.tell(), chunks=tuple(chunks))
    return image, whole.hexdigest()


def _progress(label: str, done_bytes: int, total_bytes: int, *, done: bool = False) -> Progress:
    return Progress(
        kind="done" if done else "advance", file=label, done_bytes=done_bytes, total_bytes=total_bytes
    )


# --- the device


def _buffer() -> memoryview:
    """Return zeros for one chunk, aligned as direct input and output wants it."""
    return memoryview(mmap.mmap(-1, CHUNK_BYTES))


def _blank(device: int, disk: Disk) -> None:
    """Take away the old partition table and its second copy."""
    zeros = _buffer()
    tail = max(0, disk.size_bytes - _TAIL_BYTES)
    _write_all(device, zeros[: disk.size_bytes - tail], tail)
    _write_all(device, zeros[: min(CHUNK_BYTES, disk.size_bytes)], 0)
    os.fsync(device)


def _write(device: int, image: _Image, disk: Disk, on_progress: OnProgress) -> None:
    """Write every chunk, the first one last."""
    label = f"write {disk.link.name}"
    buffer = _buffer()
    done_bytes = 0
    for index in (*range(1, len(image.chunks)), 0):
        start, length = _span(image, index)
        _read_all(image.file, buffer[:length], start)
        if hashlib.sha256(buffer[:length]).digest() != image.chunks[index]:
            raise FlashError(
                f"{disk.link}: the image {image.name} changed while it was written; the device does not "
                "boot. Let nothing write to the image, and flash again"
            )
        padded = _padded(length)
        buffer[length:padded] = bytes(padded - length)
        _write_all(device, buffer[:padded], start)
        done_bytes += length
        on_progress(_progress(label, done_bytes, image.size_bytes))
    os.fsync(device)
    on_progress(_progress(label, done_bytes, image.size_bytes, done=True))


def _compare(device: int, image: _Image, disk: Disk, on_progress: OnProgress) -> str:
    """Read the image back from the medium and return its SHA-256.

    Raises:
        FlashError: the device returned other bytes.
    """
    fcntl.ioctl(device, _FLUSH_BUFFERS)
    label = f"compare {disk.link.name}"
    buffer = _buffer()
    whole = hashlib.sha256()
    for index, expected in enumerate(image.chunks):
        start, length = _span(image, index)
        _read_all(device, buffer[: _padded(length)], start)
        if hashlib.sha256(buffer[:length]).digest() != expected:
            raise FlashError(
                f"{disk.link}: returns other bytes than were written, first in the {CHUNK_BYTES // _MIB} MiB "
                f"after {start // _MIB} MiB: the card is bad or counterfeit (smaller than it says), or its "
                f"reader is bad. {_spoiled(device, disk)}; use another card"
            )
        whole.update(buffer[:length])
        on_progress(_progress(label, start + length, image.size_bytes))
    on_progress(_progress(label, image.size_bytes, image.size_bytes, done=True))
    return whole.hexdigest()


def _span(image: _Image, index: int) -> tuple[int, int]:
    """Return where a chunk starts and how long it is, in bytes."""
    start = index * CHUNK_BYTES
    return start, min(CHUNK_BYTES, image.size_bytes - start)


def _spoiled(device: int, disk: Disk) -> str:
    """Blank the start of a device that failed, and say whether that went well."""
    try:
        _blank(device, disk)
    except OSError:
        return "Its start could not be blanked afterwards: boot nothing from it"
    return "Its start was blanked, so no board boots it"


def _padded(length: int) -> int:
    return -(-length // SECTOR_BYTES) * SECTOR_BYTES


def _write_all(device: int, view: memoryview, offset: int) -> None:
    while view:
        written = os.pwritev(device, [view], offset)
        if not written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        view, offset = view[written:], offset + written


def _read_all(device: int, view: memoryview, offset: int) -> None:
    while view:
        count = os.preadv(device, [view], offset)
        if not count:
            raise OSError(errno.EIO, "it ended early")
        view, offset = view[count:], offset + count


def _show_partitions(device: int, disk: Disk, on_progress: OnProgress) -> None:
    """Ask the kernel to read the new partition table; the card is right even where it does not."""
    try:
        fcntl.ioctl(device, _READ_PARTITIONS)
    except OSError as error:
        message = (
            f"the kernel has not read the new partition table ({error.strerror}); plug it in again to see it"
        )
        on_progress(Progress(kind="note", file=disk.link.name, message=message))
