"""Judges a preview by node: what happens to each, because of what, and in which order."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any

from layer1 import config
from layer1.model import BoardNode, Node, Os, Role, StackConfig
from layer1.plan_guard.fields import Cause, causes_of
from layer1.plan_guard.kinds import (
    BOARDS,
    CLUSTER,
    DOMAIN,
    FLATCAR_NODE,
    HOST,
    NETWORK,
    NODES,
    PI_NODE,
    POOL,
    TALOS_BOARD,
    TALOS_NODE,
    is_data,
    is_loss,
    is_root,
    task_of,
)
from layer1.plan_guard.order import places
from layer1.plan_guard.preview import STACK_KIND, Action, Change, Preview, kind_of

_SYSTEMS = {
    FLATCAR_NODE: (Os.FLATCAR, Role.SERVER),
    TALOS_NODE: (Os.TALOS, None),
    TALOS_BOARD: (Os.TALOS, None),
    PI_NODE: (None, None),
}
_AT_HOST = "host of nodes: "
"""No name of a node, which is a host name."""


class Impact(IntEnum):
    """What a change comes to for a node, from nothing to everything."""

    UNCHANGED = 0
    CREATED = 1
    UPDATED = 2
    RESTARTED = 3
    REPLACED = 4
    REPROVISIONED = 5
    ERASED = 6
    REMOVED = 7
    DATA_LOST = 8
    UNKNOWN = 9

    @property
    def words(self) -> str:
        """The impact in words."""
        return _WORDS[self]


_WORDS = {
    Impact.UNCHANGED: "unchanged",
    Impact.CREATED: "created",
    Impact.UPDATED: "updated in place",
    Impact.RESTARTED: "restarted",
    Impact.REPLACED: "network or pool replaced",
    Impact.REPROVISIONED: "re-provisioned",
    Impact.ERASED: "card erased",
    Impact.REMOVED: "removed",
    Impact.DATA_LOST: "data lost",
    Impact.UNKNOWN: "unknown",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Fate:
    """What happens to one node, or to what a host has for all its nodes.

    Attributes:
        name: of the node, or of the host.
        is_host: whether it is a host.
        is_board: whether it is a board of its own.
        os: the node's system, None where it cannot be told.
        role: the node's part in its cluster, None where it cannot be told.
        host: the libvirt host it is on, empty for a board.
        existed: whether it is there already.
        stays: whether it is there afterwards.
        impact: the worst of its changes.
        causes: because of which fields.
        changes: its resources that change.
        place: when it changes, from 1; those of one number change at the same time. None for one that stays.
        joined: whether it is part of a cluster by now, which a board is once it is booted.
        lost_data: data disks that are lost or no longer attached.
        old_version: of the image that it started from, None where it is not known.
        new_version: of the image that the stack names for it now.
    """

    name: str
    is_host: bool
    is_board: bool
    os: Os | None
    role: Role | None
    host: str
    existed: bool
    stays: bool
    impact: Impact
    causes: tuple[Cause, ...]
    changes: tuple[Change, ...]
    place: int | None
    joined: bool
    lost_data: tuple[str, ...]
    old_version: str | None
    new_version: str | None

    @property
    def control_plane(self) -> bool:
        """Whether a cluster's state is on it; one whose role is not known counts as one."""
        return not self.is_host and self.role != Role.WORKER

    @property
    def loses_root(self) -> bool:
        """Whether what is on its root disk or card is lost, by whatever way."""
        return (
            self.existed
            and self.joined
            and (
                self.impact in (Impact.REPROVISIONED, Impact.REMOVED, Impact.ERASED)
                or any(is_root(change) and is_loss(change) for change in self.changes)
            )
        )


@dataclass(slots=True)
class _Gathered:
    """What belongs to one node or host."""

    component: str
    changes: list[Change] = field(default_factory=list)

    @property
    def touched(self) -> list[Change]:
        """What of it changes."""
        return [change for change in self.changes if change.action != Action.SAME]


def stack_of(preview: Preview, name: str) -> StackConfig:
    """Return the configuration that a preview was made with; its secrets are left out.

    Raises:
        ConfigError: it is wrong; then the preview failed for the same reason.
    """
    prefix = f"{config.NAMESPACE}:"
    raw = {
        key.removeprefix(prefix): config.parsed(value)
        for key, value in preview.config.items()
        if key.startswith(prefix) and key.removeprefix(prefix) not in config.SECRET_KEYS
    }
    return config.load(name, raw, os.environ)


