"""The one adapter to pulumi-libvirt: nothing else imports it, so leaving it some day is one module.

The package is frozen at 0.5.4 and deprecated upstream; docs/adr/0001-deprecated-libvirt-provider.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pulumi
import pulumi_libvirt as libvirt

from components._options import child_of
from layer1 import domain_sheet
from layer1.machine import Machine

Provider = libvirt.Provider
Volume = libvirt.Volume
Network = libvirt.Network
Pool = libvirt.Pool
Domain = libvirt.Domain


def provider(name: str, uri: str, parent: pulumi.Resource) -> libvirt.Provider:
    """Make the connection to one host."""
    return libvirt.Provider(name, uri=uri, opts=child_of(parent))


def pool(name: str, libvirt_name: str, directory: str, opts: pulumi.ResourceOptions) -> libvirt.Pool:
    """Make a directory pool; destroying it removes the directory, so `layer1` claims that first."""
    return libvirt.Pool(
        name,
        name=libvirt_name,
        type="dir",
        target={"path": directory},
        xml={"xslt": domain_sheet.pool_sheet()},
        opts=opts,
    )


def network(  # noqa: PLR0913 - what a network is made of
    name: str, libvirt_name: str, *, mode: str, cidr: str, bridge: str, opts: pulumi.ResourceOptions
) -> libvirt.Network:
    """Make the nodes' network, with DHCP and DNS for them alone."""
    return libvirt.Network(
        name,
        name=libvirt_name,
        mode=mode,
        addresses=[cidr],
        bridge=bridge,
        autostart=True,
        dhcp={"enabled": True},
        dns={"enabled": True},
        opts=opts,
    )


def uploaded_volume(  # noqa: PLR0913
    name: str,
    file_name: pulumi.Input[str],
    pool_name: pulumi.Input[str],
    *,
    source: pulumi.Input[str],
    volume_format: str,
    opts: pulumi.ResourceOptions,
) -> libvirt.Volume:
    """Upload a local file that has been verified or made here; no other source is possible."""
    return libvirt.Volume(
        name,
        name=file_name,
        pool=pool_name,
        source=source,
        format=volume_format,
        xml={"xslt": domain_sheet.volume_sheet()},
        opts=opts,
    )


def disk_volume(  # noqa: PLR0913
    name: str,
    file_name: pulumi.Input[str],
    pool_name: pulumi.Input[str],
    *,
    size_bytes: int,
    base: libvirt.Volume | None,
    opts: pulumi.ResourceOptions,
) -> libvirt.Volume:
    """Make a qcow2 disk: an overlay on `base`, or an empty one."""
    return libvirt.Volume(
        name,
        name=file_name,
        pool=pool_name,
        format="qcow2",
        size=size_bytes,
        base_volume_id=base.id if base is not None else None,
        xml={"xslt": domain_sheet.volume_sheet()},
        opts=opts,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class DomainParts:
    """What a domain is put together from; the seed by its id, which is its path on the host."""

    seed_id: pulumi.Input[str]
    disks: Sequence[libvirt.Volume]
    network: libvirt.Network


def domain(name: str, machine: Machine, parts: DomainParts, opts: pulumi.ResourceOptions) -> libvirt.Domain:
    """Make a domain of the hardened kind that `machine` describes."""
    disks: list[dict[str, pulumi.Input[str]]] = [{"volume_id": disk.id} for disk in parts.disks]
    disks += [{"block_device": device} for device in machine.passthrough_disks]
    return libvirt.Domain(
        name,
        name=machine.domain_name,
        type=machine.domain_type,
        arch=machine.arch,
        machine=machine.machine,
        memory=machine.memory_mib,
        vcpu=machine.vcpus,
        cpu={"mode": machine.cpu_mode},
        firmware=machine.firmware,
        nvram={"file": machine.nvram_file, "template": machine.nvram_template} if machine.firmware else None,
        autostart=True,
        # The provider splits this at ";" and gives the disk the serial by which its Read skips it.
        cloudinit=pulumi.Output.concat(parts.seed_id, ";seed"),
        disks=disks,
        network_interfaces=[{"network_id": parts.network.id, "mac": machine.mac}],
        xml={"xslt": machine.sheet},
        opts=opts,
    )
