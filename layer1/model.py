"""What a stack file may say, and what becomes of it, as frozen models; `layer1.config` fills them."""

from __future__ import annotations

from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from layer1.values import (
    AbsolutePath,
    Address,
    CertificateFingerprint,
    DiskById,
    DiskGib,
    DiskSerial,
    Flag,
    Hostname,
    HostOrAddress,
    InstallDisk,
    K3sVersion,
    KeyFile,
    KubernetesVersion,
    LibvirtUri,
    MemoryMib,
    NetworkCidr,
    NetworkOrAddress,
    PublicKey,
    RaspiosVersion,
    Registry,
    SchematicFile,
    Seconds,
    SerialNumber,
    TalosVersion,
    Url,
    UserName,
    Version,
    VirtualCpus,
    WebUrl,
    one_of,
)

FLATCAR_VIRTUAL_GIB = 13
"""Smallest whole GiB that holds Flatcar's disk of 25,661,440 blocks of 512 bytes (disk_layout.json)."""
TALOS_DISK_GIB = 10
TALOS_MEMORY_MIB = {"controlplane": 2048, "worker": 1024}
"""What Talos needs at least (docs.siderolabs.com, system requirements of v1.13)."""


class Environment(StrEnum):
    """What a stack is for. Only a lab may do without a wall: the policy pack refuses it elsewhere."""

    PRODUCTION = "production"
    LAB = "lab"


class Accel(StrEnum):
    """What runs the guest's code: the processor (kvm) or software emulation (tcg), which isolates nothing."""

    KVM = "kvm"
    TCG = "tcg"


class Svirt(StrEnum):
    """The mandatory access control around QEMU."""

    APPARMOR = "apparmor"
    NONE = "none"


class NetworkMode(StrEnum):
    """How nodes reach the world: through the host's address (nat), or not at all (isolated)."""

    NAT = "nat"
    ISOLATED = "isolated"


class ImageSource(StrEnum):
    """Where the node's image comes from."""

    OFFICIAL = "official"
    PRACTICE = "practice"


class Flavour(StrEnum):
    """Which of Flatcar's images: they differ in where Ignition looks for its config."""

    OPENSTACK = "openstack"
    KUBEVIRT = "kubevirt"


class Os(StrEnum):
    """The node's operating system."""

    FLATCAR = "flatcar"
    TALOS = "talos"
    K3S_PIOS = "k3s-pios"


class Board(StrEnum):
    """A Raspberry Pi; Talos calls the image of the first official and that of the second community-tested."""

    RPI4 = "rpi4"
    RPI5 = "rpi5"


class RaspiosRelease(StrEnum):
    """The release of Raspberry Pi OS; each reads other files on its first boot."""

    BOOKWORM = "bookworm"
    TRIXIE = "trixie"


class Role(StrEnum):
    """What a node is in its cluster; a Flatcar node is a k3s server."""

    SERVER = "server"
    CONTROLPLANE = "controlplane"
    WORKER = "worker"


class TalosDisk(StrEnum):
    """How the Image Factory packs the disk."""

    QCOW2 = "qcow2"
    RAW_XZ = "raw.xz"
    RAW_ZST = "raw.zst"


class Encryption(StrEnum):
    """What the keys of Talos' STATE and EPHEMERAL come from: nothing, the machine's UUID, or a vTPM.

    The vTPM's keys hang on Secure Boot, so this also means UEFI and the image that is signed for it.
    """

    NONE = "none"
    NODE_ID = "node-id"
    TPM = "tpm"


class Arch(StrEnum):
    """The guest's processor architecture, as libvirt names it."""

    X86_64 = "x86_64"
    AARCH64 = "aarch64"


class Firmware(StrEnum):
    """What starts the guest."""

    BIOS = "bios"
    UEFI = "uefi"


