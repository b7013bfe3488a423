"""A drawing of the walls: each host with its nodes, each node with the walls around it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from layer1.findings import Finding, Verdict
from layer1.model import BoardNode, Node, StackConfig

_RINGS = (
    ("traffic filter", ("network.",)),
    ("AppArmor", ("svirt.",)),
    ("QEMU's rights and devices", ("qemu.", "domain.")),
    ("hypervisor", ("hypervisor.",)),
    ("memory", ("memory.",)),
    ("disks and image", ("files.", "image.", "boot.")),
    ("the guest's system", ("guest.", "talos.")),
)
"""From outside to inside: the words, and which rows make the wall."""
_WORST_FIRST = (Verdict.BROKEN, Verdict.UNKNOWN, Verdict.WEAKER, Verdict.HOLDS)
_CSS = {
    Verdict.HOLDS: "holds",
    Verdict.WEAKER: "weaker",
    Verdict.BROKEN: "broken",
    Verdict.UNKNOWN: "unknown",
}
_WIDTH, _STEP, _INSET, _CORE, _GAP, _HEAD = 470, 26, 14, 40, 18, 34


def css_class(verdict: Verdict) -> str:
    """Name a verdict as the page's style does."""
    return _CSS[verdict]


def drawing(stack: StackConfig, findings: Sequence[Finding]) -> str:
    """Return the drawing as SVG; its colours are the page's."""
    homes: list[tuple[str, Sequence[Node | BoardNode]]] = [
        (f"host {name}: {host.uri}", [node for node in stack.nodes if node.host_name == name])
        for name, host in stack.used_hosts.items()
    ]
    homes += [(f"board {board.name}", [board]) for board in stack.boards if board.booted]
    parts: list[str] = []
    top = 0
    for title, nodes in homes:
        text, height = _home(title, nodes, findings, top)
        parts.append(text)
        top += height + _GAP
    box = f"0 0 {_WIDTH + 2 * _GAP} {max(top - _GAP, 1)}"
    head = f'<svg viewBox="{box}" role="img" aria-label="hosts, nodes and their walls">'
    return f"{head}{''.join(parts)}</svg>"


def _home(
    title: str, nodes: Sequence[Node | BoardNode], findings: Sequence[Finding], top: int
) -> tuple[str, int]:
    parts = []
    at = top + _HEAD
    for node in nodes:
        text, height = _node(node, [each for each in findings if each.subject == node.name], at)
        parts.append(text)
        at += height + _GAP
    height = at - top
    wide = _WIDTH + 2 * _GAP - 2
    frame = (
        f'<rect class="home" x="1" y="{top + 1}" width="{wide}" height="{height - 2}" rx="6"/>'
        f'<text class="title" x="{_GAP}" y="{top + 22}">{escape(title)}</text>'
    )
    return frame + "".join(parts), height


def _node(node: Node | BoardNode, mine: Sequence[Finding], top: int) -> tuple[str, int]:
    rings = [(words, _worst(mine, prefixes)) for words, prefixes in _RINGS]
    standing = [(words, verdict) for words, verdict in rings if verdict is not None]
    depth = len(standing)
    height = depth * _STEP + _CORE + depth * _INSET // 2
    parts = []
    for level, (words, verdict) in enumerate(standing):
        x, y = _GAP + level * _INSET, top + level * _STEP
        wide, high = _WIDTH - 2 * level * _INSET, height - level * _STEP - level * _INSET // 2
        parts.append(
            f'<g class="{css_class(verdict)}">'
            f'<rect class="wall" x="{x}" y="{y}" width="{wide}" height="{high}" rx="4"/>'
            f'<text x="{x + 10}" y="{y + 17}">{escape(words)}</text>'
            f'<text class="verdict" x="{x + wide - 10}" y="{y + 17}">{verdict}</text></g>'
        )
    parts.append(
        f'<text class="core" x="{_GAP + _WIDTH // 2}" y="{top + depth * _STEP + 24}">'
        f"{escape(node.name)} · {escape(node.os)} · {escape(node.ip)}</text>"
    )
    return "".join(parts), height


def _worst(mine: Sequence[Finding], prefixes: tuple[str, ...]) -> Verdict | None:
    verdicts = {finding.verdict for finding in mine if finding.id.startswith(prefixes)}
    return next((verdict for verdict in _WORST_FIRST if verdict in verdicts), None)
