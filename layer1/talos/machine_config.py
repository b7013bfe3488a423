"""Makes the machine config of a Talos node: talosctl's own, with the patches of `assets/talos/` over it.

The cluster's secrets reach talosctl by standard input and come back by standard output: they are in no
argument and in no file. The patches, which hold none, wait in a folder that only their owner can enter.

`generate_config` gives the same bytes for the same secrets and descriptions, as long as talosctl is the same.
`generate_secrets` and `talosconfig` never give the same twice, for they make keys and certificates with
dates: each runs once, and the stack keeps what it gave.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path
from typing import Any, TypeVar

import yaml

from layer1.errors import RenderError
from layer1.paths import ASSETS
from layer1.processes import last_lines, run
from layer1.templates import substitute

TEMPLATES = ASSETS / "talos"
DEFAULT_VERSION = "v1.13.4"
REGISTRY = "factory.talos.dev"
KUBERNETES_API_PORT = 6443

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")
# The patches are written for this release: later ones move what they set (1.14 has no install section).
_TALOS_VERSION = re.compile(r"v1\.13\.[0-9]{1,3}")
_KUBERNETES_VERSION = re.compile(r"1\.[0-9]{1,3}\.[0-9]{1,3}")
_SCHEMATIC = re.compile(r"[0-9a-f]{64}")
_REGISTRY = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]{1,5})?(/[a-z0-9]+([._-][a-z0-9]+)*)*")
_DISK = re.compile(r"/dev(/[A-Za-z0-9._:-]+)+")

_QUOTED = re.compile(r"`[^`]*`")
"""How a YAML reader quotes the beginning of a value, which may be secret, in an error."""
_ASSIGNED = re.compile(r"(?m)^(\s*(?:- )?[A-Za-z0-9_.\"-]+:) +\S.*$|^(\s*-) +(?![A-Za-z0-9_.\"-]+:( |$)).+$")
"""A line of a config that talosctl repeats when it does not know a key."""
_SECRET_LENGTH = 12
"""A text of the secrets or of the config that is shorter tells nothing: the shortest secret has 23."""

_VIRTIO_DISK = "/dev/vda"

T = TypeVar("T")


class Role(StrEnum):
    """What a node is in the cluster."""

    CONTROLPLANE = "controlplane"
    WORKER = "worker"


class Platform(StrEnum):
    """What the node's image was made for: a virtual machine with a seed, or a bare board.

    A board boots without a config and waits for it in maintenance mode: `layer1.talos.apply.first_config`.
    """

    NOCLOUD = "nocloud"
    METAL = "metal"


class Encryption(StrEnum):
    """What the keys of STATE and EPHEMERAL come from: nothing, the machine's UUID, or the sealed TPM."""

    NONE = "none"
    NODE_ID = "node-id"
    TPM = "tpm"


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterSpec:
    """What all nodes of a cluster share. Checked on its making.

    Attributes:
        name: the cluster, one label.
        endpoint: where the Kubernetes API is: an address, a name that the nodes can resolve, or the virtual
            address. Nodes also join there (trustd), so it must lead to the control planes themselves.
        control_planes: their addresses; the first is bootstrapped. 1, 3 or 5.
        workers: addresses of workers, or networks that they come from. A network leaves room: a worker that
            is added from it changes no other node's firewall. Addresses are narrower.
        operator_networks: networks and addresses that may ask the Talos and the Kubernetes API.
        virtual_ip: an address that the control planes share for the Kubernetes API.
        talos_version: such as v1.13.4.
        kubernetes_version: such as 1.36.0, without a v; None is talosctl's own, which changes with talosctl.
        schedule_on_control_planes: whether workloads may run there, for a cluster without workers.
        pod_network: the pods' addresses; must not meet the nodes'.
        service_network: the services' addresses, likewise.

    Raises:
        RenderError: on its making, naming every field that is wrong.
    """

    name: str
    endpoint: str
    control_planes: tuple[str, ...]
    operator_networks: tuple[str, ...]
    workers: tuple[str, ...] = ()
    virtual_ip: str | None = None
    talos_version: str = DEFAULT_VERSION
    kubernetes_version: str | None = None
    schedule_on_control_planes: bool = False
    pod_network: str = "10.244.0.0/16"
    service_network: str = "10.96.0.0/12"

    def __post_init__(self) -> None:
        _refuse(f"cluster {self.name!r}", self._problems())

    @property
    def endpoint_url(self) -> str:
        """Address of the Kubernetes API."""
        return f"https://{self.endpoint}:{KUBERNETES_API_PORT}"

    def _problems(self) -> Iterator[str]:
        if not _LABEL.fullmatch(self.name):
            yield "name: must be one label of a-z, 0-9 and inner hyphens"
        yield from self._node_problems()
        if not _TALOS_VERSION.fullmatch(self.talos_version):
            yield "talos_version: must be a release such as v1.13.4; the patches are written for v1.13"
        if self.kubernetes_version is not None and not _KUBERNETES_VERSION.fullmatch(self.kubernetes_version):
            yield "kubernetes_version: must be a release such as 1.36.0, without a v"
        for name in ("pod_network", "service_network"):
            if not _parsed(IPv4Network, getattr(self, name)):
                yield f"{name}: must be an IPv4 network"

    def _node_problems(self) -> Iterator[str]:
        if not _NAME.fullmatch(self.endpoint) or len(self.endpoint) > 253:
            yield "endpoint: must be a host name or an IPv4 address, without scheme and port"
        count = len(self.control_planes)
        if count % 2 == 0:
            yield (
                f"control_planes: {count} is not 1, 3 or 5; etcd needs a majority, so an even number stands "
                "the loss of no more nodes than one less, and has one more to lose"
            )
        elif count > 5:
            yield f"control_planes: {count} is not 1, 3 or 5; each more slows every write of etcd down"
        yield from (
            f"control_planes: {at!r} is not an IPv4 address"
            for at in self.control_planes
            if not _parsed(IPv4Address, at)
        )
        if len(set(self.control_planes)) != count:
            yield "control_planes: an address is there twice"
        for name in ("workers", "operator_networks"):
            yield from (
                f"{name}: {place!r} is not an IPv4 address or network"
                for place in getattr(self, name)
                if not _parsed(IPv4Network, place)
            )
        if not self.operator_networks:
            yield "operator_networks: is empty; nobody could then reach the Talos API"
        if self.virtual_ip is not None and not _parsed(IPv4Address, self.virtual_ip):
            yield "virtual_ip: must be an IPv4 address"
        if self.virtual_ip in self.control_planes:
            yield "virtual_ip: is a control plane's own address"