def fates(preview: Preview, stack: StackConfig) -> tuple[Fate, ...]:
    """Judge every host and node, in the order of the stack's file; what it no longer names comes last."""
    owners = _owners(preview)
    gathered: dict[str, _Gathered] = {}
    for change in preview.changes:
        if owner := owners.get(change.urn):
            mine = gathered.setdefault(owner, _Gathered(""))
            mine.component = change.kind if change.kind in (*NODES, HOST) else mine.component
            mine.changes.append(change)
    order = places({change.urn: change for change in preview.changes}, owners)
    old = _old_outputs(preview)
    known: dict[str, Node | BoardNode] = {node.name: node for node in stack.nodes}
    known |= {board.name: board for board in stack.boards}
    hosts = sorted(key for key in gathered if key.startswith(_AT_HOST))
    gone = sorted(key for key in gathered if not key.startswith(_AT_HOST) and key not in known)
    judged = [_host_fate(key.removeprefix(_AT_HOST), gathered[key], order.get(key), stack) for key in hosts]
    for name in (*known, *gone):
        mine = gathered.get(name, _Gathered(""))
        judged.append(_node_fate(name, mine, order.get(name), known.get(name), old.get(name) or {}, stack))
    return tuple(_with_network(fate, judged) for fate in judged)


def _owners(preview: Preview) -> dict[str, str]:
    """Give every resource to the node or host that it is part of, by URN; a cluster's own to nobody."""
    parents = {change.urn: change.parent for change in preview.changes}
    owners = {}
    for change in preview.changes:
        component = _component(change.urn, parents)
        kind = kind_of(component) if component else ""
        if kind in NODES:
            owners[change.urn] = _node_name(component)
        elif kind == HOST:
            owners[change.urn] = _AT_HOST + component.rsplit("::", 1)[-1]
        elif kind == CLUSTER and change.name.endswith("-member"):
            owners[change.urn] = change.name.removesuffix("-member")
    return owners


def _with_network(fate: Fate, everybody: Sequence[Fate]) -> Fate:
    """Name the cause where a node only follows its host."""
    if fate.is_host or fate.causes or fate.impact in (Impact.UNCHANGED, Impact.CREATED, Impact.REMOVED):
        return fate
    causes = [cause for host in everybody if host.is_host and host.name == fate.host for cause in host.causes]
    return replace(fate, causes=tuple(causes))


def _component(urn: str, parents: Mapping[str, str]) -> str:
    """Return the component of a node, host or cluster that a resource is in, or is."""
    seen: set[str] = set()
    while urn and urn not in seen:
        if kind_of(urn) in (*NODES, HOST, CLUSTER):
            return urn
        seen.add(urn)
        urn = parents.get(urn, "")
    return ""


def _node_name(component: str) -> str:
    name = component.rsplit("::", 1)[-1]
    return name.removesuffix("-talos") if kind_of(component) == TALOS_BOARD else name


def _old_outputs(preview: Preview) -> dict[str, Any]:
    """Return what the stack said of its nodes last time; empty for one that was never whole."""
    for change in preview.changes:
        if change.kind == STACK_KIND:
            outputs = change.old_outputs.get(config.NAMESPACE)
            nodes = outputs.get("nodes") if isinstance(outputs, dict) else None
            return nodes if isinstance(nodes, dict) else {}
    return {}


def _host_fate(name: str, mine: _Gathered, place: int | None, stack: StackConfig) -> Fate:
    existed, stays = _lives(mine)
    impact = Impact.UNCHANGED
    if mine.touched:
        impact = Impact.UPDATED
    if any(change.kind in (NETWORK, POOL) and is_loss(change) for change in mine.touched):
        impact = Impact.REPLACED
    if mine.touched and not existed:
        impact = Impact.CREATED
    if not stays:
        impact = Impact.REMOVED
    if any(change.action == Action.UNKNOWN for change in mine.changes):
        impact = Impact.UNKNOWN
    return Fate(
        name=name,
        is_host=True,
        is_board=False,
        os=None,
        role=None,
        host=name,
        existed=existed,
        stays=stays,
        impact=impact,
        causes=causes_of(mine.touched, stack, None, name),
        changes=tuple(mine.touched),
        place=place,
        joined=False,
        lost_data=(),
        old_version=None,
        new_version=None,
    )


