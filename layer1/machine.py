"""What a node's domain is made of: the arguments that pulumi-libvirt has, and the sheet for the rest."""

from __future__ import annotations

from dataclasses import dataclass

from layer1 import identity
from layer1.domain_sheet import domain_sheet
from layer1.model import Accel, Arch, Firmware, NetworkMode, Node, Role, StackConfig

_MACHINE = {Arch.X86_64: "q35", Arch.AARCH64: "virt"}
_FIRMWARE = {
    # By path: for "efi" libvirt picks the Secure Boot build, which starts no unsigned loader.
    Arch.X86_64: ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    Arch.AARCH64: ("/usr/share/AAVMF/AAVMF_CODE.fd", "/usr/share/AAVMF/AAVMF_VARS.fd"),
}

_SECURE_FIRMWARE = ("/usr/share/OVMF/OVMF_CODE_4M.secboot.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd")
"""Variables without any key: in this setup mode the image's own loader enrols its keys on the first boot."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """A domain's description; memory in MiB, paths are on the host."""

    domain_name: str
    domain_type: str
    arch: str
    machine: str
    cpu_mode: str
    memory_mib: int
    vcpus: int
    firmware: str | None
    nvram_file: str
    nvram_template: str
    mac: str
    data_disks: tuple[str, ...]
    passthrough_disks: tuple[str, ...]
    vtpm: bool
    sheet: str

    @property
    def digest(self) -> str:
        """12 hex digits that change with anything of it; the domain's own id is its UUID and never does."""
        return identity.content_id(repr(self))


def domain_name(stack: StackConfig, node: Node) -> str:
    """Name a node's domain: unique on a host that carries several stacks."""
    return f"{identity.resource_prefix(stack.stack)}-{node.name}"


def pool_directory(stack: StackConfig, host_name: str) -> str:
    """Return the directory of the stack's own pool on a host."""
    return f"{stack.hosts[host_name].pool_path}/{identity.resource_prefix(stack.stack)}"


def machine(stack: StackConfig, node: Node) -> Machine:
    """Describe a node's domain."""
    host = stack.hosts[node.host_name]
    name = domain_name(stack, node)
    code, template = _SECURE_FIRMWARE if node.secure_boot else _FIRMWARE[node.arch]
    return Machine(
        domain_name=name,
        domain_type="kvm" if host.accel == Accel.KVM else "qemu",
        arch=str(node.arch),
        machine=_MACHINE[node.arch],
        cpu_mode="host-passthrough" if host.accel == Accel.KVM else "maximum",
        memory_mib=node.memory_mib.value,
        vcpus=node.vcpus.value,
        firmware=code if node.firmware == Firmware.UEFI else None,
        nvram_file=f"/var/lib/libvirt/qemu/nvram/{name}_VARS.fd",
        nvram_template=template,
        mac=node.mac.upper(),  # as the provider reads it back
        data_disks=tuple(disk.name for disk in node.data_disks),
        passthrough_disks=node.passthrough_disks,
        vtpm=node.secure_boot,
        sheet=domain_sheet(
            node,
            host,
            pool_directory(stack, node.host_name),
            stack.talos.virtual_ip if node.role == Role.CONTROLPLANE else None,
        ),
    )


def forward_mode(stack: StackConfig) -> str:
    """Return the network's mode in libvirt's words."""
    return {NetworkMode.NAT: "nat", NetworkMode.ISOLATED: "none"}[stack.network.mode]
