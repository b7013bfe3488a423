"""Takes nodes that the stack no longer names out of the cluster, before anything else of the plan happens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from layer1.errors import NodeError
from layer1.talos import api, kubernetes, membership
from layer1.talos.machine_config import Role
from layer1.talos.talosctl_api import CALL_S, Deadline, session

_DRAIN_S = 300.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """A node of the cluster as a stack names it."""

    name: str
    address: str
    role: Role


def retire(
    talosconfig: str, before: Sequence[Member], now: Sequence[Member], timeout_s: float
) -> list[Member]:
    """Take out of the cluster who is in `before` and not in `now`, one after the other.

    A control plane leaves etcd, while the others still let its packets in; a worker is drained and shut
    down. Then Kubernetes forgets it. Nodes that the stack never had are left alone. Safe to run again.

    Args:
        talosconfig: the cluster's; secret.
        before: the members as of the last time that this ended well.
        now: the members that the stack names.
        timeout_s: seconds for one node.

    Returns:
        Who was taken out.

    Raises:
        NodeError: at the first that cannot go, or when a control plane's address changes; no machine was
            removed.
    """
    roles = {(member.name, member.role) for member in now}
    gone = [member for member in before if (member.name, member.role) not in roles]
    _refuse_moved(before, now)
    if not gone:
        return []
    staying = [member for member in before if member in now]
    through = [member.address for member in staying if member.role == Role.CONTROLPLANE]
    if not through:
        raise NodeError(
            f"{', '.join(member.name for member in gone)}: not removed: no control plane of this cluster "
            "would stay as it is. Keep one until the new ones have joined, and remove it in a later `up`."
        )
    for member in gone:
        if member.role == Role.CONTROLPLANE:
            rest = [each.address for each in gone if each.role == Role.CONTROLPLANE and each != member]
            membership.leave(talosconfig, member.address, [*through, *rest], timeout_s)
        else:
            _drain(talosconfig, member.address, through, min(timeout_s, _DRAIN_S))
        kubernetes.delete_node(api.kubeconfig(talosconfig, through[0]), member.name)
    return gone


def _refuse_moved(before: Sequence[Member], now: Sequence[Member]) -> None:
    addresses = {(member.name, member.role): member.address for member in now}
    for member in before:
        wanted = addresses.get((member.name, member.role), member.address)
        if member.role == Role.CONTROLPLANE and wanted != member.address:
            raise NodeError(
                f"{member.name}: a control plane keeps its address ({member.address}): the others' firewalls "
                "let only that one in, so its replacement could not join. Take the change back; for another "
                "address, put a control plane of another name at the end of the list, and drop this one."
            )


def _drain(talosconfig: str, node: str, through: Sequence[str], timeout_s: float) -> None:
    """Let a worker move its pods away and shut down; one that does not is removed all the same."""
    deadline = Deadline(timeout_s)
    with session(talosconfig) as talosctl:
        told = talosctl.ask("shutdown", "--wait=false", node=node, via=through, timeout_s=CALL_S)
        while told.good and deadline.left:
            deadline.poll()
            if not talosctl.ask("version", node=node, via=through, timeout_s=5).good:
                return
