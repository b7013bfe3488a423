"""From the stack's configuration to the cluster and machines that talosctl is told of."""

from __future__ import annotations

import json
from dataclasses import replace

from layer1 import identity
from layer1.model import Node, Os, Role, StackConfig
from layer1.paths import ASSETS
from layer1.talos import machine_config, schematic
from layer1.talos.machine_config import ClusterSpec, MachineSpec


def control_planes(stack: StackConfig) -> tuple[Node, ...]:
    """Return the control planes in the stack file's order; the first is bootstrapped."""
    return tuple(node for node in stack.of(Os.TALOS) if node.role == Role.CONTROLPLANE)


def workers(stack: StackConfig) -> tuple[Node, ...]:
    """Return the workers in the stack file's order."""
    return tuple(node for node in stack.of(Os.TALOS) if node.role == Role.WORKER)


def cluster_spec(stack: StackConfig) -> ClusterSpec:
    """Describe the cluster.

    Workers are named by the whole network, so that adding one changes no other node's firewall.
    """
    talos = stack.talos
    addresses = tuple(node.ip for node in control_planes(stack))
    return ClusterSpec(
        name=talos.cluster_name,
        endpoint=talos.endpoint or talos.virtual_ip or addresses[0],
        control_planes=addresses,
        workers=(stack.network.cidr,) if workers(stack) else (),
        operator_networks=tuple(talos.operator_networks) or (str(stack.network.gateway),),
        virtual_ip=talos.virtual_ip,
        talos_version=stack.images.talos.version,
        kubernetes_version=talos.kubernetes_version,
        schedule_on_control_planes=(
            not workers(stack)
            if talos.schedule_on_control_planes is None
            else talos.schedule_on_control_planes
        ),
    )


def access(cluster: ClusterSpec) -> ClusterSpec:
    """Return what of a cluster its talosconfig hangs on: not the workers, not the versions."""
    return replace(
        cluster,
        workers=(),
        schedule_on_control_planes=False,
        talos_version=machine_config.DEFAULT_VERSION,
        kubernetes_version=None,
    )


def members(stack: StackConfig) -> list[dict[str, str]]:
    """Return who is in the cluster, as the tasks take it."""
    return [{"name": node.name, "address": node.ip, "role": str(node.role)} for node in stack.of(Os.TALOS)]


def root_kind(node: Node) -> str:
    """Name the resource of a node's root disk within the node.

    A root disk stays on the base volume it began with, even when it is made anew; one that is signed for
    Secure Boot must not begin on the other image, so it is another resource.
    """
    return "root-secureboot" if node.secure_boot else "root"


def root_file_name(stack: StackConfig, node: Node) -> str:
    """Name a node's root disk, by what a disk cannot change: another of it is another disk."""
    kept = json.dumps([str(node.role), machine_spec(stack, node).address, str(stack.talos.encryption)])
    return f"{node.name}-root-{identity.content_id(kept)}.qcow2"


def machine_spec(stack: StackConfig, node: Node) -> MachineSpec:
    """Describe one node."""
    network = stack.network
    return MachineSpec(
        role=machine_config.Role(str(node.role)),
        hostname=node.name,
        address=f"{node.ip}/{network.network.prefixlen}",
        gateway=str(network.gateway),
        schematic_id=schematic_id(stack),
        nameservers=tuple(stack.talos.nameservers),
        time_servers=tuple(stack.talos.time_servers),
        encryption=machine_config.Encryption(str(stack.talos.encryption)),
        secure_boot=node.secure_boot,
        registry=stack.images.talos.registry,
    )


def schematic_id(stack: StackConfig) -> str:
    """Return the id of the stack's schematic, computed offline."""
    return schematic.schematic_id((ASSETS / "talos" / stack.images.talos.schematic).read_text())


def installers(stack: StackConfig) -> dict[str, str]:
    """Return the installer image of each node by address."""
    version = stack.images.talos.version
    return {node.ip: machine_spec(stack, node).installer(version) for node in stack.of(Os.TALOS)}