def _node_fate(  # noqa: PLR0913, PLR0917 - both sides of a node
    name: str,
    mine: _Gathered,
    place: int | None,
    node: Node | BoardNode | None,
    old: Mapping[str, Any],
    stack: StackConfig,
) -> Fate:
    existed, stays = _lives(mine)
    # A preview that names only what changes says nothing of the others.
    existed, stays = existed or bool(old), stays or node is not None
    lost = _lost_data(mine.touched)
    system, role = _SYSTEMS.get(mine.component, (None, None))
    host = str(old.get("host") or (node.host_name if isinstance(node, Node) else ""))
    version = (old.get("image") or {}).get("version")
    return Fate(
        name=name,
        is_host=False,
        is_board=isinstance(node, BoardNode) or mine.component in BOARDS,
        os=_enum(Os, old.get("os")) or (node.os if node else system),
        # As it is now, not as it will be: what it holds is what can be lost.
        role=_enum(Role, old.get("role")) or (node.role if node else role),
        host=host,
        existed=existed,
        stays=stays,
        impact=_worst(mine.touched, lost, existed=existed, stays=stays),
        causes=causes_of(mine.touched, stack, node, host),
        changes=tuple(mine.touched),
        place=place,
        joined=bool(old.get("booted", True)),
        lost_data=lost,
        old_version=str(version) if version else None,
        new_version=_new_version(stack, node),
    )


def _worst(changes: Sequence[Change], lost: Sequence[str], *, existed: bool, stays: bool) -> Impact:
    """Return the worst of a node's changes."""
    impact = max((_impact(change) for change in changes), default=Impact.UNCHANGED)
    if impact in (Impact.UNKNOWN, Impact.UNCHANGED):
        return impact
    if not existed:
        return Impact.ERASED if impact == Impact.ERASED else Impact.CREATED
    if lost:
        return Impact.DATA_LOST
    return impact if stays else Impact.REMOVED


def _enum(kind: Any, value: object) -> Any:  # noqa: ANN401
    return kind(value) if value in list(kind) else None


def _lives(mine: _Gathered) -> tuple[bool, bool]:
    """Say whether a component is there before, and after."""
    return (
        any(change.action != Action.CREATE for change in mine.changes),
        any(change.action != Action.DELETE for change in mine.changes),
    )


def _impact(change: Change) -> Impact:
    """Say what one resource's change comes to for its node."""
    if change.action == Action.UNKNOWN:
        return Impact.UNKNOWN
    if task_of(change) == "pi-flash" and change.action in (Action.CREATE, Action.UPDATE, Action.REPLACE):
        return Impact.ERASED
    if is_root(change) and is_loss(change):
        return Impact.REPROVISIONED
    if change.kind == DOMAIN and is_loss(change):
        return Impact.RESTARTED
    return Impact.UPDATED


def _lost_data(changes: Iterable[Change]) -> tuple[str, ...]:
    """Name the data disks that are lost, or that the node no longer has."""
    lost: list[str] = []
    for change in changes:
        if is_data(change) and is_loss(change):
            lost.append(str(change.old.get("name") or change.name))
        if change.kind == DOMAIN and change.old:
            kept = _passed_through(change.new)
            lost += [device for device in _passed_through(change.old) if device not in kept]
    return tuple(dict.fromkeys(lost))


def _passed_through(inputs: Mapping[str, Any]) -> list[str]:
    disks = inputs.get("disks")
    return [
        str(disk["blockDevice"])
        for disk in (disks if isinstance(disks, list) else [])
        if isinstance(disk, dict) and disk.get("blockDevice")
    ]


def _new_version(stack: StackConfig, node: Node | BoardNode | None) -> str | None:
    if node is None:
        return None
    if node.os == Os.TALOS:
        return stack.images.talos.version
    if node.os == Os.K3S_PIOS:
        return stack.images.raspios.version
    return stack.images.flatcar.version if stack.images.flatcar.source == "official" else None
