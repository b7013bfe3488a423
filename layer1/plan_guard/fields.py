"""Says because of which field a resource changes, in the words of the stack's file."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from layer1.config import NAMESPACE
from layer1.model import BoardNode, Node, Os, StackConfig
from layer1.plan_guard.kinds import DOMAIN, NETWORK, POOL, VOLUME, is_data, is_root, task_of
from layer1.plan_guard.preview import UNKNOWN_VALUE, Action, Change

_GIB = 1024**3
_PARAM = "{http://www.w3.org/1999/XSL/Transform}param"
_SHEET_FILE = "assets/libvirt/domain.xsl"
_TASKS = {
    "ignition": "the Ignition config",
    "talos-config": "the Talos machine config",
    "pi-apply": "the board's bundle",
    "pi-image": "the board's image file",
    "image": "the image",
}

_MADE = {
    "pi-flash": ("a card or drive is to be written", "device"),
    "pi-apply": ("the board has booted", "booted"),
    "talos-first-config": ("the board has booted", "booted"),
}


@dataclass(frozen=True, order=True, kw_only=True, slots=True)
class Cause:
    """Why something changes: what differs, and the key of the stack that says it where one can be told."""

    text: str
    key: str | None = None

    def __str__(self) -> str:
        """Return the cause as one phrase."""
        return f"{self.text} ({self.key})" if self.key else self.text


def causes_of(
    changes: Iterable[Change], stack: StackConfig, node: Node | BoardNode | None, host: str
) -> tuple[Cause, ...]:
    """Return the causes of some resources' changes, each once, the same for the same plan.

    Changes that only follow from another resource's have no cause of their own.

    Args:
        changes: the changed resources of one node or host.
        stack: the configuration of the plan.
        node: the node as the plan has it, None for a host or a node that goes.
        host: the name of the host they are on, empty for a board.
    """
    found: dict[Cause, None] = {}
    for change in sorted(changes, key=lambda each: each.urn):
        if change.action == Action.CREATE and node and (made := _MADE.get(task_of(change))):
            found[Cause(text=made[0], key=f"{node.key}.{made[1]}")] = None
        if change.action not in (Action.UPDATE, Action.REPLACE):
            continue
        for name in dict.fromkeys(path.split(".")[0].split("[")[0] for path in change.fields):
            for cause in _causes(change, name, stack, node, host):
                found[cause] = None
    return tuple(found)


def _causes(
    change: Change, name: str, stack: StackConfig, node: Node | BoardNode | None, host: str
) -> list[Cause]:
    if change.kind == DOMAIN and isinstance(node, Node):
        return _of_domain(change, name, node)
    if change.kind == VOLUME and isinstance(node, Node):
        return _of_volume(change, name, stack, node)
    if change.kind == NETWORK:
        return _plain(change, name, {"mode": "network.mode", "addresses": "network.cidr"})
    if change.kind == POOL:
        return _plain(change, name, {"target": f"hosts.{host}.pool_path"})
    return _of_command(change, name, node)


def _of_command(change: Change, name: str, node: Node | BoardNode | None) -> list[Cause]:
    if name == "stdin" and (what := _TASKS.get(task_of(change))):
        return [Cause(text=f"{what} differs", key=None)]
    if name == "stdin" and task_of(change) == "pi-flash":
        return [
            Cause(text="the image file, or the device it goes to", key=f"{node.key}.device" if node else None)
        ]
    return []


def _plain(change: Change, name: str, keys: Mapping[str, str]) -> list[Cause]:
    if name not in keys:
        return [Cause(text=f"{change.name}: {name} differs")]
    key = f"{NAMESPACE}:{keys[name]}"
    return [Cause(text=f"{keys[name].rsplit('.', 1)[-1]} {_sides(change, name)}", key=key)]


def _sides(change: Change, name: str, said: Callable[[Any], str] = str) -> str:
    old, new = change.old.get(name), change.new.get(name)
    return f"{_one(old, said)} to {_one(new, said)}"


def _one(value: Any, said: Callable[[Any], str]) -> str:  # noqa: ANN401
    if value is None:
        return "none"
    if value == UNKNOWN_VALUE:
        return "what is known only once it is made"
    if isinstance(value, list) and len(value) == 1:
        return _one(value[0], said)
    if isinstance(value, dict):
        return ", ".join(_one(each, said) for key, each in sorted(value.items()) if not key.startswith("__"))
    return said(value)


def _of_domain(change: Change, name: str, node: Node) -> list[Cause]:
    host = f"{NAMESPACE}:hosts.{node.host_name}"
    simple = {
        "memory": ("memory in MiB", node.memory_mib.origin),
        "vcpu": ("vCPUs", node.vcpus.origin),
        "cpu": ("processor", f"{host}.accel"),
        "type": ("kind of domain", f"{host}.accel"),
        "arch": ("architecture", f"{node.key}.arch"),
        "firmware": ("firmware", f"{node.key}.firmware"),
        "nvram": ("firmware's variables", f"{node.key}.firmware"),
    }
    if name in simple:
        text, key = simple[name]
        return [Cause(text=f"{text} {_sides(change, name)}", key=key)]
    if name == "disks":
        return _of_disks(change, node)
    if name == "xml":
        return _of_sheet(change, node)
    # What only names another resource of this stack follows from that resource's change.
    if name in ("cloudinit", "networkInterfaces"):
        return []
    return [Cause(text=f"the domain's {name} differs")]


def _of_disks(change: Change, node: Node) -> list[Cause]:
    causes = []
    for field, key in (("volumeId", "data_disks"), ("blockDevice", "passthrough_disks")):
        old, new = _named_disks(change.old, field), _named_disks(change.new, field)
        if field == "volumeId":  # the first is the root disk, which has a cause of its own
            old, new = old[1:], new[1:]
        if old != new and len(old) != len(new):
            causes.append(
                Cause(text=f"{key.replace('_', ' ')} {len(old)} to {len(new)}", key=f"{node.key}.{key}")
            )
        elif old != new and field == "blockDevice":
            causes.append(Cause(text="passthrough disks differ", key=f"{node.key}.{key}"))
    return causes


def _named_disks(inputs: Mapping[str, Any], field: str) -> list[str]:
    disks = inputs.get("disks")
    return [
        str(disk[field])
        for disk in (disks if isinstance(disks, list) else [])
        if isinstance(disk, dict) and disk.get(field)
    ]


def _of_sheet(change: Change, node: Node) -> list[Cause]:
    old, new = (_sheet(side.get("xml")) for side in (change.old, change.new))
    if old is None or new is None:
        return [Cause(text="the domain's sheet differs", key=_SHEET_FILE)]
    host = f"{NAMESPACE}:hosts.{node.host_name}"
    keys = {
        "ip": f"{node.key}.ip",
        "virtual-ip": f"{NAMESPACE}:talos.virtual_ip",
        "pool-path": f"{host}.pool_path",
        "accel": f"{host}.accel",
        "arch": f"{node.key}.arch",
        "svirt": f"{host}.svirt",
        "secure-boot": f"{NAMESPACE}:talos.encryption",
    }
    causes = []
    for name in sorted(old.keys() | new.keys()):
        before, after = old.get(name), new.get(name)
        if before == after or not name:
            continue
        key = keys.get(name, _SHEET_FILE)
        if name == "hard-limit-mib":
            switched = "0" in (before, after)
            key = f"{host}.memory_hard_limit" if switched else node.memory_mib.origin
        causes.append(Cause(text=f"{name} {before or 'none'} to {after or 'none'}", key=key))
    if old[""] != new[""]:
        causes.append(Cause(text="the domain's sheet differs", key=_SHEET_FILE))
    return causes


def _sheet(xml: Any) -> dict[str, str] | None:  # noqa: ANN401
    """Return a sheet's parameters by name, and the rest of it under the empty name."""
    text = xml.get("xslt") if isinstance(xml, dict) else None
    try:
        root = ET.fromstring(text or "")  # noqa: S314 - our own sheet
    except ET.ParseError:
        return None
    values = {item.attrib["name"]: item.text or "" for item in root.findall(_PARAM)}
    for item in root.findall(_PARAM):
        item.text = ""
    return values | {"": ET.tostring(root, encoding="unicode")}


def _of_volume(change: Change, name: str, stack: StackConfig, node: Node) -> list[Cause]:
    if name == "size" and is_root(change):
        return [Cause(text=f"disk {_sides(change, name, _gib)}", key=node.disk_gib.origin)]
    if name == "size" and is_data(change):
        key = f"{node.key}.data_disks"
        return [Cause(text=f"{change.name} {_sides(change, name, _gib)}", key=key)]
    if name == "baseVolumeId":
        return [Cause(text="the image that the disk stands on", key=f"{NAMESPACE}:images.{node.os}")]
    if name == "name" and is_root(change) and node.os == Os.TALOS:
        text = "what a disk cannot change: role, address or encryption"
        return [Cause(text=text, key=f"{node.key}.role, {node.key}.ip or {NAMESPACE}:talos.encryption")]
    if name == "pool" and stack.hosts.get(node.host_name):
        return [Cause(text="the pool", key=f"{NAMESPACE}:hosts.{node.host_name}.pool_path")]
    return []


def _gib(size: Any) -> str:  # noqa: ANN401
    return f"{int(size) / _GIB:g} GiB" if isinstance(size, int | str) and str(size).isdigit() else "?"
