"""Judges the running QEMU: what confines it, what it may, and every word of its command line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from layer1.audit.facts import Process
from layer1.audit.intent import DomainIntent, Intent
from layer1.audit.seen import Seen, no, unknown, yes
from layer1.audit.views import OnHost, Qemu, by_host, by_process

_DENIED = ("obsolete", "elevateprivileges", "spawn", "resourcecontrol")
_NO_LIMIT_BYTES = 1 << 62
"""The first version of control groups has no word for "none", but its largest number of pages."""
_RULE = re.compile(r'^\s*(?:owner\s+)?"?(/[^"\s]+)"?\s+[a-zA-Z]+,', re.MULTILINE)
_IMAGE = (".qcow2", ".raw", ".img", ".iso", ".ign")


def _wanted(intent: Intent) -> DomainIntent:
    if intent.domain is None:
        raise ValueError("the node has no domain")
    return intent.domain


# --- what confines it ---


@by_process
def label(qemu: Qemu) -> Seen:
    """The kernel has put the process into its domain's AppArmor profile, and enforces it."""
    process = qemu.process
    wanted = f"libvirt-{qemu.intent.uuid} (enforce)"
    if process.label == wanted:
        return yes(f"/proc/{process.pid}/attr: {process.label}")
    if not qemu.host.apparmor:
        return no("the host's kernel runs no AppArmor")
    if process.label is None:
        return unknown(f"/proc/{process.pid}/attr cannot be read")
    return no(f"/proc/{process.pid}/attr: {process.label or 'nothing'}, not {wanted}")


@by_host
def profile(on: OnHost) -> Seen:
    """The profile names no disk of another machine."""
    text = on.host.profiles.get(on.intent.uuid)
    where = f"/etc/apparmor.d/libvirt/libvirt-{on.intent.uuid}.files"
    if text is None and not on.host.apparmor:
        return no("there is no profile, so nothing says which disks are its own")
    if text is None:
        return unknown(f"{where} is not there or cannot be read")
    pools = f"{_above(on.wanted)}/"
    allowed = [path for path in _RULE.findall(text) if _is_data(path, pools)]
    strange = sorted({path for path in allowed if not on.intent.may_open(path)})
    if strange:
        return no(f"{where} also allows {', '.join(strange)}")
    if not any(on.intent.owns(path) for path in allowed):
        return no(f"{where} does not name this node's own disks: it is not this domain's profile")
    return yes(f"{where}: {_names(allowed)}, all its own")


def _is_data(path: str, pools: str) -> bool:
    """Say whether a path, or a pattern of AppArmor's, can be a machine's disk."""
    fixed, star, _ = path.partition("*")
    return path.startswith(pools) or path.endswith(_IMAGE) or (star != "" and pools.startswith(fixed))


def _above(wanted: DomainIntent) -> str:
    """Return the directory in which the pools of all stacks are."""
    return wanted.directory.rpartition("/")[0]


@by_process
def uid(qemu: Qemu) -> Seen:
    """QEMU is not root, by any of its four user ids."""
    process = qemu.process
    return _status(process, "Uid", lambda value: "0" not in value.split())


@by_process
def capabilities(qemu: Qemu) -> Seen:
    """QEMU has no privilege of root's."""
    process = qemu.process
    return _status(process, "CapEff", lambda value: int(value, 16) == 0)


@by_process
def no_new_privileges(qemu: Qemu) -> Seen:
    """QEMU cannot gain any by what it starts."""
    process = qemu.process
    return _status(process, "NoNewPrivs", lambda value: value == "1")


@by_process
def seccomp(qemu: Qemu) -> Seen:
    """The kernel filters its system calls, by the four parts that QEMU can deny."""
    process = qemu.process
    asked = next((value for name, value in options(process.command) if name == "sandbox"), "")
    said = dict(part.partition("=")[::2] for part in asked.split(","))
    allowed = [name for name in _DENIED if said.get(name) != "deny"]
    if "on" not in said or allowed:
        return no(f"-sandbox {asked or 'is missing'}; not denied: {', '.join(allowed) or 'anything'}")
    return _status(process, "Seccomp", lambda value: value == "2", f", -sandbox {asked}")


