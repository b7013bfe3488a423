"""What the programs share: a domain as Layer 1 makes it, trusted files, a key that opens nothing."""

from __future__ import annotations

from typing import Any

from layer1 import domain_sheet
from layer1.paths import ASSETS, cache_dir, work_dir

KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nbm90IGEga2V5\n-----END OPENSSH PRIVATE KEY-----\n"
CERTIFICATE = "-----BEGIN CERTIFICATE-----\nbm90IGEgY2VydGlmaWNhdGUsIGJ1dCBsb25nIGVub3VnaA==\n"
MEMORY_MIB = 512


def sheet(**changes: str) -> str:
    """Render the real sheet, with other parameters where asked for."""
    parameters = {
        "uuid": "6f8a4a9e-0d8c-5a5e-9d0e-111111111111",
        "ip": "10.9.9.9",
        "virtual-ip": "",
        "pool-path": "/p",
        "accel": "kvm",
        "arch": "x86_64",
        "svirt": "apparmor",
        "hard-limit-mib": str(domain_sheet.hard_limit_mib(MEMORY_MIB)),
        "secure-boot": "no",
    }
    changed = {name.replace("_", "-"): value for name, value in changes.items()}
    return domain_sheet.render_sheet(ASSETS / "libvirt" / "domain.xsl", parameters | changed)


SHEET = sheet()


def domain_arguments(**changes: Any) -> dict[str, Any]:
    """Give a domain's arguments, without what hangs on other resources."""
    arguments = {
        "type": "kvm",
        "arch": "x86_64",
        "machine": "q35",
        "memory": MEMORY_MIB,
        "vcpu": 1,
        "cpu": {"mode": "host-passthrough"},
        "autostart": True,
        "cloudinit": "/p/seed.iso;seed",
    }
    return arguments | changes


def image() -> str:
    """Name a file of the verified image cache."""
    return str(cache_dir() / "images" / "blobs" / "0123.qcow2")


def seed() -> str:
    """Name a file of the staging folder."""
    return str(work_dir() / "seeds" / "seed.iso")
