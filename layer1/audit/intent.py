"""What a node should be like, from the stack's file, as the judges of its domain compare it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from layer1 import identity, supply
from layer1.contract import NodeOutput
from layer1.domain_sheet import hard_limit_mib
from layer1.errors import ImageError
from layer1.images.lockfile import LockFile
from layer1.machine import Machine, forward_mode, machine, pool_directory
from layer1.model import Accel, BoardNode, Node, Os, Role, StackConfig, Svirt
from layer1.walls import Wall, walls


@dataclass(frozen=True, kw_only=True, slots=True)
class DomainIntent:
    """What a node in a domain should be like; sizes in bytes where they say so, paths are the host's.

    Attributes:
        uri: the host's libvirt URI.
        machine: its domain.
        accel: what runs its code.
        svirt: what confines its QEMU.
        hard_limit_bytes: the bound of its QEMU, None where the stack asks for none.
        directory: the pool's.
        network: libvirt's network and its bridge.
        network_mode: libvirt's forward mode, and the host's address on it.
        addresses: what its frames may come from.
        base_file: the base volume's file name by the plan, None where the image is not at hand.
        secure_boot: whether it starts by Secure Boot, with a vTPM.
    """

    uri: str
    machine: Machine
    accel: Accel
    svirt: Svirt
    hard_limit_bytes: int | None
    directory: str
    network: str
    bridge: str
    network_mode: str
    gateway: str
    addresses: tuple[str, ...]
    base_file: str | None
    secure_boot: bool

    @property
    def firmware(self) -> tuple[str, ...]:
        """The files of its firmware."""
        return (self.machine.firmware, self.machine.nvram_file) if self.machine.firmware else ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Intent:
    """What a node should be like.

    Attributes:
        stack: the stack's name.
        uuid: of the node.
        walls: by name, with the key of each that the stack took away.
        pinned: digests that vouch for an image of this node; hexadecimal SHA-512.
        updates: who updates, on Flatcar.
        domain: None for a board.
    """

    stack: str
    name: str
    os: Os
    uuid: str
    address: str
    walls: dict[str, Wall]
    pinned: frozenset[str]
    verified_by: str
    k3s_version: str | None
    talos_version: str
    encryption: str
    user: str
    domain: DomainIntent | None

    def owns(self, path: str) -> bool:
        """Say whether a file of the pool's directory is this node's own: its root, its seed, its data."""
        if self.domain is None:
            return False
        folder, _, name = path.rpartition("/")
        data = "|".join(re.escape(disk) for disk in self.domain.machine.data_disks)
        own = rf"(root-[0-9a-f]{{12}}\.qcow2|seed(-[0-9a-f]{{12}})?\.iso|data-({data})\.qcow2)"
        return (
            folder == self.domain.directory
            and re.fullmatch(rf"{re.escape(self.name)}-{own}", name) is not None
        )

    def is_base(self, path: str) -> bool:
        """Say whether a file is a base volume that this node may stand on; Talos' older ones stay."""
        if self.domain is None:
            return False
        folder, _, name = path.rpartition("/")
        old = self.os == Os.TALOS and name.startswith("talos-")
        return folder == self.domain.directory and (name == self.domain.base_file or old)

    def may_open(self, path: str) -> bool:
        """Say whether this node's QEMU has business with a file that holds data."""
        if self.domain is None:
            return False
        return (
            self.owns(path)
            or self.is_base(path)
            or path in (*self.domain.firmware, *self.domain.machine.passthrough_disks)
        )


def of_node(stack: StackConfig, node: Node | BoardNode, output: NodeOutput | None) -> Intent:
    """Say what a node should be like.

    Args:
        stack: the checked configuration.
        node: the node.
        output: its part of the stack's output, None where it has none yet.
    """
    domain = _domain(stack, node) if isinstance(node, Node) else None
    return Intent(
        stack=stack.stack,
        name=node.name,
        os=node.os,
        uuid=node.uuid,
        address=node.ip,
        walls={wall.name: wall for wall in walls(stack, node)},
        pinned=_pinned(stack, node, output),
        verified_by=output.image.verified_by if output else "",
        k3s_version=stack.k3s.version if node.os != Os.TALOS else None,
        talos_version=stack.images.talos.version,
        encryption=str(stack.talos_encryption),
        user=stack.pi.user if node.os == Os.K3S_PIOS else "core",
        domain=domain,
    )


def _domain(stack: StackConfig, node: Node) -> DomainIntent:
    host = stack.hosts[node.host_name]
    virtual = stack.talos.virtual_ip if node.role == Role.CONTROLPLANE else None
    limit = hard_limit_mib(node.memory_mib.value) * 1024**2 if host.memory_hard_limit else None
    try:
        base = supply.image_plan(stack, node).file_name
    except ImageError:
        base = None
    return DomainIntent(
        uri=host.uri,
        machine=machine(stack, node),
        accel=host.accel,
        svirt=host.svirt,
        hard_limit_bytes=limit,
        directory=pool_directory(stack, node.host_name),
        network=identity.resource_prefix(stack.stack),
        bridge=identity.bridge_name(stack.stack, node.host_name),
        network_mode=forward_mode(stack),
        gateway=str(stack.network.gateway),
        addresses=(node.ip, *((virtual,) if virtual else ())),
        base_file=base,
        secure_boot=node.secure_boot,
    )


def _pinned(stack: StackConfig, node: Node | BoardNode, output: NodeOutput | None) -> frozenset[str]:
    """Return the digests of the lock file or the manifest; of a signed image without a pin, the checked one.

    A running Talos node stands on the base volume that it was made with, whose pin is in the lock file still.
    """
    if isinstance(node, BoardNode):
        return frozenset()
    entries = LockFile.load(supply.LOCK_FILE).entries
    try:
        thing = supply.wanted(supply.image_request(stack, node))
    except ImageError:
        return frozenset({output.image.sha512} if output else set())
    entry = entries.get(thing.name)
    digest = thing.sha512 or (entry.sha512 if entry else None)
    if node.os == Os.TALOS:
        return frozenset(each.sha512 for name, each in entries.items() if name.startswith("talos"))
    if digest is None and output is not None:
        digest = output.image.sha512
    return frozenset({digest} if digest else set())
