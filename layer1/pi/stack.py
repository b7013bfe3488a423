"""From the stack's configuration to a board: its image, its image file, what it is told."""

from __future__ import annotations

from dataclasses import asdict
from ipaddress import IPv4Address
from typing import Any

from layer1 import sshkeys
from layer1.butane import InstallerPin
from layer1.model import BoardNode, Os, PiNetwork, StackConfig
from layer1.pi.bundle import BoardSettings
from layer1.talos import schematic

_TALOS_DISK = "raw.xz"


def image_request(stack: StackConfig, board: BoardNode) -> dict[str, str]:
    """Say which image a board starts from, as `layer1.supply` takes it."""
    if board.os == Os.TALOS:
        talos = stack.images.talos
        return {
            "kind": "talos",
            "platform": "metal",
            "version": talos.version,
            "arch": "arm64",
            "schematic": schematic.BOARDS[board.board].name,
            "secure_boot": "no",
            "disk": _TALOS_DISK,
            "base_url": talos.base_url,
        }
    image = stack.images.raspios
    return {
        "kind": "raspios",
        "release": str(image.release),
        "version": image.version,
        "base_url": image.base_url,
    }


def image_file(stack: StackConfig, board: BoardNode) -> dict[str, str | None]:
    """Say where a board's image file goes: a folder (None for the work folder's own) and a path in it."""
    return {"folder": stack.pi.image_path, "file": f"{stack.stack}/{board.name}.img"}


def settings(  # noqa: PLR0913 - three keys, each apart
    stack: StackConfig,
    board: BoardNode,
    installer: InstallerPin,
    *,
    host_seed: bytes,
    status_seed: bytes,
    apply_seed: bytes,
) -> dict[str, Any]:
    """Return what a board with k3s is told, as the tasks take it; secret, for the host key is in it."""
    network = network_of(stack)
    return asdict(
        BoardSettings(
            hostname=board.name,
            user=stack.pi.user,
            ssh_authorized_keys=board.ssh_authorized_keys,
            host_private=sshkeys.ed25519_private(host_seed, board.name),
            host_public=sshkeys.ed25519_public(host_seed, board.name),
            status_public=sshkeys.ed25519_public(status_seed, "layer1-status"),
            apply_public=sshkeys.ed25519_public(apply_seed, "layer1-apply"),
            address=f"{IPv4Address(board.ip)}/{network.network.prefixlen}",
            gateway=network.gateway,
            nameservers=network.nameservers,
            cluster_networks=(network.cidr,),
            operator_networks=network.operator_networks,
            installer=installer,
            k3s_version=stack.k3s.version,
        )
    )


def parsed_settings(raw: dict[str, Any]) -> BoardSettings:
    """Read back what `settings` made, from JSON."""
    typed: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in raw.items()
    }
    typed["installer"] = InstallerPin(**raw["installer"])
    return BoardSettings(**typed)


def network_of(stack: StackConfig) -> PiNetwork:
    """Return the boards' network, which `layer1.config` has checked where boards are."""
    if stack.pi_network is None:
        raise ValueError("the stack has no boards")
    return stack.pi_network


def next_step(board: BoardNode) -> str:
    """Say what the operator does next with a board, for the plan and the outputs."""
    if board.booted:
        return f"it runs and is spoken to at {board.ip}; a changed image file is for a new card"
    written = (
        f"put what {board.device} names into the board and power it on"
        if board.device
        else "write the image file to a card by hand (`python -m layer1 pi flash` does it guarded), put it "
        "into the board and power it on"
    )
    return f"{written}; when it has booted, set booted: true on {board.key} and run `make up` again"
