"""Waits until a new node answers with its own host key and says that it is provisioned."""

from __future__ import annotations

import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from layer1 import guest_log, virsh
from layer1.errors import NodeError
from layer1.processes import last_lines, run

_POLL_S = 2.0
_READY_SYSTEM = ("running", "degraded")


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """The node that is waited for.

    Attributes:
        uri: the host's libvirt URI.
        domain: the domain's name.
        hostname: what the guest must call itself.
        address: its IPv4 address.
        host_key: its public SSH host key; no other is accepted.
        status_key: private key of the user layer1-status; secret.
        network: the libvirt network that it is on.
        pool: the pool of its volumes.
        root_volume: its root disk, where a guest that stopped left its reason.
        timeout_s: seconds to wait.
    """

    uri: str
    domain: str
    hostname: str
    address: str
    host_key: str
    status_key: str
    network: str
    pool: str
    root_volume: str
    timeout_s: int


def wait(target: Target) -> dict[str, list[str]]:
    """Wait until the node is provisioned.

    Returns:
        The node's status, values by name.

    Raises:
        NodeError: the node stopped, refused, failed to install k3s, or did not answer in time; with what the
            guest said.
    """
    started = time.monotonic()
    status: dict[str, list[str]] = {}
    answer = "no answer yet"
    with _ssh(target) as ask:
        while time.monotonic() - started < target.timeout_s:
            state = virsh.domain_state(target.uri, target.domain)
            if not state.startswith(("running", "paused", "in shutdown")):
                raise NodeError(_stopped(target, state, time.monotonic() - started))
            result = ask()
            if result.returncode == 0:
                status = parse_status(result.stdout)
                if problem := _wrong(target, status):
                    raise NodeError(f"{target.hostname}: {problem}")
                if _provisioned(status):
                    return status
                answer = "it answers, but is not provisioned yet"
            else:
                answer = last_lines(result.stderr, 1) or answer
                if "Host key verification failed" in result.stderr:
                    raise NodeError(
                        f"{target.hostname}: what answers at {target.address} has another SSH host key than "
                        "the stack's; another machine has the address, or the node was not provisioned"
                    )
            time.sleep(_POLL_S)
    raise NodeError(_too_late(target, status, answer))


def parse_status(text: str) -> dict[str, list[str]]:
    """Read the lines `name=value` of the node's status script; names may repeat."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if equals:
            found.setdefault(name, []).append(value)
    return found


def _first(status: dict[str, list[str]], name: str) -> str:
    return status.get(name, [""])[0]


def _wrong(target: Target, status: dict[str, list[str]]) -> str | None:
    """Say what will not mend by waiting."""
    if _first(status, "schema") != "1":
        return "its status script speaks another version; the node was made by another Layer 1"
    if _first(status, "hostname") != target.hostname:
        return f"the machine at {target.address} calls itself {_first(status, 'hostname')}"
    if _first(status, "unit.k3s-install.service").startswith("failed"):
        log = "\n".join(f"  {line}" for line in status.get("install_log", []))
        return f"the k3s installer failed on the node; its log ends:\n{log}"
    return None


def _provisioned(status: dict[str, list[str]]) -> bool:
    return (
        _first(status, "k3s_installed") != ""  # the unit itself rests on later boots
        and _first(status, "unit.k3s-config.path").startswith("active")
        and _first(status, "system") in _READY_SYSTEM
    )


def _stopped(target: Target, state: str, after_s: float) -> str:
    said = guest_log.read(target.uri, target.pool, target.root_volume)
    lines = "\n".join(f"  {line}" for line in said) or (
        "  nothing that could be read from its disk; look at the log of its QEMU "
        f"(/var/log/libvirt/qemu/{target.domain}.log on the host)"
    )
    return (
        f"{target.hostname}: the domain {target.domain} is {state} after {after_s:.0f} s: the guest "
        f"refused its config or could not boot. The guest said:\n{lines}"
    )


def _too_late(target: Target, status: dict[str, list[str]], answer: str) -> str:
    lease = target.address in virsh.virsh(target.uri, "net-dhcp-leases", target.network).stdout
    facts = [
        f"the domain is {virsh.domain_state(target.uri, target.domain)}",
        f"its address is {'leased' if lease else 'not leased: the guest never asked for one'}",
        f"port 22 is {'open' if _port_open(target.address) else 'closed'}",
        answer,
    ]
    facts += [
        f"{name}={value}" for name in sorted(status) if name.startswith("unit.") for value in status[name]
    ]
    facts += [f"failed unit: {value}" for value in status.get("failed", [])]
    facts += status.get("install_log", [])
    return (
        f"{target.hostname}: not provisioned within {target.timeout_s} s "
        "(layer1:defaults.ready_timeout_s). What is known:\n" + "\n".join(f"  {fact}" for fact in facts)
    )


def _port_open(address: str) -> bool:
    try:
        with socket.create_connection((address, 22), timeout=3):
            return True
    except OSError:
        return False


_Ask = Callable[[], "subprocess.CompletedProcess[str]"]


@contextmanager
def _ssh(target: Target) -> Iterator[_Ask]:
    """Give a way to ask the node, with the pinned host key and the status key in a folder of their own."""
    with tempfile.TemporaryDirectory(prefix="layer1-") as folder:  # mode 0700
        key = Path(folder) / "key"
        key.touch(mode=0o600)
        key.write_text(target.status_key)
        known = Path(folder) / "known_hosts"
        known.write_text(f"{target.address} {target.host_key}\n")
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
        host = urlsplit(target.uri)
        if host.hostname:
            options["ProxyJump"] = host.netloc  # user, host and port are as ssh writes them
        command = ["ssh", "-F", "none", "-i", str(key)]
        for name, value in options.items():
            command += ["-o", f"{name}={value}"]
        command += [f"layer1-status@{target.address}", "status"]
        yield lambda: run(command, timeout_s=45)
