"""Stacks' facts for a practice board: its keys, its settings, and how to ask it something."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from lab.arm64.boot import ADDRESS, GATEWAY, NAMESERVER, Board
from lab.build import K3S
from lab.steps import sha512
from layer1.butane import InstallerPin
from layer1.pi.bundle import BoardSettings

LIMIT_S = 480  # of one boot, under emulation on a busy machine
USER = "keeper"  # "operator" is a group of Debian, so no login can be named so
K3S_VERSION = "v1.33.4+k3s1"


@dataclass
class Keys:
    """A stack's SSH keys, as files in one folder."""

    folder: Path
    names: tuple[str, ...] = ("operator", "host", "status", "apply", "stranger")
    known_hosts: Path = field(init=False)

    def __post_init__(self) -> None:
        for name in self.names:
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", self.folder / name],
                check=True,
            )
        self.known_hosts = self.folder / "known_hosts"
        self.known_hosts.write_text(f"guest,127.0.0.1 {self.public('host')}\n")

    def private(self, name: str) -> str:
        return (self.folder / name).read_text()

    def public(self, name: str) -> str:
        return (self.folder / f"{name}.pub").read_text().strip()

    def login(self, name: str = "operator", user: str = USER) -> dict[str, object]:
        return {"user": user, "key": self.folder / name, "known_hosts": self.known_hosts}


def settings(keys: Keys, release_url: str, **changes: object) -> BoardSettings:
    """A board's settings that fit QEMU's user network; the k3s release is served at `release_url`."""
    made = BoardSettings(
        hostname="pi-1",
        user=USER,
        ssh_authorized_keys=(keys.public("operator"),),
        host_private=keys.private("host"),
        host_public=keys.public("host"),
        status_public=keys.public("status"),
        apply_public=keys.public("apply"),
        address=ADDRESS,
        gateway=GATEWAY,
        nameservers=(NAMESERVER,),
        cluster_networks=("10.0.2.0/24",),
        operator_networks=(),
        installer=InstallerPin(
            url=f"{release_url}/install.sh",
            sha512=sha512(K3S / "install.sh"),
            releases_url=release_url,
        ),
        k3s_version=K3S_VERSION,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


@dataclass
class Shell:
    """A login on a board."""

    board: Board
    keys: Keys

    def __call__(self, command: str) -> str:
        result = self.board.ssh(command, **self.keys.login())  # type: ignore[arg-type]
        assert result.returncode == 0, f"{command}: {result.stderr}{result.stdout}"
        return result.stdout.strip()


def wait_until(holds: Callable[[], bool], what: str, *, alive: Callable[[], bool] = lambda: True) -> None:
    """Poll until it holds; an error after `LIMIT_S`, or as soon as the guest is gone."""
    end = time.monotonic() + LIMIT_S
    while not holds():
        assert time.monotonic() < end, f"not within {LIMIT_S} s: {what}"
        assert alive(), f"the guest ended before: {what}"
        time.sleep(0.1)
