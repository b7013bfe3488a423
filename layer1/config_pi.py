"""Checks what a stack file says of boards: Raspberry Pis without a hypervisor; `layer1.config` asks it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from layer1.model import (
    Accel,
    Arch,
    Board,
    BoardConfig,
    BoardNode,
    HostConfig,
    Node,
    Os,
    PiConfig,
    PiNetwork,
    Role,
)

Say = Callable[[str, str], None]

HOST_KEEPS_MIB = 1024
"""What guests leave to a board that is their host."""
_NO_PLACE = {
    "arch": "a board is arm64",
    "data_disks": "a board's disks are not the stack's",
    "disk_gib": "the image grows to the card",
    "firmware": "the board's own is used",
    "host": "a board has no hypervisor",
    "memory_mib": "a board has the memory that it has",
    "passthrough_disks": "a board's disks are not the stack's",
    "updates": "it is Flatcar's",
    "vcpus": "a board has the processor that it has",
}


def is_board(raw: Any) -> bool:  # noqa: ANN401
    """Say whether a raw node is a board of its own."""
    return isinstance(raw, dict) and ("board" in raw or raw.get("os") == Os.K3S_PIOS)


def misplaced(raw: Mapping[str, Any]) -> dict[str, str]:
    """Return what a raw board has that only a node in a domain can have, each with the reason."""
    return {
        key: f"has no place on a board: {reason}; leave it out"
        for key, reason in _NO_PLACE.items()
        if key in raw
    }


def check_board(node: BoardConfig, place: str, keys: Iterable[str], say: Say) -> None:
    """Check what a board says of itself."""
    if node.os == Os.TALOS:
        if node.role not in (Role.CONTROLPLANE, Role.WORKER):
            say(f"{place}.role", "must be controlplane or worker")
        if node.ssh_authorized_keys:
            say(
                f"{place}.ssh_authorized_keys",
                "has no place here: Talos has no SSH; talosctl speaks to its API",
            )
    else:
        if node.role not in (None, Role.SERVER):
            say(f"{place}.role", "is Talos'; a board with k3s is a server, and needs no role")
        if not list(keys):
            say(
                f"{place}.ssh_authorized_keys",
                "needs at least one SSH public key, here or in layer1:defaults.ssh_authorized_keys; "
                "nobody could log in otherwise (passwords are off)",
            )
        for key in ("maintenance_fingerprint", "install_disk"):
            if getattr(node, key) is not None:
                say(f"{place}.{key}", "is Talos'; Raspberry Pi OS has no use for it")
    if node.device is not None and node.confirm_erase is None:
        say(
            f"{place}.confirm_erase",
            "must be the serial of the device that is to be erased; `python -m layer1 pi devices` says how "
            "to read it",
        )
    if node.confirm_erase is not None and node.device is None:
        say(f"{place}.device", "must name the device whose serial confirm_erase has, or leave both out")


def network(pi: PiConfig, say: Say) -> PiNetwork | None:
    """Fill in the defaults of the boards' network."""
    if pi.cidr is None:
        say("layer1:pi.cidr", "is missing: boards are on your own network; say which, such as 192.168.1.0/24")
        return None
    own = IPv4Network(pi.cidr)
    gateway = IPv4Address(pi.gateway) if pi.gateway else own[1]
    if gateway not in own or gateway in (own.network_address, own.broadcast_address):
        say("layer1:pi.gateway", f"must be an address of layer1:pi.cidr ({own})")
        return None
    return PiNetwork(
        cidr=str(own),
        gateway=str(gateway),
        nameservers=tuple(pi.nameservers) or (str(gateway),),
        operator_networks=tuple(pi.operator_networks) or (str(own),),
    )


def check_address(node: BoardConfig, place: str, on: PiNetwork, say: Say) -> None:
    """Check a board's address against its network."""
    own = IPv4Address(node.ip)
    if own not in on.network:
        say(f"{place}.ip", f"is outside layer1:pi.cidr ({on.network})")
    elif own in (on.network.network_address, on.network.broadcast_address) or node.ip == on.gateway:
        say(f"{place}.ip", "is the network's own, its broadcast or the gateway's address")


def check_together(boards: Iterable[BoardNode], nodes: Iterable[Node], say: Say) -> None:
    """Check the boards among themselves, and against the nodes in domains."""
    boards = list(boards)
    addresses: dict[str, BoardNode] = {}
    devices: dict[str, BoardNode] = {}
    for board in boards:
        other = addresses.setdefault(board.ip, board)
        if other is not board:
            say(f"{board.key}.ip", f"is also the address of {other.key}; set another ip")
        if board.device is not None and (twin := devices.setdefault(board.device, board)) is not board:
            say(f"{board.key}.device", f"is also the device of {twin.key}; write one card after the other")
    talos = [board for board in boards if board.os == Os.TALOS]
    if talos and any(node.os == Os.TALOS for node in nodes):
        say(
            f"{talos[0].key}.os",
            "Talos on boards and Talos in domains cannot be one cluster, for a domain's network ends at its "
            "host; make the boards a stack of their own",
        )
    _check_first_control_plane(talos, say)


def _check_first_control_plane(talos: list[BoardNode], say: Say) -> None:
    first = next((board for board in talos if board.role == Role.CONTROLPLANE), None)
    if first is None or first.booted:
        return
    for board in talos:
        if board.booted:
            say(
                f"{board.key}.booted",
                f"must wait for {first.key}, the first control plane: the cluster begins there",
            )


def check_hosts(hosts: Mapping[str, HostConfig], nodes: Iterable[Node], say: Say) -> None:
    """Check the nodes whose host is a board itself."""
    nodes = list(nodes)
    for name, host in hosts.items():
        if host.board is None:
            if host.memory_mib is not None:
                say(
                    f"layer1:hosts.{name}.memory_mib",
                    "is a board's; a host that is none needs no such key (or set board)",
                )
            continue
        if host.memory_mib is None:
            say(
                f"layer1:hosts.{name}.memory_mib",
                "is missing: say how much memory the board has, so that its guests leave it some",
            )
        for node in nodes:
            if node.host_name == name and node.arch != Arch.AARCH64 and host.accel == Accel.KVM:
                say(f"{node.key}.arch", f"must be aarch64: {name} is a {host.board}")


def host_warnings(hosts: Mapping[str, HostConfig], nodes: Iterable[Node]) -> list[str]:
    """Return what a plan says of hosts that are boards (KVM on a Raspberry Pi)."""
    nodes = list(nodes)
    lines = []
    for name, host in hosts.items():
        if host.board is None or host.memory_mib is None:
            continue
        lines.append(
            f"{name}: WARNING: KVM on a {host.board}: viable, not recommended: 10 to 20 % overhead; the "
            "operating system on the bare board is the better way. No nested virtualisation."
        )
        taken = sum(node.memory_mib.value for node in nodes if node.host_name == name)
        if taken > (room := host.memory_mib - HOST_KEEPS_MIB):
            lines.append(
                f"{name}: WARNING: its guests take {taken} MiB, and the board of {host.memory_mib} MiB "
                f"should keep {HOST_KEEPS_MIB} MiB for itself: at most {max(room, 0)} MiB"
            )
    return lines


def talos_note(board: Board) -> str:
    """Return how well Talos knows a board."""
    return {
        Board.RPI4: "Talos tests this board officially",
        Board.RPI5: "Talos on this board is said to be community-tested, not official",
    }[board]
