"""What every node in a domain has, whatever its operating system: data disks and a reserved address."""

from __future__ import annotations

import pulumi

from components import _commands, _libvirt
from components._options import child_of
from components.hypervisor import Hypervisor
from layer1.model import Node

GIB = 1024**3


def data_volumes(parent: pulumi.Resource, name: str, node: Node, host: Hypervisor) -> list[_libvirt.Volume]:
    """Make the node's data disks: the operator's data, never replaced or removed by a plan."""
    return [
        _libvirt.disk_volume(
            f"{name}-data-{disk.name}",
            f"{node.name}-data-{disk.name}.qcow2",
            host.pool.name,
            size_bytes=disk.size_gib * GIB,
            base=None,
            opts=child_of(parent, provider=host.provider, protect=True, retain_on_delete=True),
        )
        for disk in node.data_disks
    ]


def reserved_address(parent: pulumi.Resource, name: str, node: Node, host: Hypervisor) -> pulumi.Resource:
    """Bind the node's address to its MAC in the network's DHCP."""
    return _commands.task(
        f"{name}-address",
        "reserve-address",
        {
            "uri": host.uri,
            "network": host.network.name,
            "mac": node.mac,
            "ip": node.ip,
            "name": node.name,
        },
        undo="release-address",
        triggers=[node.mac, node.ip, host.network.id],
        opts=child_of(parent, delete_before_replace=True),
    ).resource
