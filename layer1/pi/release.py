"""What a Raspberry Pi OS image really is, and which first-boot files it reads.

The wrong kind of first-boot file is ignored in silence, so the image itself is asked, not its name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from layer1.errors import ImageError
from layer1.pi.partitions import Partition
from layer1.processes import last_lines, run

RELEASES = ("bookworm", "trixie")
"""The releases of Raspberry Pi OS that Layer 1 knows how to personalise."""
FIRMWARE = "/boot/firmware"
_NEEDED = (
    "/usr/bin/curl",
    "/usr/bin/flock",
    "/usr/bin/sudo",
    "/usr/bin/systemctl",
    "/usr/sbin/nft",
    "/usr/sbin/sshd",
    "/usr/sbin/useradd",
    "/usr/sbin/visudo",
)
_PACKAGE_FILES = "/var/lib/dpkg/info/{}.list"


class Mechanism(StrEnum):
    """How an image runs something once: the kernel's command line (systemd), or cloud-init's files."""

    SYSTEMD_RUN = "systemd.run"
    CLOUD_INIT = "cloud-init"


@dataclass(frozen=True, kw_only=True, slots=True)
class Release:
    """What was read from an image.

    Attributes:
        codename: Debian's, such as bookworm.
        image_date: of /etc/rpi-issue, as YYYY-MM-DD.
        mechanism: what reads the first-boot files.
    """

    codename: str
    image_date: str
    mechanism: Mechanism


def read(image: Path, root: Partition, boot_names: frozenset[str]) -> Release:
    """Read the release from the image's root file system, with debugfs: no root, no mount, nothing written.

    Args:
        image: the raw image.
        root: its ext4 partition.
        boot_names: names in the root of its FAT partition, lower case.

    Raises:
        ImageError: not Raspberry Pi OS arm64, a release or first-boot mechanism that Layer 1 does not know,
            or something is missing that the personalisation needs.
    """
    ext4 = _Ext4(image, root)
    facts = _pairs(ext4.text("/usr/lib/os-release"))
    issue = re.match(r"Raspberry Pi reference ([0-9]{4}-[0-9]{2}-[0-9]{2})", ext4.text("/etc/rpi-issue"))
    if facts.get("ID") != "debian" or issue is None:
        raise ImageError(
            f"{image}: not Raspberry Pi OS 64-bit: its os-release has ID={facts.get('ID', 'nothing')}, and "
            f"there is {'an' if issue else 'no'} /etc/rpi-issue; take a Lite arm64 image"
        )
    codename = facts.get("VERSION_CODENAME", "")
    if codename not in RELEASES:
        raise ImageError(
            f"{image}: Raspberry Pi OS {codename or 'of an unnamed release'} of {issue[1]} is not covered; "
            f"which first-boot files it reads is not known here. Covered: {', '.join(RELEASES)}"
        )
    if not re.search(rf"\s{FIRMWARE}\s+vfat\s", ext4.text("/etc/fstab")):
        raise ImageError(
            f"{image}: its /etc/fstab does not mount the FAT partition at {FIRMWARE}; take a later one"
        )
    if missing := [path for path in _NEEDED if not ext4.exists(path)]:
        raise ImageError(f"{image}: lacks what the board's first boot needs: {', '.join(missing)}")
    mechanism = _mechanism(image, ext4, codename, boot_names)
    return Release(codename=codename, image_date=issue[1], mechanism=mechanism)


def taken_names(image: Path, root: Partition) -> frozenset[str]:
    """Return the names of the image's users and groups, which no new login can have.

    Raises:
        ImageError: the root file system cannot be read.
    """
    ext4 = _Ext4(image, root)
    lines = [*ext4.text("/etc/passwd").splitlines(), *ext4.text("/etc/group").splitlines()]
    return frozenset(line.partition(":")[0] for line in lines)


def _mechanism(image: Path, ext4: _Ext4, codename: str, boot_names: frozenset[str]) -> Mechanism:
    if ext4.exists(_PACKAGE_FILES.format("rpi-preseed")):
        raise ImageError(
            f"{image}: has the package rpi-preseed, the newest first-boot format, which Layer 1 does not "
            "write; take an image from before it"
        )
    cloud_init = ext4.exists(_PACKAGE_FILES.format("cloud-init"))
    if codename == "bookworm":
        if cloud_init:
            raise ImageError(
                f"{image}: a bookworm image with cloud-init is not one of Raspberry Pi's; take theirs"
            )
        return Mechanism.SYSTEMD_RUN
    # The first trixie images (2025-10-01) carry cloud-init, but without the files that make it run.
    if cloud_init and {"meta-data", "user-data"} <= boot_names:
        return Mechanism.CLOUD_INIT
    return Mechanism.SYSTEMD_RUN


def _pairs(text: str) -> dict[str, str]:
    found = (line.partition("=") for line in text.splitlines() if "=" in line)
    return {name: value.strip().strip('"') for name, _, value in found}


class _Ext4:
    """The root file system, read by debugfs at its offset within the image."""

    def __init__(self, image: Path, root: Partition) -> None:
        self._image = image
        self._device = f"{image}?offset={root.start_bytes}"

    def text(self, path: str) -> str:
        """Return a file's text; nothing when it is not there."""
        return self._ask(f"cat {path}")

    def exists(self, path: str) -> bool:
        """Say whether the path is there; the last component may be a link."""
        return self._ask(f"stat {path}").startswith("Inode:")

    def _ask(self, request: str) -> str:
        result = run(["debugfs", "-R", request, self._device])
        if result.returncode != 0 or "Filesystem not open" in result.stderr:
            raise ImageError(
                f"{self._image}: its ext4 partition cannot be read; "
                f"debugfs said: {last_lines(result.stderr, 2)}"
            )
        return result.stdout
