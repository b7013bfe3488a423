"""What a plan would lose, and for which nodes somebody must say that this is meant."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from layer1.findings import Finding, Verdict
from layer1.model import Os
from layer1.plan_guard.kinds import NETWORK, POOL, is_loss, task_of
from layer1.plan_guard.nodes import Fate, Impact
from layer1.plan_guard.preview import Action, Preview

ALLOW = "ALLOW"


@dataclass(frozen=True, kw_only=True, slots=True)
class Loss:
    """Something that a plan would lose.

    Attributes:
        id: its stable name, such as `data.lost`.
        nodes: who must be named for it to pass.
        what: what happens, in a few words.
        evidence: what the plan says.
        means: what is lost.
        unknown: whether the plan could not be judged.
    """

    id: str
    nodes: tuple[str, ...]
    what: str
    evidence: str
    means: str
    unknown: bool = False


def losses(preview: Preview, fates: Sequence[Fate]) -> list[Loss]:
    """Return what a plan would lose; nothing where the stack is made for the first time."""
    if preview.first:
        return []
    nodes = [fate for fate in fates if not fate.is_host]
    found = [loss for fate in nodes for loss in _of_node(fate)]
    found += _of_versions(nodes)
    found += _of_planes(nodes)
    found += [loss for host in fates if host.is_host for loss in _of_host(host, nodes)]
    found += _of_cluster(preview, nodes)
    found += _of_nobody(preview, fates)
    return found


def needed(found: Iterable[Loss]) -> tuple[str, ...]:
    """Return the names that must be given for everything to pass, each once."""
    return tuple(dict.fromkeys(name for loss in found for name in loss.nodes))


def command(stack: str, names: Iterable[str]) -> str:
    """Return the exact command that lets these nodes' losses pass."""
    return f"make up STACK={stack} {ALLOW}={','.join(names)}"


def as_findings(stack: str, found: Iterable[Loss], allowed: Collection[str]) -> list[Finding]:
    """Turn losses into findings: weaker by choice where every node is named, else broken."""
    findings = []
    for loss in found:
        passes = all(name in allowed for name in loss.nodes)
        verdict = Verdict.UNKNOWN if loss.unknown else Verdict.BROKEN
        names = (*allowed, *(name for name in loss.nodes if name not in allowed))
        findings.append(
            Finding(
                id=loss.id,
                subject=", ".join(loss.nodes),
                what=loss.what,
                verdict=Verdict.WEAKER if passes else verdict,
                evidence=loss.evidence,
                means=loss.means,
                remedy="" if passes else f"if this is meant: {command(stack, names)}",
                key=ALLOW if passes else None,
            )
        )
    return findings


def _of_node(fate: Fate) -> Iterable[Loss]:
    one = (fate.name,)
    if fate.impact == Impact.UNKNOWN:
        words = ", ".join(sorted({c.operation for c in fate.changes if c.action == Action.UNKNOWN}))
        yield Loss(
            id="node.unknown",
            nodes=one,
            what="the engine means to do something that this guard does not know",
            evidence=f"operation {words}",
            means="what it would lose cannot be told",
            unknown=True,
        )
    if fate.lost_data:
        yield Loss(
            id="data.lost",
            nodes=one,
            what="data disks go",
            evidence=", ".join(fate.lost_data),
            means="the node loses what is on them. The stack's own data disks are protected besides: the "
            "engine stops at them until `pulumi state unprotect`, and their files stay on the host",
        )
    if fate.existed and not fate.stays:
        yield Loss(
            id="node.removed",
            nodes=one,
            what="the node is removed",
            evidence="the stack's file no longer names it",
            means=_part(fate),
        )
    if fate.impact == Impact.ERASED or any(
        task_of(c) == "pi-flash" and _runs(c.action) for c in fate.changes
    ):
        yield Loss(
            id="card.erased",
            nodes=one,
            what="a card or drive is written anew",
            evidence="; ".join(str(cause) for cause in fate.causes) or "its image is to be written",
            means="everything that is on the card or drive now",
        )


def _of_versions(nodes: Sequence[Fate]) -> Iterable[Loss]:
    steps: dict[str, list[str]] = {}
    for fate in nodes:
        if fate.existed and fate.stays and older(fate.old_version, fate.new_version):
            steps.setdefault(f"{fate.old_version} to {fate.new_version}", []).append(fate.name)
    for step, names in steps.items():
        yield Loss(
            id="image.downgrade",
            nodes=tuple(names),
            what="an older image than the one it started from",
            evidence=step,
            means="newer software's data may not be readable by the older, and its security fixes are gone",
        )