def _status(process: Process, name: str, good: Callable[[str], bool], more: str = "") -> Seen:
    value = process.status.get(name)
    if value is None:
        return unknown(f"/proc/{process.pid}/status has no {name}")
    return Seen(good(value), f"/proc/{process.pid}/status: {name} {' '.join(value.split())}{more}")


@by_process
def hard_limit(qemu: Qemu) -> Seen:
    """The kernel holds the whole process below the limit that the stack computes."""
    process, intent = qemu.process, qemu.intent
    if process.memory_max is None:
        return unknown(f"the control group of {process.pid} cannot be read")
    # What bounds the host's whole slice of machines is no bound of this one.
    own = {
        path: value
        for path, value in process.memory_max.items()
        if _wanted(intent).machine.domain_name in _plain(path)
    }
    limits = {
        path: int(value) for path, value in own.items() if value.isdigit() and int(value) < _NO_LIMIT_BYTES
    }
    wanted = _wanted(intent).hard_limit_bytes
    if not limits:
        return no(f"no memory limit in {', '.join(own) or 'a control group of its own'}")
    path, lowest = min(limits.items(), key=lambda item: item[1])
    said = f"{path}: at most {lowest // 1024**2} MiB"
    if wanted is not None and lowest != wanted:
        return no(f"{said}, wanted {wanted // 1024**2} MiB")
    return yes(said)


def _plain(path: str) -> str:
    """Undo systemd's escapes in the name of a scope."""
    return re.sub(r"\\x([0-9a-f]{2})", lambda found: chr(int(found[1], 16)), path)


@by_process
def not_shared(qemu: Qemu) -> Seen:
    """No page of its memory is merged with a neighbour's."""
    process = qemu.process
    machine = next((value for name, value in options(process.command) if name == "machine"), "")
    return Seen("mem-merge=off" in machine.split(","), f"-machine {machine}")


@by_process
def open_files(qemu: Qemu) -> Seen:
    """Of the files with data that the process has open, all are its own."""
    process, intent = qemu.process, qemu.intent
    if process.open_files is None:
        return unknown(f"/proc/{process.pid}/fd can be read by root alone")
    pools = f"{_above(qemu.wanted)}/"
    data = [path for path in process.open_files if _is_data(path, pools)]
    strange = [path for path in data if not intent.may_open(path)]
    return no(f"open besides: {', '.join(strange)}") if strange else yes(f"open: {_names(data)}, all its own")


def _names(paths: list[str]) -> str:
    return ", ".join(path.rpartition("/")[2] for path in paths) or "none"


@by_process
def accelerator(qemu: Qemu) -> Seen:
    """Guest code runs on the processor, behind KVM."""
    process = qemu.process
    asked = next((value for name, value in options(process.command) if name == "accel"), "")
    return Seen(asked.split(",")[0] == "kvm", f"-accel {asked or 'is missing'}")


# --- the command line ---

_FLAGS = {"S", "no-user-config", "nodefaults", "no-hpet", "no-shutdown", "no-acpi"}


