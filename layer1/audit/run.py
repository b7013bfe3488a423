"""One audit: what is planned, what is seen, what it means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from layer1.audit import rows, threats
from layer1.audit.collect import Access, collect
from layer1.audit.intent import Intent, of_node
from layer1.contract import Layer1Outputs
from layer1.findings import Finding
from layer1.model import BoardNode, Node, Os, Role, StackConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Outputs:
    """The stack's outputs that the audit needs.

    Attributes:
        layer1: the output `layer1`, None where the stack has none yet.
        status_keys: private keys of layer1-status by node; secret.
        talosconfig: access to Talos' API; secret.
    """

    layer1: Layer1Outputs | None = None
    status_keys: Mapping[str, str] = field(default_factory=dict)
    talosconfig: str | None = None

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> Outputs:
        """Take what `pulumi stack output --json --show-secrets` prints, parsed."""
        layer1 = raw.get("layer1")
        return cls(
            layer1=Layer1Outputs.model_validate(layer1) if layer1 else None,
            status_keys=raw.get("layer1_status_keys") or {},
            talosconfig=raw.get("talosconfig"),
        )


def run(stack: StackConfig, outputs: Outputs) -> list[Finding]:
    """Audit a stack's nodes and boards; boards that have not booted are left out.

    Returns:
        One row a threat first, then each node's rows.
    """
    wanted = _wanted(stack, outputs)
    seen = collect(wanted)
    details = [
        finding
        for (intent, _), facts in zip(wanted, seen, strict=True)
        for finding in rows.judge(facts, intent)
    ]
    return [*threats.summary(stack.stack, details), *details]


def _wanted(stack: StackConfig, outputs: Outputs) -> list[tuple[Intent, Access]]:
    known = outputs.layer1.nodes if outputs.layer1 else {}
    members: tuple[Node | BoardNode, ...] = (*stack.nodes, *(board for board in stack.boards if board.booted))
    control_planes = tuple(each.ip for each in members if each.role == Role.CONTROLPLANE)
    found = []
    for node in members:
        output = known.get(node.name)
        access = Access(
            host_key=output.ssh_host_key if output else None,
            status_key=outputs.status_keys.get(node.name),
            talosconfig=outputs.talosconfig if node.os == Os.TALOS else None,
            via=control_planes if node.role == Role.WORKER else (),
        )
        found.append((of_node(stack, node, output), access))
    return found
