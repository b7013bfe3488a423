"""The plan in words: what a stack makes, where each number came from, which walls are weaker and why."""

from __future__ import annotations

from layer1.config_pi import host_warnings, talos_note
from layer1.model import BoardNode, Node, Os, Sized, StackConfig
from layer1.pi.stack import next_step
from layer1.walls import weaker


def _said(number: Sized, unit: str) -> str:
    return f"{number.value} {unit} ({number.origin})"


def _system(stack: StackConfig, node: Node) -> str:
    if node.os == Os.TALOS:
        return f"{node.os} {stack.images.talos.version} {node.role}"
    return f"{node.os} ({stack.images.flatcar.source})"


def plan_lines(stack: StackConfig) -> list[str]:
    """Return the plan's lines, for the preview and for `python -m layer1 plan`."""
    lines = []
    for node in stack.nodes:
        host = stack.hosts[node.host_name]
        lines.append(
            f"{node.name}: {_system(stack, node)} on {node.host_name}, {node.ip}, "
            f"{_said(node.memory_mib, 'MiB')}, {_said(node.vcpus, 'vCPUs')}, "
            f"{_said(node.disk_gib, 'GiB disk')}, {node.firmware}, {host.accel}"
        )
        lines.extend(
            f"{node.name}: WEAKER: {wall.name}: {wall.text} ({wall.key})" for wall in weaker(stack, node)
        )
    lines.extend(host_warnings(stack.hosts, stack.nodes))
    for board in stack.boards:
        lines.extend(_board_lines(stack, board))
    return lines


def is_warning(line: str) -> bool:
    """Say whether a line of the plan is something that the operator should not miss."""
    return any(f": {word}: " in line for word in ("WEAKER", "WARNING"))


def _board_lines(stack: StackConfig, board: BoardNode) -> list[str]:
    system = (
        f"{board.os} {stack.images.talos.version} {board.role} ({talos_note(board.board)})"
        if board.os == Os.TALOS
        else f"{board.os} ({stack.images.raspios.release} {stack.images.raspios.version})"
    )
    return [
        f"{board.name}: {system} on a {board.board}, {board.ip}",
        f"{board.name}: next: {next_step(board)}",
        *(f"{board.name}: WEAKER: {wall.name}: {wall.text} ({wall.key})" for wall in weaker(stack, board)),
    ]
