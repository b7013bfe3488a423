"""Which Flatcar version an image is: a signature covers an image's bytes, not its name.

Flatcar signs every file by itself, and no signed text names an image's digest together with its version. So a
mirror can serve an old, genuinely signed image below a new version's address. Three facts tell:

1. `version.txt` beside the image, with its own signature by the same key, must say the version asked for.
   This refuses a whole old directory under a new name.
2. The image names its own version: its OEM partition holds `oem-<flavour>-<version>.raw` (flatcar/scripts,
   build_library/vm_image_util.sh, in stable since 3815). The name stands uncompressed in a btrfs directory
   item, and the bytes are signed, so nobody but the signer can change it. It must be this version and this
   flavour; another name is refused. The EFI partition likewise tells the architecture (BOOTX64.EFI or
   BOOTAA64.EFI). This refuses an old image beside a new version.txt.
3. An image that names no version (older than 3815, or laid out in a way not known here) must have been signed
   between 1 day before and 7 days after its version.txt, by the times that the signatures cover.

What remains: an image that names nothing inside and was signed within those days for another version or
channel; all channels are released on the same day. A pin closes that: with one, only its exact bytes are
used, and facts 1 and 3 are not needed. The partitions are searched for the names, not parsed as file systems;
that the names are where they are sought comes from the build scripts, not from a look into a released image.
"""

from __future__ import annotations

import errno
import mmap
import os
import re
import struct
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from layer1.images.artefact import Artefact
from layer1.images.failure import ArtefactError
from layer1.images.inspect import run_qemu_img

EARLIEST = timedelta(days=-1)
LATEST = timedelta(days=7)

_SECTOR = 512
_MAX_PARTITION_BYTES = 4 * 1024**3
_OEM_NAME = re.compile(rb"oem-([a-z][a-z0-9_]{0,30})-([0-9][0-9A-Za-z.+_-]{0,60}?)\.raw")
# FAT directory entries: eight characters of name, three of extension, padded, without the dot.
_BOOT_NAMES = {b"BOOTX64 EFI": "amd64", b"BOOTAA64EFI": "arm64"}