class UpdateStrategy(StrEnum):
    """What Flatcar does with an update: nothing at all, stage it, or stage it and reboot by itself."""

    OFF = "off"
    STAGE = "stage"
    REBOOT = "reboot"


_REFUSED_OS = {
    "bottlerocket": "Bottlerocket is not covered: it has no k3s, and its last bare-metal variant ended with "
    "Kubernetes 1.29; use flatcar",
    "microos": "openSUSE MicroOS is not covered: its read-only root is a property of the file system "
    "that root can lift, not a verified image; use flatcar",
}


class Model(BaseModel):
    """Base of every model: frozen, no unknown keys, and no input value in an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class HostConfig(Model):
    """A libvirt host. Weaker values than the defaults are walls that the plan repeats.

    The stack makes a directory of its own below `pool_path` and removes no other. `board` says that the host
    is a Raspberry Pi, with `memory_mib` of memory.
    """

    uri: LibvirtUri = "qemu:///system"
    pool_path: AbsolutePath = "/var/lib/libvirt/images"
    accel: Annotated[Accel, one_of(Accel)] = Accel.KVM
    svirt: Annotated[
        Svirt,
        one_of(Svirt, selinux="is not supported yet; use apparmor, or none to say openly that there is none"),
    ] = Svirt.APPARMOR
    memory_hard_limit: Flag = True
    board: Annotated[Board, one_of(Board)] | None = None
    memory_mib: MemoryMib | None = None


class NetworkConfig(Model):
    """The nodes' network on each host; its first address is the host's own."""

    cidr: NetworkCidr = "10.11.0.0/24"
    mode: Annotated[
        NetworkMode,
        one_of(NetworkMode, none="is called isolated here", bridge="is planned, not in this version"),
    ] = NetworkMode.NAT

    @property
    def network(self) -> IPv4Network:
        """The network as a value."""
        return IPv4Network(self.cidr)

    @property
    def gateway(self) -> IPv4Address:
        """The host's address on the network."""
        return self.network[1]


class FlatcarImageConfig(Model):
    """Which Flatcar image the nodes start from.

    `practice` is the stand-in that `lab/` builds on this machine; its digest comes from its manifest.
    """

    source: Annotated[ImageSource, one_of(ImageSource)] = ImageSource.OFFICIAL
    version: Version = "4593.2.5"
    flavour: Annotated[
        Flavour,
        one_of(
            Flavour,
            proxmoxve="boots without any config after 30 s without its disc; use openstack or kubevirt",
            qemu="boots without any config when it gets none; use openstack or kubevirt",
            qemu_uefi="boots without any config when it gets none; use openstack or kubevirt",
            nutanix="is only published compressed and for amd64; use openstack or kubevirt",
        ),
    ] = Flavour.OPENSTACK
    base_url: Url = "https://stable.release.flatcar-linux.net"


class TalosImageConfig(Model):
    """Which Talos image the nodes start from, and what their upgrades bring: both of one schematic.

    A new version upgrades running nodes in place; it never replaces a disk.
    """

    version: TalosVersion = "v1.13.4"
    schematic: SchematicFile = "schematic.yaml"
    disk: Annotated[TalosDisk, one_of(TalosDisk)] = TalosDisk.QCOW2
    base_url: Url = "https://factory.talos.dev"
    registry: Registry = "factory.talos.dev"


class RaspiosImageConfig(Model):
    """Which image of Raspberry Pi OS Lite (64-bit) the boards with k3s start from.

    The image itself is asked for its release; another than `release` is refused, for each reads other files
    on its first boot and ignores the rest without a word.
    """

    release: Annotated[RaspiosRelease, one_of(RaspiosRelease)] = RaspiosRelease.BOOKWORM
    version: RaspiosVersion = "2026-06-18@2026-06-19"
    base_url: Url = "https://downloads.raspberrypi.com"


class ImagesConfig(Model):
    """The images by operating system."""

    flatcar: FlatcarImageConfig = FlatcarImageConfig()
    talos: TalosImageConfig = TalosImageConfig()
    raspios: RaspiosImageConfig = RaspiosImageConfig()


