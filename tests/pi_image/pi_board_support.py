"""A board for apply.sh and firstrun.sh: Debian's own systemd, sshd, sudo and nft in namespaces.

Stand-ins: namespaces for the board's kernel (tests/pi_remote/boot-board.sh), a folder for its FAT partition.
The real kernel and a real FAT partition are in tests/arm64.
"""

from __future__ import annotations

import shutil
import subprocess
import time
import uuid
from pathlib import Path

from debian_tree import debian_tree

from layer1.paths import REPOSITORY

PACKAGES = (
    "openssh-server,sudo,systemd-sysv,dbus,libpam-systemd,nftables,procps,iproute2,systemd-timesyncd,"
    "avahi-daemon,bluez,apparmor"
)
BOOT_TIMEOUT_S = 180


def tree() -> Path:
    """Return the Debian tree of the board."""
    return debian_tree(PACKAGES)


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