BoundBy = Literal["inside", "signing time", "pin"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Inside:
    """What an image says of itself; empty where it says nothing.

    Attributes:
        oems: pairs of OEM name and version.
        architectures: `amd64`, `arm64`.
    """

    oems: frozenset[tuple[str, str]]
    architectures: frozenset[str]


def parse_version_txt(text: str, shown: str) -> str:
    """Return FLATCAR_VERSION of a version.txt.

    Args:
        text: content of the file, its signature already checked.
        shown: name of the file for messages.

    Raises:
        ArtefactError: check "version": there is not exactly one such line.
    """
    found: list[str] = re.findall(
        r"^FLATCAR_VERSION=\"?([^\"\n]*)\"?$", text.replace("\r\n", "\n"), re.MULTILINE
    )
    if len(found) != 1:
        raise ArtefactError(
            "version",
            shown,
            "does not name one version",
            expected="one line FLATCAR_VERSION=…",
            found=f"{len(found)} such lines",
            remedy="use another mirror",
        )
    return found[0]


def read_inside(path: Path, artefact: Artefact, scratch: Path) -> Inside:
    """Read version, flavour and architecture from the partitions of an image whose bytes are signed.

    Args:
        path: the image, of checked format: no backing file.
        artefact: names format and file.
        scratch: private folder with room for two sparse partitions.

    Raises:
        ArtefactError: check "format": qemu-img cannot read the image.
    """
    with tempfile.TemporaryDirectory(prefix="inside-", dir=scratch) as name:
        folder = Path(name)
        partitions = _partitions(_slice(path, artefact, 0, 34 * _SECTOR, folder / "table").read_bytes())
        oems: set[tuple[str, str]] = set()
        architectures: set[str] = set()
        if span := partitions.get("OEM"):
            with _Mapped(_slice(path, artefact, *span, folder / "oem")) as mapped:
                oems = {
                    (match[1].decode(), match[2].decode())
                    for start, end in mapped.extents()
                    for match in _OEM_NAME.finditer(mapped.data, start, end)
                }
        if span := partitions.get("EFI-SYSTEM"):
            with _Mapped(_slice(path, artefact, *span, folder / "efi")) as mapped:
                architectures = {
                    arch
                    for start, end in mapped.extents()
                    for entry, arch in _BOOT_NAMES.items()
                    if mapped.data.find(entry, start, end) >= 0
                }
    return Inside(oems=frozenset(oems), architectures=frozenset(architectures))


def bind(
    artefact: Artefact,
    inside: Inside,
    signed_at: datetime,
    said: tuple[str, datetime] | None,
) -> BoundBy:
    """Decide that an image is the version it is fetched as, and say by what.

    Args:
        artefact: the image as asked for.
        inside: what it says of itself.
        signed_at: when the image was signed.
        said: version and time of signing of version.txt; None where a pin already names the bytes.

    Raises:
        ArtefactError: check "version".
    """
    shown = f"{artefact.name} ({artefact.file_name})"
    remedy = (
        "do not use this source: it serves another image under this name; where you know the right digest "
        f"from elsewhere, `{artefact.command('pin')} --sha512 DIGEST`"
    )
    if said is not None and said[0] != artefact.version:
        raise ArtefactError(
            "version",
            artefact.sibling("version.txt"),
            "the signed version.txt is of another version",
            expected=artefact.version,
            found=said[0],
            remedy=remedy,
        )
    wanted = {(artefact.oem, artefact.version)}
    if inside.oems and inside.oems != wanted:
        raise ArtefactError(
            "version",
            shown,
            "the image is of another version or flavour",
            expected=f"{artefact.oem} {artefact.version}",
            found=", ".join(" ".join(pair) for pair in sorted(inside.oems)),
            remedy=remedy,
        )
    if inside.architectures and inside.architectures != {artefact.arch}:
        raise ArtefactError(
            "version",
            shown,
            "the image is for another architecture",
            expected=artefact.arch,
            found=", ".join(sorted(inside.architectures)),
            remedy=remedy,
        )
    if said is None:
        return "pin"
    if inside.oems:
        return "inside"
    first, last = said[1] + EARLIEST, said[1] + LATEST
    if not first <= signed_at <= last:
        raise ArtefactError(
            "version",
            shown,
            "the image names no version inside, and was not signed when its version.txt was",
            expected=f"signed from {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC",
            found=f"signed {signed_at:%Y-%m-%d %H:%M} UTC",
            remedy=remedy,
        )
    return "signing time"


def _slice(path: Path, artefact: Artefact, offset: int, size: int, target: Path) -> Path:
    """Copy one span of the disk inside the image to a sparse file; nothing is mounted."""
    # Option strings escape a comma by doubling it.
    name = str(path.resolve()).replace(",", ",,")
    options = (
        f"driver=raw,offset={offset},size={size},"
        f"file.driver={artefact.file_format},file.file.driver=file,file.file.filename={name}"
    )
    run_qemu_img(["qemu-img", "convert", "--image-opts", "-O", "raw", options, str(target)], artefact)
    return target


def _partitions(table: bytes) -> dict[str, tuple[int, int]]:
    """Return (offset, size) in bytes by partition label of a GUID partition table (UEFI 2.10, 5.3)."""
    found: dict[str, tuple[int, int]] = {}
    if table[_SECTOR : _SECTOR + 8] != b"EFI PART":
        return found
    entries, count, size = struct.unpack_from("<QII", table, _SECTOR + 72)
    if entries != 2 or size != 128:
        return found
    for index in range(min(count, 128)):
        entry = table[2 * _SECTOR + index * 128 : 2 * _SECTOR + (index + 1) * 128]
        if len(entry) < 128 or entry[:16] == bytes(16):
            continue
        first, last = struct.unpack_from("<QQ", entry, 32)
        label = entry[56:128].decode("utf-16-le", errors="replace").split("\0", 1)[0]
        length = (last - first + 1) * _SECTOR
        if 0 < length <= _MAX_PARTITION_BYTES:
            found[label] = (first * _SECTOR, length)
    return found


class _Mapped:
    """A sparse file as bytes, without reading it whole."""

    def __init__(self, path: Path) -> None:
        self._stream = path.open("rb")
        self.data = mmap.mmap(self._stream.fileno(), 0, access=mmap.ACCESS_READ)

    def __enter__(self) -> _Mapped:
        return self

    def __exit__(self, *_: object) -> None:
        self.data.close()
        self._stream.close()

    def extents(self) -> Iterator[tuple[int, int]]:
        """Yield start and end of what is not a hole; a name never spans one, for a hole is zeros."""
        descriptor, end, size = self._stream.fileno(), 0, len(self.data)
        while end < size:
            try:
                start = os.lseek(descriptor, end, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:  # nothing but a hole to the end
                    return
                raise
            end = os.lseek(descriptor, start, os.SEEK_HOLE)
            yield start, end