class PiConfig(Model):
    """What the stack's boards share: the operator's own network, and who they let in.

    `gateway` is by default the network's first address, and answers for names where `nameservers` is empty.
    Empty `operator_networks` mean this network. `user` is the operator's login on Raspberry Pi OS.
    `image_path` is by default `.layer1/pi` in the repository; image files go to a folder of the stack there.
    """

    cidr: NetworkCidr | None = None
    gateway: Address | None = None
    nameservers: list[Address] = Field(default_factory=list)
    operator_networks: list[NetworkOrAddress] = Field(default_factory=list)
    user: UserName = "layer1"
    image_path: AbsolutePath | None = None


class TalosConfig(Model):
    """The stack's Talos cluster; its nodes are those with `os: talos`.

    `endpoint` is where the Kubernetes API is: by default the virtual address, else the first control plane.
    `encryption` is by default `node-id` in domains and `none` on boards, whose UUID makes a poor key.
    Empty `nameservers` and `time_servers` mean the host, `operator_networks` likewise: who may ask the APIs.
    `schedule_on_control_planes` is by default whether there is no worker. The talosconfig's certificate is
    for a year: a higher `talosconfig_serial` makes it anew.
    """

    cluster_name: Hostname = "talos"
    endpoint: HostOrAddress | None = None
    virtual_ip: Address | None = None
    kubernetes_version: KubernetesVersion | None = None
    encryption: Annotated[Encryption, one_of(Encryption)] | None = None
    nameservers: list[Address] = Field(default_factory=list)
    time_servers: list[HostOrAddress] = Field(default_factory=list)
    operator_networks: list[NetworkOrAddress] = Field(default_factory=list)
    schedule_on_control_planes: Flag | None = None
    talosconfig_serial: SerialNumber = 1
    bootstrap_timeout_s: Seconds = 900


class K3sConfig(Model):
    """Which k3s the official installer puts on the node, and from where."""

    version: K3sVersion = "v1.36.4+k3s1"
    installer_url: WebUrl | None = None
    releases_url: WebUrl = "https://github.com/k3s-io/k3s/releases"

    @property
    def installer(self) -> str:
        """The installer's address: as configured, else the script of the very release."""
        if self.installer_url is not None:
            return str(self.installer_url)
        return f"https://raw.githubusercontent.com/k3s-io/k3s/{self.version.replace('+', '%2B')}/install.sh"


class DefaultsConfig(Model):
    """What nodes take that do not say otherwise."""

    memory_mib: MemoryMib = 4096
    vcpus: VirtualCpus = 2
    disk_gib: DiskGib = 20
    ssh_authorized_keys: list[PublicKey] = Field(default_factory=list)
    ssh_authorized_key_files: list[KeyFile] = Field(default_factory=list)
    ready_timeout_s: Seconds = 600


class DataDiskConfig(Model):
    """A disk of the node's own that outlives the node: protected, and kept on destroy."""

    name: Hostname
    size_gib: DiskGib


class NodeConfig(Model):
    """One node as the stack file has it; what is None comes from the defaults."""

    name: Hostname
    os: Annotated[Os, one_of(Os, **_REFUSED_OS)]
    role: (
        Annotated[
            Role,
            one_of(Role, agent="is planned, not in this version; a Flatcar node is a server"),
        ]
        | None
    ) = None
    host: Hostname | None = None
    arch: Annotated[Arch, one_of(Arch)] = Arch.X86_64
    firmware: Annotated[Firmware, one_of(Firmware)] | None = None
    ip: Address | None = None
    memory_mib: MemoryMib | None = None
    vcpus: VirtualCpus | None = None
    disk_gib: DiskGib | None = None
    ssh_authorized_keys: list[PublicKey] | None = None
    updates: Annotated[UpdateStrategy, one_of(UpdateStrategy)] = UpdateStrategy.OFF
    data_disks: list[DataDiskConfig] = Field(default_factory=list)
    passthrough_disks: list[DiskById] = Field(default_factory=list)