def _runs(action: Action) -> bool:
    return action in (Action.CREATE, Action.UPDATE, Action.REPLACE)


def _part(fate: Fate) -> str:
    if fate.is_board:
        return "its keys and its image file; the board and its card are left as they are"
    if fate.os == Os.TALOS and fate.control_plane:
        return "its root disk, and its place in etcd"
    return "its root disk, and k3s' data on it" if fate.os == Os.FLATCAR else "its root disk"


def _of_planes(nodes: Sequence[Fate]) -> Iterable[Loss]:
    talos = [fate for fate in nodes if fate.existed and fate.control_plane and fate.os == Os.TALOS]
    k3s = [fate for fate in nodes if fate.existed and fate.control_plane and fate.os != Os.TALOS]
    for planes, store, name in ((talos, "etcd", "control planes"), (k3s, "k3s' datastore", "k3s servers")):
        lost = tuple(fate.name for fate in planes if fate.loses_root)
        left, majority = len(planes) - len(lost), len(planes) // 2 + 1
        if lost and left < majority:
            means = (
                f"{store}, and the cluster's state with it: nothing else holds it"
                if not left
                else f"{store}'s majority, {majority} of {len(planes)}: nothing can be changed any more"
            )
            yield Loss(
                id="control-plane.quorum",
                nodes=lost,
                what=f"{len(lost)} of {len(planes)} {name} lose their root disk, {left} left",
                evidence=f"re-provisioned or removed: {', '.join(lost)}",
                means=means,
            )
        elif len(lost) > 1:
            yield Loss(
                id="control-plane.many",
                nodes=lost,
                what=f"{len(lost)} of {len(planes)} {name} lose their root disk in one go",
                evidence=f"re-provisioned or removed: {', '.join(lost)}",
                means=f"one more that fails meanwhile takes {store}'s majority along; do one at a time",
            )


def _of_host(host: Fate, nodes: Sequence[Fate]) -> Iterable[Loss]:
    there = tuple(fate.name for fate in nodes if fate.host == host.name and fate.existed)
    if not there:
        return
    why = "; ".join(str(cause) for cause in host.causes) or "the stack's file no longer names it"
    for change in host.changes:
        if change.kind == NETWORK and is_loss(change):
            yield Loss(
                id="network.replaced",
                nodes=there,
                what=f"the network on {host.name} is replaced under running nodes",
                evidence=why,
                means="every node on it is cut off and restarted, all at the same time",
            )
        if change.kind == POOL and is_loss(change):
            yield Loss(
                id="pool.replaced",
                nodes=there,
                what=f"the storage pool on {host.name} is replaced",
                evidence=why,
                means="every disk in it, root and data",
            )
    if host.impact == Impact.UNKNOWN:
        yield Loss(
            id="host.unknown",
            nodes=there,
            what="the engine means to do something on the host that this guard does not know",
            evidence=", ".join(sorted({c.operation for c in host.changes if c.action == Action.UNKNOWN})),
            means="what it would lose cannot be told",
            unknown=True,
        )


def _of_cluster(preview: Preview, nodes: Sequence[Fate]) -> Iterable[Loss]:
    members = tuple(fate.name for fate in nodes if fate.existed and fate.os == Os.TALOS)
    gone = [c for c in preview.changes if task_of(c) == "talos-secrets" and is_loss(c)]
    if gone and members:
        yield Loss(
            id="cluster.secrets",
            nodes=members,
            what="the cluster's own secrets are made anew or go",
            evidence=", ".join(change.name for change in gone),
            means="the cluster: with other secrets no node knows another, and no access works any more; "
            "another layer1:talos.cluster_name does this",
        )


def _of_nobody(preview: Preview, fates: Sequence[Fate]) -> Iterable[Loss]:
    judged = {change.urn for fate in fates for change in fate.changes}
    strange = [c for c in preview.changes if c.action == Action.UNKNOWN and c.urn not in judged]
    if strange:
        yield Loss(
            id="stack.unknown",
            nodes=tuple(fate.name for fate in fates if fate.existed and not fate.is_host),
            what="the engine means to do something with the stack that this guard does not know",
            evidence=", ".join(sorted(f"{change.name}: operation {change.operation}" for change in strange)),
            means="what it would lose cannot be told",
            unknown=True,
        )


def older(old: str | None, new: str | None) -> bool:
    """Say whether a version is older; where the two are of different kinds nobody can tell."""
    if old is None or new is None:
        return False
    shapes = [re.sub(r"\d+", "0", version) for version in (old, new)]
    numbers = [tuple(int(part) for part in re.findall(r"\d+", version)) for version in (old, new)]
    return shapes[0] == shapes[1] and numbers[1] < numbers[0]
