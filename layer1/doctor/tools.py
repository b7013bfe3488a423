"""The programs that the operator's machine runs for a stack."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from layer1 import host_ssh
from layer1.doctor.check import Answer, judged
from layer1.errors import ToolError
from layer1.findings import Finding, Verdict
from layer1.model import ImageSource, Os, StackConfig
from layer1.processes import run

MAKE_SETUP = "make setup"


@dataclass(frozen=True, kw_only=True, slots=True)
class Tool:
    """One program.

    Attributes:
        name: as it is called.
        arguments: what makes it print its version; None where it cannot.
        version: the only one that will do; None for any.
        package: Debian's package, empty for what `make setup` provides.
        pattern: finds the version in what it prints.
        lost: what does not work without it.
    """

    name: str
    arguments: tuple[str, ...] | None = ("--version",)
    version: str | None = None
    package: str = ""
    pattern: str = r"(\d+\.\d+[0-9A-Za-z.+-]*)"
    lost: str


_ENGINE = (
    Tool(name="pulumi", arguments=("version",), version="3.259.0", lost="no stack can be previewed or made"),
    Tool(name="pulumi-language-python", arguments=None, lost="Pulumi cannot run this program"),
    Tool(
        name="pulumi-resource-random",
        arguments=("-version",),
        version="4.21.4",
        lost="keys and passphrases of the nodes cannot be made",
    ),
    Tool(
        name="pulumi-resource-command",
        arguments=("-version",),
        version="1.2.1",
        lost="images are not fetched, nodes not waited for",
    ),
)
_LIBVIRT = (
    Tool(
        name="pulumi-resource-libvirt",
        arguments=("-version",),
        version="0.5.4",
        lost="no network, pool, volume or domain can be made",
    ),
    Tool(name="virsh", package="libvirt-clients", lost="libvirt is not asked: no address is reserved"),
    Tool(
        name="xsltproc",
        package="xsltproc",
        pattern=r"(libxslt \d+)",
        lost="the hardening sheets are not applied: `up` stops",
    ),
    Tool(
        name="mkisofs",
        package="genisoimage",
        pattern=r"(genisoimage \d\S+|xorriso \d\S+)",
        lost="no seed can be made: `up` stops",
    ),
)
_IMAGES = (Tool(name="qemu-img", package="qemu-utils", lost="no image passes its check"),)
_SIGNED = (Tool(name="gpgv", package="gpgv", lost="no signature can be checked: `up` stops"),)
_SSH = (Tool(name="ssh", arguments=("-V",), package="openssh-client", lost="no node is waited for"),)
_IGNITION = (
    Tool(name="butane", version="0.25.0", lost="no config of a Flatcar node can be made"),
    Tool(
        name="ignition-validate", arguments=("-version",), version="2.20.0", lost="no config can be checked"
    ),
)
_TALOS = (
    Tool(
        name="talosctl",
        arguments=("version", "--client", "--short"),
        version="1.13.0",
        lost="no Talos node gets its config",
    ),
)
_BOARD_FILES = (
    Tool(name="mcopy", package="mtools", lost="no board's image file can be made"),
    Tool(name="debugfs", arguments=("-V",), package="e2fsprogs", lost="no board's image can be looked into"),
)


def tools(stack: StackConfig | None) -> tuple[Tool, ...]:
    """List what a stack needs here; without a stack, what every stack on libvirt needs."""
    if stack is None:
        return (*_ENGINE, *_LIBVIRT, *_IMAGES)
    flatcar, raspios = stack.of(Os.FLATCAR), stack.boards_of(Os.K3S_PIOS)
    signed = raspios or (flatcar and stack.images.flatcar.source == ImageSource.OFFICIAL)
    remote = any(host_ssh.is_remote(host.uri) for host in stack.used_hosts.values())
    return (
        *_ENGINE,
        *(_LIBVIRT if stack.nodes else ()),
        *_IMAGES,
        *(_SIGNED if signed else ()),
        *(_SSH if flatcar or raspios or remote else ()),
        *(_IGNITION if flatcar else ()),
        *(_TALOS if stack.of(Os.TALOS) or stack.boards_of(Os.TALOS) else ()),
        *(_BOARD_FILES if raspios else ()),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """Where a program is, empty for nowhere, and what version it printed, if it can and did."""

    path: str
    version: str | None


def find(tool: Tool, environment: Mapping[str, str]) -> Found:
    """Look for a program as the commands of this repository do, and ask it for its version."""
    path = f"{environment.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    found = shutil.which(tool.name, path=path) or _plugin(tool, environment)
    if not found or tool.arguments is None:
        return Found(path=found, version=None)
    try:
        done = run([found, *tool.arguments], timeout_s=5)
    except ToolError:
        return Found(path=found, version=None)
    number = re.search(tool.pattern, done.stdout + done.stderr)
    return Found(path=found, version=number[1] if number and done.returncode == 0 else None)


def _plugin(tool: Tool, environment: Mapping[str, str]) -> str:
    """Return a plugin from Pulumi's own folder, empty where there is none."""
    home = environment.get("PULUMI_HOME")
    kind, _, name = tool.name.removeprefix("pulumi-").partition("-")
    if not home or kind != "resource":
        return ""
    binary = Path(home) / "plugins" / f"resource-{name}-v{tool.version}" / tool.name
    return str(binary) if os.access(binary, os.X_OK) else ""


def judge(tool: Tool, found: Found) -> Answer:
    """Say whether a program is there, and is the right one."""
    remedy = f"sudo apt-get install {tool.package}, or {MAKE_SETUP}" if tool.package else MAKE_SETUP
    if not found.path:
        return Answer(Verdict.BROKEN, f"{tool.name}: not on PATH", remedy)
    if tool.arguments is not None and found.version is None:
        return Answer(Verdict.BROKEN, f"{found.path} does not say its version: it does not run", remedy)
    right = tool.version is None or found.version == tool.version
    said = f"{found.path}{f', {found.version}' if found.version else ''}"
    return judged(right, said if right else f"{said}; {tool.version} is wanted", remedy)


def findings(subject: str, stack: StackConfig | None, environment: Mapping[str, str]) -> list[Finding]:
    """Look for every program that a stack needs."""
    wanted = tools(stack)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda tool: judge(tool, find(tool, environment)), wanted))
    return [
        Finding(
            id=f"tools.{tool.name}",
            subject=subject,
            what=tool.name,
            verdict=answer.verdict,
            evidence=answer.evidence,
            means="" if answer.verdict == Verdict.HOLDS else tool.lost,
            remedy=answer.remedy,
        )
        for tool, answer in zip(wanted, answers, strict=True)
    ]
