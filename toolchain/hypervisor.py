"""libvirtd: running, and answering on the system's socket."""

from __future__ import annotations

import getpass
import grp
import os
import shutil
import subprocess
import time
from pathlib import Path

from toolchain.report import SetupError, step

URI = "qemu:///system"
TIME_LIMIT_S = 60
GROUP = "libvirt"
SOCKET = Path("/run/libvirt/libvirt-sock")


def answers() -> str | None:
    """Return None if libvirtd answers, else what virsh says about it."""
    if not shutil.which("virsh"):
        return "virsh is not installed (package libvirt-clients; `sh toolchain/bootstrap.sh` installs it)"
    try:
        done = subprocess.run(
            ["virsh", "-c", URI, "uri"],
            capture_output=True,
            text=True,
            timeout=15,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return f"no answer on {URI} within 15 s"
    return None if done.returncode == 0 else done.stderr.strip()


def provide_libvirtd(log: Path) -> None:
    """Start libvirtd unless it answers, and wait until it does."""
    with step("libvirtd") as line:
        _open_kvm(log)
        refusal = answers()
        if refusal is None:
            line.outcome = "answers"
            return
        if not shutil.which("virsh"):
            raise SetupError(f"libvirtd: {refusal}.")
        if SOCKET.exists() and os.geteuid() != 0 and not _in_group():
            raise SetupError(f"libvirtd: it runs, and does not answer you: {refusal}\n{_way_out(log)}")
        _start(log)
        deadline = time.monotonic() + TIME_LIMIT_S
        while (refusal := answers()) is not None:
            if time.monotonic() > deadline or _is_final(refusal):
                raise SetupError(f"libvirtd: started, but does not answer: {refusal}\n{_way_out(log)}")
            time.sleep(0.5)
        line.outcome = "started"


def _is_final(refusal: str) -> bool:
    """Say whether waiting cannot help: it runs, but does not let this user in."""
    return any(word in refusal.lower() for word in ("permission denied", "authentication", "polkit"))


def has_systemd() -> bool:
    """Say whether systemd runs this machine."""
    return Path("/run/systemd/system").is_dir()


def _way_out(log: Path) -> str:
    hints = [f"Its log: {'journalctl -u libvirtd' if has_systemd() else log}"]
    if os.geteuid() != 0 and not _in_group():
        user = getpass.getuser()
        hints.insert(
            0, f"{user} is not in group {GROUP}: `sudo usermod -aG {GROUP} {user}`, then log in again."
        )
    return "\n".join(hints)


def _in_group() -> bool:
    try:
        return grp.getgrnam(GROUP).gr_gid in {os.getegid(), *os.getgroups()}
    except KeyError:
        return False


def _open_kvm(log: Path) -> None:
    """Give /dev/kvm to its group where no udev has done so, or gave it to a group of another system.

    QEMU's own user must be able to open it, or libvirt takes its knowledge of QEMU for outdated at every
    call and asks QEMU anew: 4 s each, and a domain's start asks about twenty times.
    """
    device = Path("/dev/kvm")
    try:
        status, group = device.stat(), grp.getgrnam("kvm").gr_gid
    except (FileNotFoundError, KeyError):
        return
    everybody = status.st_mode & 0o006 == 0o006
    if everybody or (status.st_gid == group and status.st_mode & 0o060 == 0o060):
        return
    sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
    _run([*sudo, "chgrp", str(group), str(device)], log, may_fail=True)
    _run([*sudo, "chmod", "0660", str(device)], log, may_fail=True)


def _start(log: Path) -> None:
    sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
    if has_systemd():
        _run([*sudo, "systemctl", "enable", "--now", "libvirtd"], log)
        return
    if not shutil.which("libvirtd", path=f"/usr/sbin:{os.environ.get('PATH', '')}"):
        raise SetupError(
            "libvirtd: not installed (package libvirt-daemon-system; "
            "`sh toolchain/bootstrap.sh` installs it)."
        )
    log.parent.mkdir(parents=True, exist_ok=True)
    # virtlogd keeps the guests' logs; a second one ends at once because the first holds its pid file.
    _run([*sudo, "env", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "virtlogd", "--daemon"], log, may_fail=True)
    outputs = f"LIBVIRT_LOG_OUTPUTS=2:file:{log}"
    _run([*sudo, "env", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", outputs, "libvirtd", "--daemon"], log)


def _run(command: list[str], log: Path, *, may_fail: bool = False) -> None:
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=TIME_LIMIT_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except FileNotFoundError:
        raise SetupError(
            f"libvirtd: does not answer, and {command[0]} is not installed.\n{_way_out(log)}\n"
            "As root, without sudo: run `make setup` as root once."
        ) from None
    if done.returncode != 0 and not may_fail:
        raise SetupError(f"libvirtd: `{' '.join(command)}` failed: {done.stderr.strip()}\n{_way_out(log)}")
