"""What a domain must carry, and which devices it may have."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address
from typing import Any
from uuid import UUID

from layer1.domain_sheet import hard_limit_mib, render_sheet
from layer1.errors import RenderError
from layer1.paths import ASSETS
from policy.planned import Mark, Planned, sheet_of
from policy.storage import VOLUME

DOMAIN = "libvirt:index/domain:Domain"
NETWORK = "libvirt:index/network:Network"
_PARAMETER = "{http://www.w3.org/1999/XSL/Transform}param"
_TYPE = {"kvm": "kvm", "tcg": "qemu"}
_CPU_MODE = {"kvm": "host-passthrough", "tcg": "maximum"}
_MACHINE = {"x86_64": "q35", "aarch64": "virt"}
_GIVEN = frozenset(
    {
        "arch",
        "autostart",
        "cloudinit",
        "cpu",
        "disks",
        "firmware",
        "machine",
        "memory",
        "name",
        "networkInterfaces",
    }
    # `running` and `fwCfgName` are the provider's own defaults; without an Ignition file the latter is idle.
    | {"nvram", "type", "vcpu", "xml", "running", "fwCfgName"}
)
_BY_ID = "/dev/disk/by-id/"


def sheet_parameters(domain: Planned) -> dict[str, str] | None:
    """Return the parameters of a domain's sheet; None unless the sheet is ours, byte for byte."""
    sheet = sheet_of(domain)
    if sheet is None:
        return None
    try:
        root = ET.fromstring(sheet)  # noqa: S314 - from the operator's own program
        found = {item.attrib["name"]: item.text or "" for item in root.findall(_PARAMETER)}
        ours = render_sheet(ASSETS / "libvirt" / "domain.xsl", found)
    except (ET.ParseError, KeyError, RenderError):
        return None
    return found if ours == sheet else None


def guarantees(domain: Planned) -> Iterator[str]:
    """Say what a domain lacks of what the hardening sheet gives."""
    sheet = sheet_parameters(domain)
    if sheet is None:
        yield "does not carry the sheet assets/libvirt/domain.xsl as it stands, so none of its walls is there"
        return
    values, accel, arch = domain.values, sheet["accel"], sheet["arch"]
    wanted = {
        "type": (_TYPE.get(accel), "the sheet's accel"),
        "arch": (arch, "the sheet's arch"),
        "machine": (_MACHINE.get(arch), "its arch"),
    }
    for key, (value, reason) in wanted.items():
        if values.get(key) != value:
            yield f"{key} does not fit {reason}: it must be {value}"
    cpu = values.get("cpu")
    if not isinstance(cpu, Mapping) or cpu.get("mode") != _CPU_MODE.get(accel):
        yield f"cpu.mode does not fit the sheet's accel: it must be {_CPU_MODE.get(accel)}"
    if not _is(UUID, sheet["uuid"]):
        yield "its sheet gives no fixed UUID, on which vTPM state and disk keys hang"
    if not _is(IPv4Address, sheet["ip"]):
        yield "its sheet gives no address, so its traffic filter lets any through"
    if sheet["virtual-ip"] and not _is(IPv4Address, sheet["virtual-ip"]):
        yield "the virtual address in its traffic filter is none"
    if not sheet["pool-path"].startswith("/"):
        yield "its sheet gives no absolute pool path, so AppArmor gets no rule for its disks"
    if sheet["svirt"] not in ("apparmor", "none"):
        yield "its sheet asks for a confinement that does not exist, which is none"
    if sheet["hard-limit-mib"] not in _limits(values.get("memory")):
        yield "its memory limit is not the one that its memory gives (layer1/domain_sheet.py)"
    if sheet["secure-boot"] == "yes" and "secboot" not in str(values.get("firmware")):
        yield "its sheet promises Secure Boot, and its firmware is not the build for it"


def _limits(memory_mib: Any) -> tuple[str, ...]:  # noqa: ANN401 - a number, if the program is right
    if not isinstance(memory_mib, int | float):
        return ()
    return "0", str(hard_limit_mib(int(memory_mib)))


def _is(kind: type[UUID] | type[IPv4Address], text: str) -> bool:
    try:
        return str(kind(text)) == text
    except ValueError:
        return False


def devices(domain: Planned) -> Iterator[str]:
    """Say which devices a domain asks for that no node has; the sheet may not know them."""
    for key, value in sorted(domain.values.items()):
        if value and key not in _GIVEN:
            yield f"{key}: a node has no such device or argument (policy/domains.py lists what it has)"
    for key in ("cloudinit", "disks", "networkInterfaces"):
        if domain.values.get(key) is Mark.SECRET:
            yield f"{key}: is secret, so it cannot be judged"
    for position, disk in enumerate(_items(domain.values.get("disks"))):
        given = {key: value for key, value in disk.items() if value}
        path = given.get("blockDevice")
        whole = isinstance(path, str) and path.startswith(_BY_ID) and ".." not in path
        if given.keys() != {"volumeId"} and not (given.keys() == {"blockDevice"} and whole):
            yield f"disks[{position}]: must be a volume by its id, or a block device below {_BY_ID}"
    for position, card in enumerate(_items(domain.values.get("networkInterfaces"))):
        given = {key: value for key, value in card.items() if value}
        if given.keys() != {"networkId", "mac"}:
            yield f"networkInterfaces[{position}]: must be on a network by its id, with a MAC, nothing else"


def own_parts(domain: Planned) -> Iterator[str]:
    """Say which volumes and networks of a domain are not the stack's: ids are paths, and may be anybody's."""
    for key, item, kind in (("disks", "volumeId", VOLUME), ("networkInterfaces", "networkId", NETWORK)):
        named = [each[item] for each in _items(domain.values.get(key)) if each.get(item)]
        # One that nobody gave is the provider's to fill in: not known in a preview, and another rule's.
        given = any(value is not Mark.UNKNOWN for value in named)
        if given and len(named) > domain.made_from.get(key, ()).count(kind):
            yield f"{key}: each {item} must come from a resource of this stack"


def _items(value: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - a list, if the program is right
    """Return a list's items; one that is not known yet is judged by `up`."""
    return (
        [item if isinstance(item, dict) else {"": item} for item in value] if isinstance(value, list) else []
    )
