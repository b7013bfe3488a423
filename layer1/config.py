"""Reads the stack's configuration: every problem at once, each with its full key, never a value.

`load` is the only way in. It takes the raw values of the keys below `layer1:` and gives a `StackConfig`,
or raises one `ConfigError`. Values never appear in a message: a secret may stand under any key.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from layer1 import config_pi, config_talos, identity
from layer1.errors import ConfigError
from layer1.model import (
    FLATCAR_VIRTUAL_GIB,
    Accel,
    Arch,
    BoardConfig,
    BoardNode,
    DefaultsConfig,
    Encryption,
    Environment,
    Firmware,
    HostConfig,
    ImagesConfig,
    ImageSource,
    K3sConfig,
    Model,
    NetworkConfig,
    Node,
    NodeConfig,
    Os,
    PiConfig,
    PiNetwork,
    Role,
    Sized,
    StackConfig,
    TalosConfig,
)
from layer1.paths import REPOSITORY
from layer1.sshkeys import public_key_problem
from layer1.values import Hostname, MemoryMib, VirtualCpus

NAMESPACE = "layer1"
SECRET_KEYS = frozenset({"layer2_ignition"})
KEYS = frozenset(
    {"defaults", "environment", "hosts", "images", "k3s", "network", "nodes", "pi", "talos", *SECRET_KEYS}
)
"""Every key below `layer1:`."""
ENVIRONMENT = {"FK_VM_RAM_MB": "memory_mib", "FK_VM_VCPUS": "vcpus"}
"""Environment variables that replace the stack's defaults (whole numbers, MiB)."""
_CLUSTER_NETWORKS = {
    IPv4Network("10.42.0.0/16"): "k3s's default pod network",
    IPv4Network("10.43.0.0/16"): "k3s's default service network",
}
_STACK_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")
_SAFE_KEY = re.compile(r"[A-Za-z0-9_-]{1,40}")
_MESSAGES = {
    "extra_forbidden": "is not a key here; look for a typing error, or see docs/config.md for the keys",
    "missing": "is missing and has no default",
    "list_type": "must be a list",
    "dict_type": "must be a mapping of keys and values",
    "model_type": "must be a mapping of keys and values",
    "model_attributes_type": "must be a mapping of keys and values",
}

_M = TypeVar("_M", bound=Model)


def _message(error: Any) -> str:  # noqa: ANN401
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    return _MESSAGES.get(error["type"], "has the wrong form")


def _path(key: str, location: Iterable[int | str]) -> str:
    """Write a pydantic location as users write keys; odd key names are not repeated."""
    for part in location:
        if isinstance(part, int):
            key += f"[{part}]"
        else:
            key += f".{part}" if _SAFE_KEY.fullmatch(part) else ".(an unusual key)"
    return key


class _Problems:
    """Collects (key, sentence) pairs while the rest of the configuration is still read."""

    def __init__(self) -> None:
        self.found: list[tuple[str, str]] = []

    def add(self, key: str, text: str) -> None:
        if (key, text) not in self.found:
            self.found.append((key, text))

    def parse(self, key: str, model: type[_M], raw: Any) -> _M | None:  # noqa: ANN401
        try:
            return model.model_validate(raw)
        except ValidationError as error:
            for item in error.errors(include_input=False, include_url=False):
                self.add(_path(key, item["loc"]), _message(item))
            return None

    def section(
        self, name: str, model: type[_M], raw: Mapping[str, Any], *decisive: tuple[str, ...]
    ) -> _M | None:
        """Read a section; what is wrong in it does not hide what is wrong between the rest and the nodes.

        None where the fault is in a `decisive` key: checks against its default would only mislead.
        """
        value = {} if raw.get(name) is None else raw[name]
        try:
            return model.model_validate(value)
        except ValidationError as error:
            items = error.errors(include_input=False, include_url=False)
        places = [item["loc"] for item in items]
        for item in items:
            self.add(_path(f"{NAMESPACE}:{name}", item["loc"]), _message(item))
        if any(
            key[: len(place)] == place or place[: len(key)] == key for key in decisive for place in places
        ):
            return None
        try:
            return model.model_validate(_without(value, places))
        except ValidationError:
            return None