class BoardConfig(Model):
    """One node that is a board of its own, as the stack file has it.

    `booted` says that the board runs what was made for it and has its address: only then is it spoken to.
    `device` and `confirm_erase` have the image written to a card or drive, which loses what is on it.
    """

    name: Hostname
    os: Annotated[
        Os,
        one_of(
            Os,
            **_REFUSED_OS,
            flatcar="has no image for the board; use talos or k3s-pios, or a host with arch: aarch64",
        ),
    ]
    board: Annotated[Board, one_of(Board)]
    role: Annotated[Role, one_of(Role, agent="is planned, not in this version")] | None = None
    ip: Address
    ssh_authorized_keys: list[PublicKey] | None = None
    device: DiskById | None = None
    confirm_erase: DiskSerial | None = None
    booted: Flag = False
    maintenance_fingerprint: CertificateFingerprint | None = None
    install_disk: InstallDisk | None = None


class Sized(Model):
    """A number and where it came from, for the plan."""

    value: int
    origin: str


class Node(Model):
    """One node, with every default filled in.

    `key` is where the stack file has it (`layer1:nodes[0]`). `secure_boot` means a vTPM besides.
    """

    key: str
    name: str
    os: Os
    role: Role
    host_name: str
    arch: Arch
    firmware: Firmware
    secure_boot: bool
    ip: str
    mac: str
    uuid: str
    memory_mib: Sized
    vcpus: Sized
    disk_gib: Sized
    ssh_authorized_keys: tuple[str, ...]
    updates: UpdateStrategy
    data_disks: tuple[DataDiskConfig, ...]
    passthrough_disks: tuple[str, ...]
    ready_timeout_s: int


class BoardNode(Model):
    """One board, with every default filled in."""

    key: str
    name: str
    os: Os
    role: Role
    board: Board
    ip: str
    uuid: str
    ssh_authorized_keys: tuple[str, ...]
    device: str | None
    confirm_erase: str | None
    booted: bool
    maintenance_fingerprint: str | None
    install_disk: str
    ready_timeout_s: int


class PiNetwork(Model):
    """The boards' network, with every default filled in."""

    cidr: NetworkCidr
    gateway: str
    nameservers: tuple[str, ...]
    operator_networks: tuple[str, ...]

    @property
    def network(self) -> IPv4Network:
        """The network as a value."""
        return IPv4Network(self.cidr)


class StackConfig(Model):
    """A whole stack, checked; `pi_network` is there where boards are."""

    stack: str
    environment: Environment
    hosts: dict[str, HostConfig]
    network: NetworkConfig
    images: ImagesConfig
    k3s: K3sConfig
    talos: TalosConfig
    pi: PiConfig
    pi_network: PiNetwork | None
    nodes: tuple[Node, ...]
    boards: tuple[BoardNode, ...]

    @property
    def used_hosts(self) -> dict[str, HostConfig]:
        """The hosts that a node is on."""
        return {
            name: host for name, host in self.hosts.items() if any(n.host_name == name for n in self.nodes)
        }

    @property
    def talos_encryption(self) -> Encryption:
        """What encrypts the disks of Talos nodes; a board's UUID is guessed soon, and can change."""
        if self.talos.encryption is not None:
            return self.talos.encryption
        return Encryption.NONE if self.boards_of(Os.TALOS) else Encryption.NODE_ID

    def boards_of(self, os: Os) -> tuple[BoardNode, ...]:
        """The boards with that operating system."""
        return tuple(board for board in self.boards if board.os == os)

    def of(self, os: Os) -> tuple[Node, ...]:
        """The nodes with that operating system."""
        return tuple(node for node in self.nodes if node.os == os)
