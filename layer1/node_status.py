"""Reads what a node's status script (assets/butane/status.sh) says, and judges it."""

from __future__ import annotations

_READY_SYSTEM = ("running", "degraded")

Status = dict[str, list[str]]


def parse_status(text: str) -> Status:
    """Read the lines `name=value` of the node's status script; names may repeat."""
    found: Status = {}
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if equals:
            found.setdefault(name, []).append(value)
    return found


def first(status: Status, name: str) -> str:
    """Return a name's first value, empty when there is none."""
    return status.get(name, [""])[0]


def wrong(status: Status, hostname: str, address: str) -> str | None:
    """Say what will not mend by waiting, of the node that should be `hostname` at `address`."""
    if first(status, "schema") != "1":
        return "its status script speaks another version; the node was made by another Layer 1"
    if first(status, "hostname") != hostname:
        return f"the machine at {address} calls itself {first(status, 'hostname')}"
    if first(status, "unit.k3s-install.service").startswith("failed"):
        log = "\n".join(f"  {line}" for line in status.get("install_log", []))
        return f"the k3s installer failed on the node; its log ends:\n{log}"
    return None


def provisioned(status: Status) -> bool:
    """Say whether k3s is installed, waits for its config, and the system has settled."""
    return (
        first(status, "k3s_installed") != ""  # the unit itself rests on later boots
        and first(status, "unit.k3s-config.path").startswith("active")
        and first(status, "system") in _READY_SYSTEM
    )


def facts(status: Status) -> list[str]:
    """Return what helps to see why a node is not provisioned, one fact a line."""
    units = [
        f"{name}={value}" for name in sorted(status) if name.startswith("unit.") for value in status[name]
    ]
    failed = [f"failed unit: {value}" for value in status.get("failed", [])]
    system = [f"the system is {state}" for state in status.get("system", [])]
    return system + units + failed + status.get("install_log", [])