def _without(value: Any, places: Iterable[tuple[int | str, ...]]) -> Any:  # noqa: ANN401
    """Copy a raw section, less the keys that could not be read."""
    rest = deepcopy(value)
    for place in places:
        here = rest
        for part in place:
            if not isinstance(here, dict) or part not in here:
                break
            if part == place[-1] or not isinstance(here[part], dict):
                del here[part]
                break
            here = here[part]
    return rest


def parsed(text: str | None) -> Any:  # noqa: ANN401
    """Read a value as Pulumi hands it over: JSON; else the text itself, for `load` to refuse without it."""
    try:
        return None if text is None else json.loads(text)
    except (ValueError, RecursionError):
        return text


def load(stack: str, raw: Mapping[str, Any], environment: Mapping[str, str]) -> StackConfig:
    """Check the raw configuration and fill in every default.

    Args:
        stack: the stack's name; identities are made from it.
        raw: values below `layer1:`, as parsed from the stack file, without the namespace.
        environment: where `FK_VM_RAM_MB` and `FK_VM_VCPUS` are looked up.

    Raises:
        ConfigError: with every problem found.
    """
    problems = _Problems()
    if not _STACK_NAME.fullmatch(stack):
        problems.add("the stack's name", "must be a-z, 0-9 and inner hyphens, at most 32 characters")
    for key in sorted(set(raw) - KEYS, key=str):
        problems.add(_path(f"{NAMESPACE}:", [str(key)]).replace(":.", ":"), _MESSAGES["extra_forbidden"])
    stands_for = _environment(raw.get("environment"), problems)
    network = problems.section("network", NetworkConfig, raw, ("cidr",))
    images = problems.section("images", ImagesConfig, raw, ("flatcar", "source"))
    k3s = problems.section("k3s", K3sConfig, raw)
    talos = problems.section("talos", TalosConfig, raw, ("virtual_ip",))
    pi = problems.section("pi", PiConfig, raw, ("cidr",), ("gateway",))
    defaults = problems.section(
        "defaults", DefaultsConfig, raw, ("ssh_authorized_keys",), ("ssh_authorized_key_files",)
    )
    if defaults is not None:
        defaults = _with_key_files(defaults, problems)
    raw_defaults = raw.get("defaults")
    context = _Context(
        hosts=_hosts(raw.get("hosts"), problems),
        network=network,
        images=images,
        talos=talos,
        defaults=defaults,
        environment=_defaults_from_environment(environment, problems),
        given_defaults=frozenset(map(str, raw_defaults)) if isinstance(raw_defaults, dict) else frozenset(),
    )
    nodes, raw_boards = _nodes(raw.get("nodes"), problems)
    systems = {read.node.os for read in nodes if "os" not in read.wrong}
    if network is not None and nodes:
        _check_network(network, systems, problems)
    resolved = [_resolve(stack, read, context, problems) for read in nodes]
    complete = tuple(node for node in resolved if node is not None)
    _check_unique(complete, problems)
    config_pi.check_hosts(context.hosts, complete, problems.add)
    if Os.TALOS in systems:
        _check_talos(talos, context, nodes, complete, problems)
    pi_network = config_pi.network(pi, problems.add) if pi is not None and raw_boards else None
    boards = _boards(stack, raw_boards, pi_network, context, problems)
    config_pi.check_together(boards, complete, problems.add)
    _check_talos_boards(talos, boards, len(raw_boards), pi_network, problems)
    if problems.found or network is None or images is None or k3s is None or talos is None or pi is None:
        raise ConfigError(problems.found)
    return StackConfig(
        stack=stack,
        environment=stands_for,
        hosts=context.hosts,
        network=network,
        images=images,
        k3s=k3s,
        talos=talos,
        pi=pi,
        pi_network=pi_network,
        nodes=complete,
        boards=boards,
    )


def _environment(raw: Any, problems: _Problems) -> Environment:  # noqa: ANN401
    try:
        return Environment.PRODUCTION if raw is None else Environment(raw)
    except ValueError:
        problems.add(f"{NAMESPACE}:environment", f"must be one of: {', '.join(Environment)}")
        return Environment.PRODUCTION


