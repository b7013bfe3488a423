"""What was seen of a node, whoever read it; None and absence mean that it could not be read."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from typing import Any

from layer1.node_status import Status


@dataclass(frozen=True, kw_only=True, slots=True)
class Process:
    """A domain's QEMU.

    Attributes:
        command: its command line.
        label: what the kernel says confines it; None where no such module answers.
        status: lines of /proc/PID/status by name.
        memory_max: the memory limit of its control group and of each above, as the kernel words it.
        open_files: paths; None where the reader may not look.
    """

    pid: int
    command: tuple[str, ...]
    label: str | None
    status: dict[str, str]
    memory_max: dict[str, str] | None
    open_files: tuple[str, ...] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class File:
    """A file on the host; what its content says is None where it may not be read.

    Attributes:
        mode: four octal digits.
        uid: the owner.
        format: qcow2 or raw.
        backing: what an overlay stands on.
        external_data: whether its data are in another file.
        sha512: of the content, for base volumes.
    """

    mode: str
    uid: int
    format: str | None = None
    backing: str | None = None
    external_data: bool | None = None
    sha512: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Host:
    """What the host itself says.

    Attributes:
        reader: who read it, as a user id.
        apparmor: whether its kernel runs AppArmor.
        processes: QEMU by domain; None for one that was not found.
        profiles: AppArmor rules by domain UUID.
        directory: the pool's.
        files: by path; None for one that is not there or cannot be seen.
        rules: the bridge's filter rules as ebtables lists them.
    """

    reader: int
    apparmor: bool
    processes: dict[str, Process | None]
    profiles: dict[str, str | None]
    directory: File | None
    files: dict[str, File | None]
    rules: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Domain:
    """What libvirt and the host say of one domain.

    Attributes:
        state: in libvirt's words, or `gone`.
        xml: its live description.
        binding: the traffic filter that libvirt bound to its card.
        network: the network's live description.
        host: None where the host could not be read.
        problem: why not.
    """

    state: str
    xml: ET.Element | None
    binding: ET.Element | None
    network: ET.Element | None
    host: Host | None
    problem: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Guest:
    """What the guest says of itself, and what it lets in.

    Attributes:
        status: its status script's lines; None where it did not answer.
        problem: why not.
        offered: the ways to log in that its sshd offers to a key it does not know, as root.
        talos: what Talos' API says.
    """

    status: Status | None = None
    problem: str = ""
    offered: str | None = None
    talos: Talos | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Talos:
    """What a Talos node says; each None where it did not.

    Attributes:
        version: what it runs.
        anonymous: whether it answers without a certificate.
        mounts: its /proc/mounts.
        encryption: the encryption of STATE and EPHEMERAL by volume.
        secure_boot: whether it was started by Secure Boot.
        ssh: whether port 22 is open.
    """

    version: str | None = None
    anonymous: bool | None = None
    mounts: str | None = None
    encryption: dict[str, str] | None = None
    secure_boot: bool | None = None
    ssh: bool | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """All that was seen of one node."""

    domain: Domain | None = None
    guest: Guest = field(default_factory=Guest)


def host_of(raw: dict[str, Any]) -> Host:
    """Make typed facts of what `host_facts` printed."""
    return Host(
        reader=raw["uid"],
        apparmor=raw["apparmor"] == "Y",
        processes={name: _process(each) for name, each in raw["processes"].items()},
        profiles=raw["profiles"],
        directory=_file(raw["directory"]),
        files={path: _file(each) for path, each in raw["files"].items()},
        rules=raw["rules"],
    )


def _process(raw: dict[str, Any] | None) -> Process | None:
    if raw is None:
        return None
    opened = raw["open_files"]
    return Process(
        pid=raw["pid"],
        command=tuple(raw["command"]),
        label=raw["label"],
        status=raw["status"],
        memory_max=raw["memory_max"],
        open_files=None if opened is None else tuple(opened),
    )


def _file(raw: dict[str, Any] | None) -> File | None:
    known = ("mode", "uid", "format", "backing", "external_data", "sha512")
    return None if raw is None else File(**{key: raw[key] for key in known if key in raw})