@dataclass(frozen=True, kw_only=True, slots=True)
class MachineSpec:
    """One node. Checked on its making.

    Attributes:
        role: control plane or worker.
        hostname: one label.
        address: with its prefix, such as 10.11.0.20/24.
        gateway: the host's address on that network.
        schematic_id: what the node's image was built from; the installer is of the same.
        nameservers: addresses; none means the gateway, whose libvirt network answers.
        time_servers: names or addresses; none means the gateway, whose host must then answer NTP. Without an
            answer the cluster is never bootstrapped.
        platform: what the image was made for.
        install_disk: the disk that Talos is on. A board's is a card or a drive, such as /dev/mmcblk0.
        encryption: of STATE and EPHEMERAL.
        secure_boot: whether the image is the one that is signed for Secure Boot.
        registry: where installers are, a host and maybe a path.

    Raises:
        RenderError: on its making, naming every field that is wrong.
    """

    role: Role
    hostname: str
    address: str
    gateway: str
    schematic_id: str
    nameservers: tuple[str, ...] = ()
    time_servers: tuple[str, ...] = ()
    platform: Platform = Platform.NOCLOUD
    install_disk: str = _VIRTIO_DISK
    encryption: Encryption = Encryption.NODE_ID
    secure_boot: bool = False
    registry: str = REGISTRY

    def __post_init__(self) -> None:
        _refuse(f"node {self.hostname!r}", self._problems())

    @property
    def ip(self) -> str:
        """The node's address without its prefix."""
        return self.address.partition("/")[0]

    @property
    def network(self) -> IPv4Network:
        """The network that the node's address is of."""
        return IPv4Interface(self.address).network

    @property
    def interface(self) -> str:
        """What the config calls the network card: nocloud images name the first one eth0.

        On a board its name hangs on the board, so the config gives it another (`board.yaml`).
        """
        return "eth0" if self.platform == Platform.NOCLOUD else "uplink"

    @property
    def resolvers(self) -> tuple[str, ...]:
        """Whom the node asks for names."""
        return self.nameservers or (self.gateway,)

    def installer(self, talos_version: str) -> str:
        """Return the image by which the node is upgraded: same schematic, same platform.

        The platform counts: the installer brings the kernel's arguments, and one for `metal` takes
        `net.ifnames=0` and nocloud's network away (siderolabs/talos#10486; platform installers since
        siderolabs/image-factory#210). That a node upgrades by this one is inferred from there, not tried.
        """
        boot = "-secureboot" if self.secure_boot else ""
        return f"{self.registry}/{self.platform}-installer{boot}/{self.schematic_id}:{talos_version}"

    def _problems(self) -> Iterator[str]:
        if not _LABEL.fullmatch(self.hostname):
            yield "hostname: must be one label of a-z, 0-9 and inner hyphens"
        interface = _parsed(IPv4Interface, self.address) if "/" in self.address else None
        if interface is None:
            yield "address: must be an IPv4 address with its prefix, such as 10.11.0.20/24"
        gateway = _parsed(IPv4Address, self.gateway)
        if gateway is None:
            yield "gateway: must be an IPv4 address"
        elif interface is not None and (gateway not in interface.network or gateway == interface.ip):
            yield "gateway: must be another address of the node's network"
        if not all(_parsed(IPv4Address, server) for server in self.nameservers):
            yield "nameservers: must be IPv4 addresses"
        if not all(_NAME.fullmatch(server) for server in self.time_servers):
            yield "time_servers: must be host names or IPv4 addresses"
        if not _SCHEMATIC.fullmatch(self.schematic_id):
            yield "schematic_id: must be 64 hexadecimal digits"
        if not _DISK.fullmatch(self.install_disk) or ".." in self.install_disk:
            yield "install_disk: must be a path below /dev"
        elif self.platform == Platform.METAL and self.install_disk == _VIRTIO_DISK:
            yield "install_disk: a board has no virtio disk; its card is /dev/mmcblk0, a USB drive /dev/sda"
        if not _REGISTRY.fullmatch(self.registry):
            yield "registry: must be a registry's host and maybe a path, without scheme"
        if self.encryption == Encryption.TPM and not self.secure_boot:
            yield (
                "encryption: tpm needs secure_boot, for without it the TPM gives its key to any kernel; use "
                "node-id, or turn secure_boot on"
            )