def _hosts(raw: Any, problems: _Problems) -> dict[str, HostConfig]:  # noqa: ANN401
    key = f"{NAMESPACE}:hosts"
    if raw is None:
        return {"home": HostConfig()}
    if not isinstance(raw, dict) or not raw:
        problems.add(key, "must be a mapping of host names to their settings, such as {home: {}}")
        return {}
    hosts: dict[str, HostConfig] = {}
    uris: dict[str, str] = {}
    for name, value in raw.items():
        place = _path(key, [str(name)])
        if not isinstance(name, str) or _Problems().parse(place, _HostName, {"name": name}) is None:
            problems.add(place, "the host's name must be a-z, 0-9 and inner hyphens, at most 63 characters")
            continue
        host = problems.parse(place, HostConfig, {} if value is None else value)
        if host is None:
            continue
        machine = host.uri.partition("?")[0]
        if machine in uris:
            problems.add(
                f"{place}.uri", f"is the same as {key}.{uris[machine]}.uri: their networks would overlap"
            )
        uris.setdefault(machine, name)
        hosts[name] = host
    return hosts


class _HostName(Model):
    name: Hostname


class _Memory(Model):
    value: MemoryMib


class _Cpus(Model):
    value: VirtualCpus


def _nodes(raw: Any, problems: _Problems) -> tuple[list[_Read], dict[str, dict[str, Any]]]:  # noqa: ANN401
    """Read the nodes in domains; and give the raw ones that are boards, by their key."""
    key = f"{NAMESPACE}:nodes"
    if not isinstance(raw, list) or not raw:
        problems.add(key, "must be a list of at least one node, such as [{name: k3s-1, os: flatcar}]")
        return [], {}
    nodes: list[_Read] = []
    boards: dict[str, dict[str, Any]] = {}
    names: dict[str, str] = {}
    for index, value in enumerate(raw):
        place = f"{key}[{index}]"
        if isinstance(value, dict) and isinstance(name := value.get("name"), str):
            if name in names:
                problems.add(f"{place}.name", f"is the same as {names[name]}.name; node names are unique")
            names.setdefault(name, place)
        if config_pi.is_board(value):
            boards[place] = value
        else:
            nodes.append(_node(place, value, problems))
    return nodes, boards


def _node(place: str, raw: Any, problems: _Problems) -> _Read:  # noqa: ANN401
    """Read one node; what is wrong in it does not hide what is wrong between it and the rest."""
    try:
        return _Read(place=place, node=NodeConfig.model_validate(raw), wrong=frozenset())
    except ValidationError as error:
        items = error.errors(include_input=False, include_url=False)
    for item in items:
        problems.add(_path(place, item["loc"]), _message(item))
    if not isinstance(raw, dict):
        raw = {}
        wrong = frozenset(NodeConfig.model_fields)
    else:
        wrong = frozenset(str(item["loc"][0]) for item in items if item["loc"])
    rest = {str(k): v for k, v in raw.items() if k not in wrong}
    return _Read(
        place=place, node=NodeConfig.model_validate({"name": "unnamed", "os": "flatcar"} | rest), wrong=wrong
    )


def _boards(
    stack: str,
    raw: Mapping[str, dict[str, Any]],
    network: PiNetwork | None,
    context: _Context,
    problems: _Problems,
) -> tuple[BoardNode, ...]:
    """Read the nodes that are boards of their own."""
    found = []
    for place, value in raw.items():
        before = len(problems.found)
        misplaced = config_pi.misplaced(value)
        for key, text in misplaced.items():
            problems.add(f"{place}.{key}", text)
        rest = {key: item for key, item in value.items() if key not in misplaced}
        node = problems.parse(place, BoardConfig, rest)
        if node is None:
            continue
        defaults = context.defaults or DefaultsConfig(ssh_authorized_keys=[])
        keys = defaults.ssh_authorized_keys if node.ssh_authorized_keys is None else node.ssh_authorized_keys
        # Where the defaults have a problem of their own, that they give no key is not another.
        config_pi.check_board(node, place, keys or ([""] if context.defaults is None else []), problems.add)
        if network is not None:
            config_pi.check_address(node, place, network, problems.add)
        if len(problems.found) == before:
            found.append(
                BoardNode(
                    **node.model_dump(exclude={"role", "ssh_authorized_keys", "install_disk"}),
                    key=place,
                    role=node.role or Role.SERVER,
                    uuid=identity.domain_uuid(stack, node.name),
                    ssh_authorized_keys=tuple(keys) if node.os == Os.K3S_PIOS else (),
                    install_disk=node.install_disk or "/dev/mmcblk0",
                    ready_timeout_s=defaults.ready_timeout_s,
                )
            )
    return tuple(found)


