"""What the checks of one host look at: what the stack wants of it, what libvirt says, what the host says."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from layer1 import host_ssh, identity, machine
from layer1.doctor.check import Unlearned
from layer1.doctor.host_probe import Facts, Wish
from layer1.model import Accel, HostConfig, ImageSource, Node, Os, StackConfig, Svirt


@dataclass(frozen=True, kw_only=True, slots=True)
class Libvirt:
    """What libvirt says of a host.

    Attributes:
        version: of libvirt, as numbers.
        hypervisor: such as `QEMU 7.2.22`.
        secmodels: the security models that it has.
        qemu_user: number of the user that QEMU runs as, empty where DAC is off.
        guests: for each guest architecture the domain types that it offers.
    """

    version: tuple[int, ...]
    hypervisor: str
    secmodels: tuple[str, ...]
    qemu_user: str
    guests: dict[str, frozenset[str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Needs:
    """What the stack's nodes want of a host.

    Attributes:
        arches: the guests' architectures.
        disk_gib: the sum of what its nodes' disks may grow to.
        files: firmware on the host.
        vtpm: whether a node has one.
        cidr: the nodes' network, empty for none.
        bridge: the name of its bridge.
        timeless: whether nothing in the stack is signed or has a certificate.
        pool_directory: the stack's own folder.
    """

    arches: tuple[str, ...] = ()
    disk_gib: int = 0
    files: tuple[str, ...] = ()
    vtpm: bool = False
    cidr: str = ""
    bridge: str = ""
    timeless: bool = False
    pool_directory: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class HostView:
    """One host."""

    name: str
    config: HostConfig
    needs: Needs
    libvirt: Libvirt | Unlearned
    facts: Facts | Unlearned

    @property
    def remote(self) -> bool:
        """Whether it is another machine."""
        return host_ssh.is_remote(self.config.uri)

    @property
    def svirt_key(self) -> str | None:
        """The key that chose no mandatory access control."""
        return f"layer1:hosts.{self.name}.svirt" if self.config.svirt == Svirt.NONE else None

    @property
    def accel_key(self) -> str | None:
        """The key that chose emulation."""
        return f"layer1:hosts.{self.name}.accel" if self.config.accel == Accel.TCG else None

    @property
    def limit_key(self) -> str | None:
        """The key that chose no limit of memory."""
        return None if self.config.memory_hard_limit else f"layer1:hosts.{self.name}.memory_hard_limit"


def needs(stack: StackConfig, host_name: str) -> Needs:
    """Gather what a stack's nodes want of a host."""
    nodes = [node for node in stack.nodes if node.host_name == host_name]
    files: dict[str, None] = {}
    for node in nodes:
        described = machine.machine(stack, node)
        if described.firmware:
            files |= {described.firmware: None, described.nvram_template: None}
    return Needs(
        arches=tuple(dict.fromkeys(str(node.arch) for node in nodes)),
        disk_gib=sum(map(_disk_gib, nodes)),
        files=tuple(files),
        vtpm=any(node.secure_boot for node in nodes),
        cidr=stack.network.cidr,
        bridge=identity.bridge_name(stack.stack, host_name),
        timeless=_timeless(stack),
        pool_directory=machine.pool_directory(stack, host_name),
    )


def _disk_gib(node: Node) -> int:
    return node.disk_gib.value + sum(disk.size_gib for disk in node.data_disks)


def _timeless(stack: StackConfig) -> bool:
    practice = stack.images.flatcar.source == ImageSource.PRACTICE
    return practice and not stack.boards and not stack.of(Os.TALOS)


def wish(config: HostConfig, wanted: Needs, libvirt: Libvirt | Unlearned) -> Wish:
    """Say what the host's probe shall look at."""
    user = libvirt.qemu_user if isinstance(libvirt, Libvirt) else ""
    return Wish(
        pool_path=config.pool_path,
        pool_directory=wanted.pool_directory or str(PurePosixPath(config.pool_path) / "layer1"),
        files=list(wanted.files),
        **({"qemu_user": user} if user else {}),
    )


def uri_user(uri: str) -> str:
    """Return the user that a URI names on the other machine, empty for one's own name."""
    return urlsplit(uri).username or ""


def read_capabilities(versions: str, capabilities: str) -> Libvirt:
    """Read what `virsh version` and `virsh capabilities` print.

    Raises:
        ValueError: it is not that.
    """
    said = dict(line.split(": ", 1) for line in versions.splitlines() if ": " in line)
    daemon = said.get("Running against daemon") or said.get("Using library") or ""
    version = daemon.split()[-1] if daemon else ""
    try:
        root = ET.fromstring(capabilities)  # noqa: S314 - libvirt's own answer
        numbers = tuple(int(part) for part in version.split("."))
    except (ET.ParseError, ValueError):
        raise ValueError("libvirt's answer is not understood") from None
    dac = root.find("host/secmodel[model='dac']/baselabel[@type='kvm']")
    guests: dict[str, frozenset[str]] = {}
    for guest in root.iterfind("guest/arch"):
        types = {domain.get("type", "") for domain in guest.iterfind("domain")}
        guests[guest.get("name", "")] = frozenset(types)
    return Libvirt(
        version=numbers,
        hypervisor=said.get("Running hypervisor", "unknown"),
        secmodels=tuple(model.text or "" for model in root.iterfind("host/secmodel/model")),
        qemu_user=(dac.text or "").split(":")[0].lstrip("+") if dac is not None else "",
        guests=guests,
    )