def options(command: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Read the command line: options in order, with their values."""
    at = 1
    while at < len(command):
        name = command[at].removeprefix("--").removeprefix("-")
        takes = name not in _FLAGS and at + 1 < len(command)
        yield name, command[at + 1] if takes else ""
        at += 2 if takes else 1


def _parts(value: str) -> dict[str, Any]:
    """Read an option's value: JSON, or QEMU's own words, whose first may be bare."""
    if value.startswith("{"):
        parsed: dict[str, Any] = json.loads(value)
        return parsed
    first, *rest = value.split(",")
    pairs = [first if "=" in first else f"driver={first}", *rest]
    return dict(pair.partition("=")[::2] for pair in pairs)


_DEVICES = {"pcie-root-port", "virtio-blk-pci", "ide-cd", "virtio-net-pci", "virtio-rng-pci"}
_ARM_DEVICES = {"virtio-scsi-pci", "scsi-cd"}
_VTPM_DEVICES = {"tpm-crb", "tpm-tis-device"}
_OBJECTS = {"secret", "memory-backend-ram", "rng-random"}
_GLOBALS = {"ICH9-LPC.disable_s3", "ICH9-LPC.disable_s4", "kvm-pit.lost_tick_policy", "cfi.pflash01"}
_PLAIN = {
    "name",
    "machine",
    "accel",
    "cpu",
    "m",
    "overcommit",
    "smp",
    "uuid",
    "rtc",
    "boot",
    "sandbox",
    "msg",
}


@by_process
def devices(qemu: Qemu) -> Seen:
    """Every device of the command line is one that a node needs."""
    process, intent = qemu.process, qemu.intent
    wanted = _wanted(intent)
    allowed = _DEVICES | (_ARM_DEVICES if wanted.machine.arch == "aarch64" else set())
    allowed |= _VTPM_DEVICES if wanted.secure_boot else set()
    found = [str(_parts(value).get("driver")) for name, value in options(process.command) if name == "device"]
    counted = [f"{found.count(name)} {name}" for name in dict.fromkeys(found)]
    strange = [name for name in dict.fromkeys(found) if name not in allowed]
    if strange:
        return no(f"not on the list: {', '.join(strange)} (of {', '.join(counted)})")
    return yes(f"QEMU's command line: {', '.join(counted)}")


@by_process
def words(qemu: Qemu) -> Seen:
    """Every other option is one that the sheet leads to; no device comes by another way."""
    process, intent = qemu.process, qemu.intent
    given = list(options(process.command))
    missing = sorted({"nodefaults", "no-user-config", "display"} - {name for name, _ in given})
    strange = [f"-{name} {value}".strip() for name, value in given if not _word_is_good(name, value, intent)]
    if strange or missing:
        return no(
            "; ".join(
                [f"not on the list: {each}" for each in strange] + [f"missing: -{each}" for each in missing]
            )
        )
    return yes(
        f"{len(given)} options, each on the list: no default device, no user's configuration, no display"
    )


def _word_is_good(name: str, value: str, intent: Intent) -> bool:
    wanted = _wanted(intent)
    parts = _parts(value) if value and name not in ("display", "machine", "name") else {}
    rules: dict[str, Callable[[], bool]] = {
        "device": lambda: True,  # each is judged by itself
        "display": lambda: value == "none",
        "machine": lambda: "usb=off" in value.split(","),
        "object": lambda: (
            parts.get("qom-type") in _OBJECTS and parts.get("filename", "/dev/urandom") == "/dev/urandom"
        ),
        "global": lambda: value.partition("=")[0] in _GLOBALS or parts.get("driver") in _GLOBALS,
        "audiodev": lambda: parts.get("driver") == "none",
        "netdev": lambda: parts.get("type", parts.get("driver")) == "tap",
        "mon": lambda: parts.get("chardev") == "charmonitor",
        "chardev": lambda: (
            parts.get("id") == "charmonitor" or (wanted.secure_boot and parts.get("id") == "chrtpm")
        ),
        "tpmdev": lambda: wanted.secure_boot and parts.get("driver") == "emulator",
        "blockdev": lambda: _may_be_disk(parts, intent),
    }
    return rules[name]() if name in rules else name in _FLAGS | _PLAIN


def _may_be_disk(parts: dict[str, Any], intent: Intent) -> bool:
    """Say whether a block device of the command line is the node's own file or a layer over one."""
    if parts.get("driver") in ("qcow2", "raw"):
        return isinstance(parts.get("file"), str)
    return parts.get("driver") in ("file", "host_device") and intent.may_open(str(parts.get("filename")))