def _check_talos_boards(
    talos: TalosConfig | None,
    boards: tuple[BoardNode, ...],
    count: int,
    network: PiNetwork | None,
    problems: _Problems,
) -> None:
    mine = [board for board in boards if board.os == Os.TALOS]
    # With a board that could not be read, the number of control planes is not known.
    if talos is not None and mine and len(boards) == count:
        roles = [board.role for board in mine]
        if talos.encryption == Encryption.TPM:
            problems.add(
                f"{NAMESPACE}:talos.encryption",
                "must be none or node-id on boards, which have no Secure Boot",
            )
        config_talos.check_cluster(talos, network, mine, roles, problems.add)


def _defaults_from_environment(environment: Mapping[str, str], problems: _Problems) -> dict[str, Sized]:
    found: dict[str, Sized] = {}
    for variable, field in ENVIRONMENT.items():
        text = environment.get(variable, "")
        if not text:
            continue
        model = _Memory if field == "memory_mib" else _Cpus
        number = int(text) if re.fullmatch(r"[0-9]{1,9}", text) else None
        wrong = _Problems()
        checked = wrong.parse(f"${variable}", model, {"value": number})
        for key, text in wrong.found:
            problems.add(key.removesuffix(".value"), text)
        if checked is not None:
            found[field] = Sized(value=getattr(checked, "value"), origin=variable)  # noqa: B009
    return found


def _with_key_files(defaults: DefaultsConfig, problems: _Problems) -> DefaultsConfig:
    """Add the keys that the defaults name by file; a relative path is the repository's."""
    keys = list(defaults.ssh_authorized_keys)
    for index, name in enumerate(defaults.ssh_authorized_key_files):
        place = f"{NAMESPACE}:defaults.ssh_authorized_key_files[{index}]"
        try:
            text = (REPOSITORY / Path(name).expanduser()).read_text(encoding="ascii").strip()
        except (OSError, ValueError, RuntimeError):
            problems.add(place, "cannot be read; make a key pair with `ssh-keygen -t ed25519`")
            continue
        if problem := public_key_problem(text):
            problems.add(place, f"the key in it {problem}")
        else:
            keys.append(text)
    # A file that cannot be read is one problem; that its nodes then have no key is not another.
    return defaults.model_copy(
        update={"ssh_authorized_keys": keys or [""] * len(defaults.ssh_authorized_key_files)}
    )


def _check_talos(
    talos: TalosConfig | None,
    context: _Context,
    nodes: list[_Read],
    complete: tuple[Node, ...],
    problems: _Problems,
) -> None:
    if context.images is not None:
        config_talos.check_images(context.images.talos.schematic, problems.add)
    mine = [read for read in nodes if read.node.os == Os.TALOS]
    roles = [read.node.role for read in mine if read.node.role in (Role.CONTROLPLANE, Role.WORKER)]
    unsure = len(roles) < len(mine) or any(read.wrong & {"os", "role"} for read in nodes)
    if talos is not None and roles and not unsure:
        config_talos.check_cluster(talos, context.network, complete, roles, problems.add)


