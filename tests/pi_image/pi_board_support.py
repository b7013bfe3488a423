"""A board for apply.sh and firstrun.sh: Debian's own systemd, sshd, sudo and nft in namespaces.

Stand-ins: namespaces for the board's kernel (tests/pi_remote/boot-board.sh), a folder for its FAT partition.
The real kernel and a real FAT partition are in tests/arm64.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
import uuid
from pathlib import Path

from layer1.paths import REPOSITORY, cache_dir

PACKAGES = (
    "openssh-server,sudo,systemd-sysv,dbus,libpam-systemd,nftables,procps,iproute2,systemd-timesyncd,"
    "avahi-daemon,bluez,apparmor"
)
RELEASE = "bookworm"
BOOT_TIMEOUT_S = 180


def tree() -> Path:
    """Return the Debian tree, made by the first run that needs it (a minute or two)."""
    folder = cache_dir().absolute() / "pi-image"
    made = folder / f"{RELEASE}-{PACKAGES.replace(',', '-')}"
    if made.exists():
        return made
    folder.mkdir(parents=True, exist_ok=True)
    scratch = folder / f"making-{os.getpid()}"
    sources = [Path("/etc/apt/sources.list.d/debian.sources"), Path("/etc/apt/sources.list")]
    own = os.environ.get("LAB_APT_SOURCES") or next(str(path) for path in sources if path.exists())
    excludes = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale")]
    options = ["--mode=root", "--variant=minbase", "--format=directory", f"--include={PACKAGES}"]
    recommends = '--aptopt=APT::Install-Recommends "false"'
    subprocess.run(
        ["mmdebstrap", *options, *excludes, recommends, RELEASE, str(scratch), own],
        check=True,
        capture_output=True,
        timeout=580,
    )
    with contextlib.suppress(OSError):  # another run was faster
        scratch.rename(made)
    shutil.rmtree(scratch, ignore_errors=True)
    return made


class Disk:
    """What a board writes over its boots; `upper` lies over the tree."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("upper", "work", "root", "cgroup"):
            (folder / name).mkdir(parents=True)
        self.upper = folder / "upper"
        shutil.copytree(tree() / "etc", self.upper / "etc", symlinks=True)

    def write(self, path: str, text: str | bytes, mode: int = 0o644) -> None:
        """Put a file on the disk."""
        place = self.upper / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(text.encode() if isinstance(text, str) else text)
        place.chmod(mode)

    def at_boot(self, name: str, script: str, condition: str) -> None:
        """Have a boot run a script as root."""
        self.write(f"root/{name}.sh", script, 0o755)
        unit = f"[Unit]\n{condition}\n[Service]\nType=exec\nExecStart=/bin/sh /root/{name}.sh\n"
        self.write(f"etc/systemd/system/{name}.service", unit)
        wants = self.upper / "etc/systemd/system/multi-user.target.wants"
        (wants / f"{name}.service").symlink_to(f"/etc/systemd/system/{name}.service")

    def boot(self) -> None:
        """Boot the board and wait until it is off; it reboots and powers off alike."""
        boot_id = self.folder / "boot-id"
        boot_id.write_text(f"{uuid.uuid4()}\n")
        script = REPOSITORY / "tests/pi_remote/boot-board.sh"
        with (self.folder / "console").open("ab") as console:
            subprocess.run(
                ["unshare", "--net", "--mount", str(script), str(tree()), str(self.folder), str(boot_id)],
                stdout=console,
                stderr=console,
                check=False,
                timeout=BOOT_TIMEOUT_S,
            )

    def discard(self) -> None:
        """Remove the board's control group, which outlives it and its last processes, and the disk."""
        clean = """
            mount -t cgroup2 none "$0/cgroup"
            cd "$0/cgroup"
            [ ! -d "${0##*/}" ] || find "${0##*/}" -depth -type d -delete"""
        command = ["unshare", "--mount", "sh", "-c", clean, str(self.folder)]
        end = time.monotonic() + 30
        while subprocess.run(command, check=False, capture_output=True, timeout=60).returncode != 0:
            assert time.monotonic() < end, f"the control group of {self.folder.name} does not end"
            time.sleep(0.1)
        shutil.rmtree(self.folder)
