"""Renders the XSLT sheets that harden what pulumi-libvirt emits."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

from layer1.errors import RenderError
from layer1.model import HostConfig, Node
from layer1.paths import ASSETS

_XSL = "http://www.w3.org/1999/XSL/Transform"
_OVERHEAD_MIN_MIB = 1024


def hard_limit_mib(memory_mib: int) -> int:
    """Return the memory that a whole QEMU process may take, in MiB.

    Guest memory plus a quarter, at least 1 GiB more. libvirt advises against the limit because a low
    guess kills the guest; this one is generous, and a stack can switch it off (`memory_hard_limit`).
    """
    return memory_mib + max(memory_mib // 4, _OVERHEAD_MIN_MIB)


def domain_sheet(node: Node, host: HostConfig, pool_directory: str, virtual_ip: str | None = None) -> str:
    """Render a node's domain sheet.

    Args:
        node: the node.
        host: the host that it runs on.
        pool_directory: the absolute path of the directory that holds the node's volumes.
        virtual_ip: an address that the node may hold besides its own.

    Returns:
        XSLT, canonical: comments and indentation of the template do not change it.
    """
    limit = hard_limit_mib(node.memory_mib.value) if host.memory_hard_limit else 0
    return render_sheet(
        ASSETS / "libvirt" / "domain.xsl",
        {
            "uuid": node.uuid,
            "ip": node.ip,
            "virtual-ip": virtual_ip or "",
            "pool-path": pool_directory,
            "accel": str(host.accel),
            "arch": str(node.arch),
            "svirt": str(host.svirt),
            "hard-limit-mib": str(limit),
            "secure-boot": "yes" if node.secure_boot else "no",
        },
    )


def volume_sheet() -> str:
    """Render the sheet that makes a volume readable by its owner alone."""
    return render_sheet(ASSETS / "libvirt" / "volume.xsl", {})


def pool_sheet() -> str:
    """Render the sheet that closes a pool's directory to listing."""
    return render_sheet(ASSETS / "libvirt" / "pool.xsl", {})


def render_sheet(template: Path, parameters: dict[str, str]) -> str:
    """Fill a sheet's parameters in as text nodes, so no value can become markup, and canonicalise it.

    Raises:
        RenderError: the sheet declares other parameters than were given.
    """
    root = ET.parse(template).getroot()  # noqa: S314 - our own file
    declared = {item.attrib["name"]: item for item in root.findall(f"{{{_XSL}}}param")}
    if declared.keys() != parameters.keys():
        raise RenderError(f"{template.name} declares {sorted(declared)}, got {sorted(parameters)}")
    for name, element in declared.items():
        element.text = parameters[name]
    for element in root.iter():
        for attribute, value in element.attrib.items():
            element.set(attribute, " ".join(value.split()))
    return ET.canonicalize(ET.tostring(root, encoding="unicode"), strip_text=True)