def _check_network(network: NetworkConfig, systems: set[Os], problems: _Problems) -> None:
    taken = _CLUSTER_NETWORKS if systems != {Os.TALOS} else {}
    if Os.TALOS in systems:
        taken = taken | config_talos.NETWORKS
    for other, what in taken.items():
        if network.network.overlaps(other):
            problems.add(
                f"{NAMESPACE}:network.cidr", f"overlaps {other}, {what}; take another, such as 10.11.0.0/24"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Context:
    """What a node is resolved against; None where that part has a problem of its own."""

    hosts: dict[str, HostConfig]
    network: NetworkConfig | None
    images: ImagesConfig | None
    talos: TalosConfig | None
    defaults: DefaultsConfig | None
    environment: dict[str, Sized]
    given_defaults: frozenset[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Read:
    """A node as read: its key, what could be read of it, and the fields that could not."""

    place: str
    node: NodeConfig
    wrong: frozenset[str]


def _sized(field: str, node: NodeConfig, place: str, context: _Context) -> Sized:
    """Find a number's value: the node's own, else the environment's, else the stack's, else ours."""
    own = getattr(node, field)
    if own is not None:
        return Sized(value=own, origin=f"{place}.{field}")
    if field in context.environment:
        return context.environment[field]
    defaults = context.defaults or DefaultsConfig()
    origin = f"{NAMESPACE}:defaults.{field}" if field in context.given_defaults else "built-in default"
    return Sized(value=getattr(defaults, field), origin=origin)


def _resolve(stack: str, read: _Read, context: _Context, problems: _Problems) -> Node | None:
    place, node = read.place, read.node
    before = len(problems.found)
    host_name = None if "host" in read.wrong else _host_of(node, place, context, problems)
    disk = _sized("disk_gib", node, place, context)
    memory = _sized("memory_mib", node, place, context)
    keys: list[str] = []
    secure_boot = node.os == Os.TALOS and (context.talos or TalosConfig()).encryption == Encryption.TPM
    if secure_boot:
        config_talos.check_secure_boot(node, place, problems.add)
    if node.os == Os.TALOS:
        if "role" not in read.wrong:
            config_talos.check_node(node, place, memory, disk, problems.add)
    else:
        _check_disk(disk, place, context, problems)
        keys = _ssh_keys(read, context, problems)
        if node.role not in (None, Role.SERVER):
            problems.add(f"{place}.role", "is Talos'; a Flatcar node is a server, and needs no role")
    _check_arch(node, place, host_name, context, problems)
    _check_disks(node, place, problems)
    ip = _address(stack, node, place, context, problems)
    if read.wrong or len(problems.found) > before or ip is None or host_name is None:
        return None
    return Node(
        key=place,
        name=node.name,
        os=node.os,
        role=node.role or Role.SERVER,
        host_name=host_name,
        arch=node.arch,
        firmware=node.firmware
        or (Firmware.UEFI if node.arch == Arch.AARCH64 or secure_boot else Firmware.BIOS),
        secure_boot=secure_boot,
        ip=ip,
        mac=identity.mac_address(stack, node.name),
        uuid=identity.domain_uuid(stack, node.name),
        memory_mib=memory,
        vcpus=_sized("vcpus", node, place, context),
        disk_gib=disk,
        ssh_authorized_keys=tuple(keys),
        updates=node.updates,
        data_disks=tuple(node.data_disks),
        passthrough_disks=tuple(node.passthrough_disks),
        ready_timeout_s=(context.defaults or DefaultsConfig()).ready_timeout_s,
    )


def _ssh_keys(read: _Read, context: _Context, problems: _Problems) -> list[str]:
    keys = read.node.ssh_authorized_keys
    if keys is None and context.defaults is not None:
        keys = context.defaults.ssh_authorized_keys
    if not keys and context.defaults is not None and not read.wrong & {"ssh_authorized_keys", "os"}:
        problems.add(
            f"{read.place}.ssh_authorized_keys",
            "needs at least one SSH public key, here or in layer1:defaults.ssh_authorized_keys; "
            "nobody could log in otherwise (passwords are off)",
        )
    return keys or []


def _host_of(node: NodeConfig, place: str, context: _Context, problems: _Problems) -> str | None:
    if node.host is None:
        if len(context.hosts) == 1:
            return next(iter(context.hosts))
        if context.hosts:
            problems.add(f"{place}.host", f"must name one of the hosts: {', '.join(sorted(context.hosts))}")
        return None
    if node.host in context.hosts:
        return str(node.host)
    if context.hosts:
        problems.add(f"{place}.host", f"is not one of layer1:hosts ({', '.join(sorted(context.hosts))})")
    return None


def _check_disk(disk: Sized, place: str, context: _Context, problems: _Problems) -> None:
    if context.images is None or context.images.flatcar.source == ImageSource.PRACTICE:
        return
    if disk.value < FLATCAR_VIRTUAL_GIB:
        key = f"{place}.disk_gib" if disk.origin.startswith(place) else disk.origin
        problems.add(
            key,
            f"is smaller than the Flatcar image, whose disk needs {FLATCAR_VIRTUAL_GIB} GiB; 20 is sensible",
        )


def _check_disks(node: NodeConfig, place: str, problems: _Problems) -> None:
    names = [disk.name for disk in node.data_disks]
    for position, name in enumerate(names):
        if name in names[:position]:
            problems.add(f"{place}.data_disks[{position}].name", "is taken by another disk of this node")
    if len(set(node.passthrough_disks)) != len(node.passthrough_disks):
        problems.add(f"{place}.passthrough_disks", "names the same disk twice")


def _check_arch(
    node: NodeConfig, place: str, host_name: str | None, context: _Context, problems: _Problems
) -> None:
    if node.arch != Arch.AARCH64:
        return
    if node.firmware == Firmware.BIOS:
        problems.add(f"{place}.firmware", "must be uefi on aarch64, which has no BIOS")
    practice = context.images is not None and context.images.flatcar.source == ImageSource.PRACTICE
    if practice and node.os == Os.FLATCAR:
        problems.add(
            f"{place}.arch", "must be x86_64 with the practice image, which is built for x86_64 alone"
        )
    host = context.hosts.get(host_name or "")
    if host is not None and host.accel == Accel.KVM and host.uri == "qemu:///system" and not _host_is_arm():
        problems.add(
            f"{place}.arch", "cannot run under KVM on this host's processor; use x86_64 or an arm64 host"
        )


def _host_is_arm() -> bool:
    import platform  # noqa: PLC0415 - only asked for arm64 guests on this machine

    return platform.machine() == "aarch64"


def _address(stack: str, node: NodeConfig, place: str, context: _Context, problems: _Problems) -> str | None:
    if context.network is None:
        return None
    network = context.network.network
    if node.ip is None:
        return str(identity.address(stack, node.name, network))
    own = IPv4Address(node.ip)
    if own not in network:
        problems.add(f"{place}.ip", f"is outside layer1:network.cidr ({network})")
        return None
    if own in (network.network_address, network.broadcast_address, context.network.gateway):
        problems.add(f"{place}.ip", "is the network's own, its broadcast or the host's address")
        return None
    return str(own)


def _check_unique(nodes: tuple[Node, ...], problems: _Problems) -> None:
    addresses: dict[tuple[str, str], Node] = {}
    macs: dict[str, Node] = {}
    disks: dict[tuple[str, str], Node] = {}
    for node in nodes:
        other = addresses.setdefault((node.host_name, node.ip), node)
        if other is not node and other.name != node.name:
            problems.add(f"{node.key}.ip", f"is also the address of {other.key} ({node.ip}); set another ip")
        twin = macs.setdefault(node.mac, node)
        if twin is not node and twin.name != node.name:
            problems.add(f"{node.key}.name", f"gives the same MAC as {twin.key}; choose another name")
        for disk in node.passthrough_disks:
            owner = disks.setdefault((node.host_name, disk), node)
            if owner is not node:
                problems.add(f"{node.key}.passthrough_disks", f"names a disk that {owner.key} takes already")


def parse_layer2_ignition(text: str | None, nodes: Iterable[str]) -> dict[str, str]:
    """Read the secret `layer1:layer2_ignition`: a JSON mapping of node name to an Ignition config.

    Returns:
        For each node named there, its Ignition config as JSON text.

    Raises:
        ConfigError: with keys alone, never a value.
    """
    if text is None:
        return {}
    key = f"{NAMESPACE}:layer2_ignition"
    shape = "must be a JSON mapping of node names to Ignition configs"
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        raise ConfigError([(key, shape)]) from None
    if not isinstance(parsed, dict):
        raise ConfigError([(key, shape)])
    known = set(nodes)
    problems = [(_path(key, [name]), "is not the name of a node") for name in parsed if name not in known]
    problems += [
        (_path(key, [name]), "must be an Ignition config: a mapping with ignition.version")
        for name, value in parsed.items()
        if not (isinstance(value, dict) and isinstance(value.get("ignition"), dict))
    ]
    if problems:
        raise ConfigError(problems)
    return {name: json.dumps(value, sort_keys=True) for name, value in parsed.items()}