def generate_secrets(talos_version: str = DEFAULT_VERSION) -> str:
    """Make a cluster's secrets: every certificate authority, token and key it has. Never twice for one.

    Args:
        talos_version: the release that the cluster starts with.

    Returns:
        YAML; all of it secret.

    Raises:
        RenderError: talosctl refused.
        ToolError: talosctl is missing.
    """
    return _talosctl("gen secrets", ["--output-file", "-", "--talos-version", talos_version], "")


def patches(cluster: ClusterSpec, machine: MachineSpec) -> dict[str, list[dict[str, Any]]]:
    """Return the patches of a node by template, filled in, in their order; none holds a secret.

    Raises:
        RenderError: node and cluster do not fit, or a template and its values differ.
    """
    _refuse(f"node {machine.hostname!r}", _misfits(cluster, machine))
    names = ["common", machine.role.value]
    if machine.platform == Platform.METAL:
        names.append("board")
    values = _values(cluster, machine)
    if machine.role == Role.CONTROLPLANE:
        values |= _control_plane_values(cluster)
    if machine.role == Role.CONTROLPLANE and cluster.virtual_ip is not None:
        names.append("virtual-ip")
        values["VIRTUAL_IP"] = cluster.virtual_ip
    if machine.encryption != Encryption.NONE:
        names.append(f"encryption-{machine.encryption.value}")
    templates = {name: load_template(TEMPLATES / f"{name}.yaml") for name in names}
    filled: dict[str, list[dict[str, Any]]] = substitute(templates, values)
    return filled


def load_template(path: Path) -> list[dict[str, Any]]:
    """Read the documents of a template.

    Raises:
        RenderError: it is not YAML, or not of mappings.
    """
    try:
        documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    except yaml.YAMLError as error:
        raise RenderError(f"{path.name} is not YAML: {error}") from None
    if not all(isinstance(document, dict) for document in documents):
        raise RenderError(f"{path.name} must hold mappings, each after the other with --- between")
    return documents


