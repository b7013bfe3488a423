"""Waits until a new node answers with its own host key and says that it is provisioned."""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass

from layer1 import guest_log, host_ssh, node_status, ssh, virsh
from layer1.errors import NodeError, ToolTimeoutError
from layer1.node_status import parse_status
from layer1.processes import last_lines

_POLL_S = 2.0


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
    with ssh.session(_login(target)) as ask:
        while time.monotonic() - started < target.timeout_s:
            state = virsh.domain_state(target.uri, target.domain)
            if state == virsh.UNREACHABLE:  # a remote host's network may come back
                answer = "the host itself does not answer"
                time.sleep(_POLL_S)
                continue
            if not state.startswith(("running", "paused", "in shutdown")):
                raise NodeError(_stopped(target, state, time.monotonic() - started))
            try:
                result = ask("status")
            except ToolTimeoutError as error:  # a guest under load, still booting: asked again
                answer = str(error)
                continue
            if result.returncode == 0:
                status = parse_status(result.stdout)
                if problem := node_status.wrong(status, target.hostname, target.address):
                    raise NodeError(f"{target.hostname}: {problem}")
                if node_status.provisioned(status):
                    return status
                answer = "it answers, but is not provisioned yet"
            else:
                answer = last_lines(result.stderr, 1) or answer
                if ssh.stranger(result):
                    raise NodeError(
                        f"{target.hostname}: what answers at {target.address} has another SSH host key than "
                        "the stack's; another machine has the address, or the node was not provisioned"
                    )
            time.sleep(_POLL_S)
    raise NodeError(_too_late(target, status, answer))


def _login(target: Target) -> ssh.Login:
    return ssh.Login(
        user="layer1-status",
        address=target.address,
        host_key=target.host_key,
        key=target.status_key,
        jump=target.uri,
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
        answer,
    ]
    if not host_ssh.is_remote(target.uri):
        facts.insert(2, f"port 22 is {'open' if _port_open(target.address) else 'closed'}")
    facts += node_status.facts(status)
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
