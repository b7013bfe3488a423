"""What must hold between the Talos nodes of a stack and their cluster, beyond each value by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv4Network

from layer1.model import (
    TALOS_DISK_GIB,
    TALOS_MEMORY_MIB,
    Arch,
    BoardNode,
    Firmware,
    NetworkConfig,
    Node,
    NodeConfig,
    Os,
    PiNetwork,
    Role,
    Sized,
    TalosConfig,
)
from layer1.paths import ASSETS

NETWORKS = {
    IPv4Network("10.244.0.0/16"): "Talos' default pod network",
    IPv4Network("10.96.0.0/12"): "Talos' default service network",
}
Say = Callable[[str, str], None]


def check_node(node: NodeConfig, place: str, memory: Sized, disk: Sized, say: Say) -> None:
    """Check what a Talos node says of itself."""
    if node.role not in (Role.CONTROLPLANE, Role.WORKER):
        say(f"{place}.role", "must be controlplane or worker")
    elif memory.value < (least := TALOS_MEMORY_MIB[node.role]):
        key = f"{place}.memory_mib" if memory.origin.startswith(place) else memory.origin
        say(key, f"is too little for a Talos {node.role}, which needs {least} MiB")
    if disk.value < TALOS_DISK_GIB:
        key = f"{place}.disk_gib" if disk.origin.startswith(place) else disk.origin
        say(key, f"is too small for Talos, which needs {TALOS_DISK_GIB} GiB")
    if node.ssh_authorized_keys:
        say(f"{place}.ssh_authorized_keys", "has no place here: Talos has no SSH; talosctl speaks to its API")
    if "updates" in node.model_fields_set:
        say(f"{place}.updates", "is Flatcar's; layer1:images.talos.version upgrades Talos nodes")


def check_secure_boot(node: NodeConfig, place: str, say: Say) -> None:
    """Check that a node can have Secure Boot and a vTPM."""
    if node.firmware == Firmware.BIOS:
        say(f"{place}.firmware", "must be uefi with layer1:talos.encryption tpm, which needs Secure Boot")
    if node.arch == Arch.AARCH64:
        say(
            f"{place}.arch",
            "must be x86_64 with layer1:talos.encryption tpm: arm64 guests have no SMM, without which the "
            "guest itself can change Secure Boot's keys; use encryption node-id",
        )


def check_images(schematic: str, say: Say) -> None:
    """Check that the schematic is there."""
    if not (ASSETS / "talos" / schematic).is_file():
        say("layer1:images.talos.schematic", "is not a file in assets/talos/")


def check_cluster(
    talos: TalosConfig,
    network: NetworkConfig | PiNetwork | None,
    nodes: Sequence[Node | BoardNode],
    roles: Sequence[Role | None],
    say: Say,
) -> None:
    """Check the cluster as a whole.

    Args:
        talos: its settings.
        network: the nodes' network, None where that has a problem of its own.
        nodes: the nodes without problems.
        roles: the roles of all Talos nodes.
        say: takes a key and a sentence.
    """
    _check_count(roles.count(Role.CONTROLPLANE), say)
    _check_endpoint(talos, nodes, roles.count(Role.CONTROLPLANE), say)
    _check_hosts(nodes, say)
    if network is None or talos.virtual_ip is None:
        return
    key = "layer1:talos.virtual_ip"
    virtual = IPv4Address(talos.virtual_ip)
    if virtual not in network.network:
        section = "network" if isinstance(network, NetworkConfig) else "pi"
        say(key, f"is outside layer1:{section}.cidr ({network.network})")
    elif str(virtual) in map(
        str, (network.network.network_address, network.network.broadcast_address, network.gateway)
    ):
        say(key, "is the network's own, its broadcast or the host's address")
    for node in nodes:
        if node.ip == talos.virtual_ip:
            say(key, f"is the address of {node.key} already")


def _check_hosts(nodes: Sequence[Node | BoardNode], say: Say) -> None:
    mine = [node for node in nodes if isinstance(node, Node) and node.os == Os.TALOS]
    for node in mine:
        if node.host_name != mine[0].host_name:
            say(
                f"{node.key}.host",
                f"must be {mine[0].host_name} as well: each host has a network of its own, on which the "
                "cluster's other nodes cannot be reached",
            )


def _check_endpoint(talos: TalosConfig, nodes: Sequence[Node | BoardNode], count: int, say: Say) -> None:
    if count not in (3, 5):
        return
    own = {node.ip for node in nodes if node.role == Role.CONTROLPLANE}
    endpoint = talos.endpoint or talos.virtual_ip
    if endpoint is None or endpoint in own:
        say(
            "layer1:talos.endpoint" if talos.endpoint else "layer1:talos.virtual_ip",
            "must lead to all control planes where there are several: nodes join through it, so a control "
            "plane that is replaced could not come back through its own address. Set virtual_ip to a free "
            "address of layer1:network.cidr, or endpoint to a name that resolves to all of them",
        )


def _check_count(count: int, say: Say) -> None:
    if count == 0:
        say("layer1:nodes", "has Talos workers and no control plane; give one node role: controlplane")
    elif count % 2 == 0:
        say(
            "layer1:nodes",
            f"has {count} Talos control planes; take 1, 3 or 5: etcd needs a majority, so an even number "
            "stands the loss of no more nodes than one less, and has one more to lose",
        )
    elif count > 5:
        say("layer1:nodes", f"has {count} Talos control planes; take 1, 3 or 5: each more slows every write")
