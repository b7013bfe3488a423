"""From the stack's configuration to the cluster and machines that talosctl is told of."""

from __future__ import annotations

import json
from dataclasses import replace

from layer1 import identity
from layer1.model import BoardNode, NetworkConfig, Node, Os, PiNetwork, Role, StackConfig
from layer1.paths import ASSETS
from layer1.talos import machine_config, schematic
from layer1.talos.machine_config import ClusterSpec, MachineSpec, Platform

Member = Node | BoardNode


def members(stack: StackConfig) -> tuple[Member, ...]:
    """Return who is in the cluster, in the stack file's order: a board only once it is booted."""
    return (*stack.of(Os.TALOS), *(board for board in stack.boards_of(Os.TALOS) if board.booted))


def control_planes(stack: StackConfig) -> tuple[Member, ...]:
    """Return the control planes in the stack file's order; the first is bootstrapped."""
    return tuple(node for node in members(stack) if node.role == Role.CONTROLPLANE)


def workers(stack: StackConfig) -> tuple[Member, ...]:
    """Return the workers in the stack file's order."""
    return tuple(node for node in members(stack) if node.role == Role.WORKER)


def cluster_spec(stack: StackConfig) -> ClusterSpec:
    """Describe the cluster, with the boards that are yet to boot: their coming changes no other node.

    Workers are named by the whole network, so that adding one changes no other node's firewall.
    """
    talos = stack.talos
    everybody: tuple[Member, ...] = (*stack.of(Os.TALOS), *stack.boards_of(Os.TALOS))
    addresses = tuple(node.ip for node in everybody if node.role == Role.CONTROLPLANE)
    has_workers = any(node.role == Role.WORKER for node in everybody)
    network = _network(stack)
    return ClusterSpec(
        name=talos.cluster_name,
        endpoint=talos.endpoint or talos.virtual_ip or addresses[0],
        control_planes=addresses,
        workers=(network.cidr,) if has_workers else (),
        operator_networks=tuple(talos.operator_networks) or _operators(network),
        virtual_ip=talos.virtual_ip,
        talos_version=stack.images.talos.version,
        kubernetes_version=talos.kubernetes_version,
        schedule_on_control_planes=(
            not has_workers if talos.schedule_on_control_planes is None else talos.schedule_on_control_planes
        ),
    )


def _network(stack: StackConfig) -> NetworkConfig | PiNetwork:
    """Return the network that the cluster is on: a host's, or that of the boards."""
    return stack.pi_network if stack.pi_network and stack.boards_of(Os.TALOS) else stack.network


def _operators(network: NetworkConfig | PiNetwork) -> tuple[str, ...]:
    """Return who may ask the APIs by default: the host, whose network it is; on boards the operator's."""
    if isinstance(network, PiNetwork):
        return network.operator_networks
    return (str(network.gateway),)


def access(cluster: ClusterSpec) -> ClusterSpec:
    """Return what of a cluster its talosconfig hangs on: not the workers, not the versions."""
    return replace(
        cluster,
        workers=(),
        schedule_on_control_planes=False,
        talos_version=machine_config.DEFAULT_VERSION,
        kubernetes_version=None,
    )


def member_list(stack: StackConfig) -> list[dict[str, str]]:
    """Return who is in the cluster, as the tasks take it."""
    return [{"name": node.name, "address": node.ip, "role": str(node.role)} for node in members(stack)]


def root_kind(node: Node) -> str:
    """Name the resource of a node's root disk within the node.

    A root disk stays on the base volume it began with, even when it is made anew; one that is signed for
    Secure Boot must not begin on the other image, so it is another resource.
    """
    return "root-secureboot" if node.secure_boot else "root"


def root_file_name(stack: StackConfig, node: Node) -> str:
    """Name a node's root disk, by what a disk cannot change: another of it is another disk."""
    kept = json.dumps([str(node.role), machine_spec(stack, node).address, str(stack.talos_encryption)])
    return f"{node.name}-root-{identity.content_id(kept)}.qcow2"


def machine_spec(stack: StackConfig, node: Member) -> MachineSpec:
    """Describe one node."""
    network = _network(stack)
    nameservers = network.nameservers if isinstance(network, PiNetwork) else ()
    spec = MachineSpec(
        role=machine_config.Role(str(node.role)),
        hostname=node.name,
        address=f"{node.ip}/{network.network.prefixlen}",
        gateway=str(network.gateway),
        schematic_id=schematic_id(stack, node),
        nameservers=tuple(stack.talos.nameservers) or nameservers,
        time_servers=tuple(stack.talos.time_servers),
        encryption=machine_config.Encryption(str(stack.talos_encryption)),
        secure_boot=isinstance(node, Node) and node.secure_boot,
        registry=stack.images.talos.registry,
    )
    if isinstance(node, BoardNode):
        return replace(spec, platform=Platform.METAL, install_disk=node.install_disk)
    return spec


def schematic_id(stack: StackConfig, node: Member) -> str:
    """Return the id of the node's schematic, computed offline."""
    if isinstance(node, BoardNode):
        return schematic.schematic_id(schematic.read(schematic.BOARDS[node.board]))
    return schematic.schematic_id((ASSETS / "talos" / stack.images.talos.schematic).read_text())


def installers(stack: StackConfig) -> dict[str, str]:
    """Return the installer image of each node by address."""
    version = stack.images.talos.version
    return {node.ip: machine_spec(stack, node).installer(version) for node in members(stack)}