def generate_config(secrets_yaml: str, cluster: ClusterSpec, machine: MachineSpec) -> str:
    """Make a node's machine config: the same bytes for the same input.

    Args:
        secrets_yaml: what `generate_secrets` gave.
        cluster: the cluster.
        machine: the node.

    Returns:
        YAML of several documents; secret: a control plane's holds the keys of the cluster's authorities.

    Raises:
        RenderError: talosctl refused the secrets or a patch, in its own words and without any secret.
        ToolError: talosctl is missing.
    """
    filled = patches(cluster, machine)
    options = [*_gen_options(cluster), "--output-types", machine.role.value]
    with tempfile.TemporaryDirectory(prefix="layer1-talos-") as folder:  # mode 0700
        for name, documents in filled.items():
            patch = Path(folder) / f"{name}.yaml"
            descriptor = os.open(patch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                # JSON is YAML, and leaves nothing to a YAML writer's taste ("off" stays a text).
                stream.writelines(f"---\n{json.dumps(document, indent=1)}\n" for document in documents)
            options += ["--config-patch", f"@{patch}"]
        return _talosctl("gen config", options, _checked(secrets_yaml))


def talosconfig(secrets_yaml: str, cluster: ClusterSpec) -> str:
    """Make the operator's access to the Talos API: an administrator's certificate, for one year.

    Another certificate each time, so this runs once, and again before the year is over. Endpoints are the
    control planes' own addresses, never the virtual one, which is gone when etcd is; the node that is asked
    by default is the first control plane alone, so that no command reaches every node by an omission.

    Args:
        secrets_yaml: what `generate_secrets` gave.
        cluster: the cluster.

    Returns:
        YAML as `talosctl` reads it; secret.

    Raises:
        RenderError: talosctl refused the secrets, or answered with something else than its config.
        ToolError: talosctl is missing.
    """
    options = [*_gen_options(cluster), "--output-types", "talosconfig"]
    try:
        document = yaml.safe_load(_talosctl("gen config", options, _checked(secrets_yaml)))
        context = document["contexts"][document["context"]]
        context["endpoints"] = list(cluster.control_planes)
        context["nodes"] = [cluster.control_planes[0]]
    except (yaml.YAMLError, KeyError, TypeError):
        # Not the error's text: it would show where in the keys it stumbled.
        raise RenderError("talosctl gen config gave something that is not a talosconfig") from None
    return yaml.safe_dump(document, sort_keys=False, width=4096)


def validate(config: str, platform: Platform = Platform.NOCLOUD) -> None:
    """Have talosctl judge a machine config, these very bytes, in the mode that the node will run in.

    Args:
        config: the machine config; secret, so it goes by standard input.
        platform: of the node's image. To Talos nocloud is a cloud; only on metal must there be a disk.

    Raises:
        RenderError: it is not valid, in talosctl's own words and without any secret.
        ToolError: talosctl is missing.
    """
    mode = "cloud" if platform == Platform.NOCLOUD else "metal"
    _talosctl("validate", ["--config", "/dev/stdin", "--mode", mode, "--strict"], config)


# --- talosctl


def _gen_options(cluster: ClusterSpec) -> list[str]:
    options = [cluster.name, cluster.endpoint_url, "--with-secrets", "/dev/stdin", "--output", "-"]
    options += ["--with-docs=false", "--with-examples=false", "--talos-version", cluster.talos_version]
    if cluster.kubernetes_version is not None:
        options += ["--kubernetes-version", cluster.kubernetes_version]
    return options


def _talosctl(command: str, options: list[str], secret_input: str) -> str:
    result = run(["talosctl", *command.split(), *options], stdin=secret_input, timeout_s=60)
    if result.returncode != 0:
        said = without_secrets(last_lines(result.stderr, 12), secret_input)
        raise RenderError(f"talosctl {command} refused:\n{said}")
    return result.stdout


def _checked(secrets_yaml: str) -> str:
    """Refuse what is not a bundle of secrets before talosctl sees it: it would make new ones for some."""
    try:
        document = yaml.safe_load(secrets_yaml)
    except yaml.YAMLError:
        document = None
    if not isinstance(document, dict) or not {"cluster", "secrets", "trustdinfo", "certs"} <= document.keys():
        raise RenderError(
            "the cluster's secrets are not what `talosctl gen secrets` writes; the stack's state holds the "
            "right ones, and nothing can make them again"
        )
    return secrets_yaml


def without_secrets(said: str, secret_input: str) -> str:
    """Take out of Talos' words whatever it may have repeated from the secrets or the config."""
    for value in sorted(set(_texts(secret_input)), key=len, reverse=True):
        said = said.replace(value, "(a value)")
    said = _QUOTED.sub("`(a value)`", said)
    head, marker, rest = said.partition("unknown keys found during decoding")
    return head + marker + _ASSIGNED.sub(lambda line: f"{line[1] or line[2]} (a value)", rest)


def _texts(text: str) -> Iterator[str]:
    """Yield what could be a secret in a YAML text: values, not the keys and kinds that explain an error."""
    try:
        tree: Any = list(yaml.safe_load_all(text))
    except (yaml.YAMLError, ValueError):
        tree = text

    def walk(item: Any) -> Iterator[str]:  # noqa: ANN401
        if isinstance(item, dict):
            for key, value in item.items():
                yield from () if key == "kind" else walk(value)
        elif isinstance(item, list):
            for value in item:
                yield from walk(value)
        elif isinstance(item, str):
            yield from (part for part in [item, *item.split()] if len(part) >= _SECRET_LENGTH)

    yield from walk(tree)


# --- values


def _values(cluster: ClusterSpec, machine: MachineSpec) -> dict[str, Any]:
    nodes = (*cluster.control_planes, *cluster.workers)
    return {
        "HOSTNAME": machine.hostname,
        "ADDRESS": machine.address,
        "NODE_NETWORK": str(machine.network),
        "GATEWAY": machine.gateway,
        "INTERFACE": machine.interface,
        "NAMESERVERS": [{"address": server} for server in machine.resolvers],
        "TIME_SERVERS": list(machine.time_servers or (machine.gateway,)),
        "INSTALL_DISK": machine.install_disk,
        "INSTALLER": machine.installer(cluster.talos_version),
        "POD_NETWORK": cluster.pod_network,
        "SERVICE_NETWORK": cluster.service_network,
        "NODES": _sources(nodes),
        "NODES_AND_PODS": _sources((*nodes, cluster.pod_network)),
        "OPERATORS_AND_CONTROL_PLANES": _sources((*cluster.operator_networks, *cluster.control_planes)),
    }


def _control_plane_values(cluster: ClusterSpec) -> dict[str, Any]:
    every = (*cluster.operator_networks, *cluster.control_planes, *cluster.workers, cluster.pod_network)
    return {
        "SCHEDULE_ON_CONTROL_PLANES": cluster.schedule_on_control_planes,
        "CONTROL_PLANES": _sources(cluster.control_planes),
        "OPERATORS_NODES_AND_PODS": _sources(every),
    }


def _sources(places: Iterable[str]) -> list[dict[str, str]]:
    """Return a rule's sources: as few networks as cover the same addresses, in their order."""
    return [{"subnet": str(net)} for net in ipaddress.collapse_addresses(map(IPv4Network, places))]


# --- checks


def _misfits(cluster: ClusterSpec, machine: MachineSpec) -> Iterator[str]:
    control_plane = machine.role == Role.CONTROLPLANE
    if control_plane and machine.ip not in cluster.control_planes:
        yield "address: is not among the cluster's control_planes"
    if not control_plane and machine.ip in cluster.control_planes:
        yield "address: a worker has a control plane's address"
    address = IPv4Address(machine.ip)
    if not control_plane and not any(address in IPv4Network(place) for place in cluster.workers):
        yield "address: is not among the cluster's workers, whose firewalls would shut it out"
    if cluster.virtual_ip is not None:
        if IPv4Address(cluster.virtual_ip) not in machine.network:
            yield "address: the cluster's virtual_ip is of another network"
        if cluster.virtual_ip in (machine.ip, machine.gateway):
            yield "address: the cluster's virtual_ip is the node's own or the gateway's"
    for name in ("pod_network", "service_network"):
        if IPv4Network(getattr(cluster, name)).overlaps(machine.network):
            yield f"address: the cluster's {name} meets the nodes' network"
    if IPv4Network(cluster.pod_network).overlaps(IPv4Network(cluster.service_network)):
        yield "address: the cluster's pod_network meets its service_network"


def _refuse(what: str, problems: Iterable[str]) -> None:
    if found := list(problems):
        raise RenderError("\n".join([f"Talos {what}:", *(f"  {problem}" for problem in found)]))


def _parsed(kind: Callable[[str], T], text: str) -> T | None:
    try:
        return kind(text)
    except ValueError:
        return None
