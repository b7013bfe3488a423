"""Speaks to a node over SSH: its pinned host key, the stack's own key, none of the user's settings."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from layer1 import host_ssh
from layer1.processes import last_lines, run

_LOST = 255  # ssh's own code; what runs on the node has others


@dataclass(frozen=True, kw_only=True, slots=True)
class Login:
    """Whom to speak to, and as whom.

    Attributes:
        user: the user on the node.
        address: the node's IPv4 address.
        host_key: its public host key; no other is accepted.
        key: private key of the user; secret.
        jump: libvirt URI of the node's host, which is gone through when it is another machine.
    """

    user: str
    address: str
    host_key: str
    key: str
    jump: str | None = None


class Ask(Protocol):
    """Has the node run something; with what it shall read, and the seconds it may take."""

    def __call__(
        self, command: str, *, stdin: bytes = b"", timeout_s: float = 45
    ) -> subprocess.CompletedProcess[str]:
        """Ask; the exit code is the caller's to judge."""


@contextmanager
def session(login: Login) -> Iterator[Ask]:
    """Give a way to ask the node; both keys lie in a folder of their own meanwhile."""
    with tempfile.TemporaryDirectory(prefix="layer1-") as folder:  # mode 0700
        key = Path(folder) / "key"
        key.touch(mode=0o600)
        key.write_text(login.key)
        known = Path(folder) / "known_hosts"
        known.write_text(f"{login.address} {login.host_key}\n")
        options = {
            "BatchMode": "yes",
            "ConnectTimeout": "5",
            "GlobalKnownHostsFile": "/dev/null",
            "IdentitiesOnly": "yes",
            "IdentityAgent": "none",
            "LogLevel": "ERROR",
            "PreferredAuthentications": "publickey",
            "ServerAliveInterval": "10",
            "StrictHostKeyChecking": "yes",
            "UserKnownHostsFile": str(known),
        }
        if login.jump and host_ssh.is_remote(login.jump):
            # Not ProxyJump: the ssh that jumps would know nothing of the host's key files.
            options["ProxyCommand"] = host_ssh.proxy_command(login.jump)
        program = ["ssh", "-F", "none", "-i", str(key)]
        for name, value in options.items():
            program += ["-o", f"{name}={value}"]

        def ask(
            command: str, *, stdin: bytes = b"", timeout_s: float = 45
        ) -> subprocess.CompletedProcess[str]:
            return run([*program, f"{login.user}@{login.address}", command], stdin=stdin, timeout_s=timeout_s)

        yield ask


def lost(result: subprocess.CompletedProcess[str]) -> bool:
    """Say whether ssh itself failed: no connection, none to the end, or not let in."""
    return result.returncode == _LOST


def stranger(result: subprocess.CompletedProcess[str]) -> bool:
    """Say whether the node that answered has another host key than the pinned one.

    When it is the host on the way that is another, a last line of the ssh that found its way closed follows.
    """
    return lost(result) and "Host key verification failed" in last_lines(result.stderr, 1)


def key_refused(result: subprocess.CompletedProcess[str]) -> bool:
    """Say whether the pinned node did not let our key in."""
    return lost(result) and "Permission denied (" in result.stderr
