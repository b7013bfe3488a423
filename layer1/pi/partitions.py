"""The partition table of a Raspberry Pi OS image: MBR with FAT32 first and ext4 second, and nothing else."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from layer1.errors import ImageError

_SECTOR_BYTES = 512
_FAT32_TYPES = (0x0B, 0x0C)
_LINUX_TYPE = 0x83
_GPT_TYPE = 0xEE
_EXT4_MAGIC_AT = 1024 + 56
_EXT4_MAGIC = b"\x53\xef"


@dataclass(frozen=True, kw_only=True, slots=True)
class Partition:
    """Where a partition lies in the image, in bytes."""

    start_bytes: int
    size_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """The image's two partitions."""

    boot: Partition
    root: Partition


def read(image: Path) -> Layout:
    """Read the partition table and the heads of both file systems.

    Raises:
        ImageError: anything but MBR, FAT32, ext4, in this order and within the file.
    """
    size_bytes = image.stat().st_size
    with image.open("rb") as stream:
        sector = stream.read(_SECTOR_BYTES)
        if len(sector) < _SECTOR_BYTES or sector[510:] != b"\x55\xaa":
            raise _wrong(image, "has no MBR partition table")
        entries = [struct.unpack_from("<B3xB3xII", sector, 446 + 16 * index) for index in range(4)]
        types = [entry[1] for entry in entries]
        if _GPT_TYPE in types:
            raise _wrong(image, "has a GPT; Raspberry Pi OS images have an MBR")
        if types[0] not in _FAT32_TYPES or types[1] != _LINUX_TYPE or any(types[2:]):
            found = ", ".join(f"0x{kind:02x}" for kind in types if kind)
            raise _wrong(image, f"has partitions of the types {found or 'none'}, not 0x0c and 0x83")
        boot, root = (
            Partition(start_bytes=start * _SECTOR_BYTES, size_bytes=count * _SECTOR_BYTES)
            for _, _, start, count in entries[:2]
        )
        if not 0 < boot.start_bytes < boot.start_bytes + boot.size_bytes <= root.start_bytes:
            raise _wrong(image, "has overlapping partitions")
        if root.start_bytes + root.size_bytes > size_bytes:
            raise _wrong(image, "is shorter than its partition table says: it is not whole")
        stream.seek(boot.start_bytes)
        head = stream.read(_SECTOR_BYTES)
        if head[82:90] != b"FAT32   " or head[510:] != b"\x55\xaa":
            raise _wrong(image, "has no FAT32 file system in its first partition")
        stream.seek(root.start_bytes + _EXT4_MAGIC_AT)
        if stream.read(2) != _EXT4_MAGIC:
            raise _wrong(image, "has no ext4 file system in its second partition")
    return Layout(boot=boot, root=root)


def _wrong(image: Path, what: str) -> ImageError:
    return ImageError(
        f"{image}: {what}; it is not a Raspberry Pi OS image as Layer 1 knows it, so it is left alone"
    )
