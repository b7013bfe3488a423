"""The stack in the host of the walls, and how the host is asked from inside."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine_project import Project

from lab.walls.boot import Host
from layer1 import virsh
from layer1.identity import bridge_name, domain_uuid, mac_address

HERE = Path(__file__).resolve().parent
HOST_NAME = "walls"
NETWORK = "10.77.0.0/24"
POOL = "/var/lib/libvirt/images"
LIMIT_S = 480  # of the boot, under emulation on a busy machine
BUT_THE_WAIT = ("--exclude", "**::*-ready")
_INVENTORY = r"""
cut -d ' ' -f 1 /sys/kernel/security/apparmor/profiles
find /sys/fs/cgroup/machine.slice -name '*.scope' 2>/dev/null
find /etc/apparmor.d/libvirt /etc/libvirt /var/lib/libvirt /run/libvirt -type f,l
ls /var/log/libvirt/qemu
ebtables -t nat -L
ebtables -t filter -L
iptables-save -t filter | grep -e ' -[io] '
iptables-save -t nat | grep MASQUERADE
ip -o link | cut -d ' ' -f 2
pgrep -l 'dnsmasq|qemu'
virsh --connect qemu:///system list --all --name
virsh --connect qemu:///system net-list --all --name
virsh --connect qemu:///system pool-list --all --name
virsh --connect qemu:///system nwfilter-binding-list
true
"""


@dataclass(frozen=True)
class Inside:
    """Root's eyes and hands in the host."""

    host: Host

    def run(
        self, command: str, *, stdin: str = "", timeout_s: float = 120
    ) -> subprocess.CompletedProcess[str]:
        return self.host.ssh(f"sudo sh -c {shlex.quote(command)}", stdin=stdin, timeout_s=timeout_s)

    def __call__(self, command: str, *, stdin: str = "", timeout_s: float = 120) -> str:
        result = self.run(command, stdin=stdin, timeout_s=timeout_s)
        assert result.returncode == 0, f"{command}: {result.stderr}{result.stdout}"
        return result.stdout.strip()

    def inventory(self) -> set[str]:
        """Return what a stack may leave on its host, a line each."""
        return set(self(_INVENTORY, timeout_s=240).splitlines())

    def profiles(self) -> dict[str, str]:
        """Return the mode of every profile that the kernel has, by name."""
        lines = self("cat /sys/kernel/security/apparmor/profiles").splitlines()
        return {name: mode.strip("()") for name, mode in (line.rsplit(" ", 1) for line in lines)}


@dataclass(frozen=True)
class Machine:
    """One node's domain in the host."""

    project: Project
    inside: Inside
    node: str

    @property
    def name(self) -> str:
        return f"{self.project.prefix}-{self.node}"

    @property
    def uuid(self) -> str:
        return domain_uuid(self.project.stack, self.node)

    @property
    def profile(self) -> str:
        return f"libvirt-{self.uuid}"

    @property
    def mac(self) -> str:
        return mac_address(self.project.stack, self.node)

    @property
    def ip(self) -> str:
        return str(self.project.config["nodes"][self._at]["ip"])

    @property
    def _at(self) -> int:
        return [each["name"] for each in self.project.config["nodes"]].index(self.node)

    def virsh(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run virsh here, over the stack's URI."""
        return virsh.virsh(self.inside.host.uri, *arguments, timeout_s=120)

    def pid(self) -> int:
        return int(self.inside(f"cat /run/libvirt/qemu/{self.name}.pid"))

    def file(self, kind: str) -> str:
        """Return the path of the volume of a kind, `root` or `seed`."""
        (path,) = self.inside(f"ls {POOL}/{self.project.prefix}/{self.node}-{kind}-*").splitlines()
        return path

    def scope(self) -> Path:
        """Return the control group of the domain's scope."""
        group = self.inside(f"cat /proc/{self.pid()}/cgroup").partition("::")[2]
        scope = re.match(r".*\.scope", group)
        assert scope, group
        return Path("/sys/fs/cgroup" + scope[0])

    def qmp(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Tell the running QEMU something, and return its answer."""
        result = self._order(command, **arguments)
        assert result.returncode == 0, result.stderr
        answer: dict[str, Any] = json.loads(result.stdout)
        return answer

    def _order(self, command: str, **arguments: Any) -> subprocess.CompletedProcess[str]:
        order = json.dumps({"execute": command, "arguments": arguments})
        return self.inside.run(
            f"virsh --connect qemu:///system qemu-monitor-command {self.name} {shlex.quote(order)}"
        )

    def opens(self, path: str) -> str | None:
        """Have the running QEMU open a file; return None if it did, else its complaint."""
        node = f"t{abs(hash(path)) % 10**9}"
        answer = self.qmp(
            "blockdev-add",
            **{"driver": "file", "node-name": node, "filename": path, "read-only": True, "locking": "off"},
        )
        if "error" in answer:
            return str(answer["error"]["desc"])
        self.qmp("blockdev-del", **{"node-name": node})
        return None

    def limit_file(self) -> Path:
        """Return the file that bounds the domain's memory; libvirt sets it one below the scope."""
        return self.scope() / "libvirt" / "memory.max"

    def grow(self, name: str, mib: int) -> bool:
        """Have the running QEMU take memory and touch all of it; return whether it lived."""
        size = mib * 1024**2
        order = {"qom-type": "memory-backend-ram", "id": name, "size": size, "prealloc": True}
        result = self._order("object-add", **order)
        return result.returncode == 0 and "return" in json.loads(result.stdout)

    @contextmanager
    def unenforced(self) -> Iterator[None]:
        """Have the kernel only complain of what the domain's profile forbids."""
        load = f"apparmor_parser --replace /etc/apparmor.d/libvirt/{self.profile}"
        self.inside(f"{load} --Complain")
        try:
            yield
        finally:
            self.inside(load)

    @contextmanager
    def profile_with(self, path: str) -> Iterator[None]:
        """Have the domain's profile also allow a file."""
        rules = f"/etc/apparmor.d/libvirt/{self.profile}"
        load = f"apparmor_parser --replace {rules}"
        self.inside(f"cp {rules}.files /tmp/rules && echo '  \"{path}\" rwk,' >>{rules}.files && {load}")
        try:
            yield
        finally:
            self.inside(f"cp /tmp/rules {rules}.files && {load}")

    @contextmanager
    def unbounded(self) -> Iterator[None]:
        """Take the kernel's limit of the domain's memory away."""
        file = self.limit_file()
        limit = self.inside(f"cat '{file}'")
        self.inside(f"echo max >'{file}'")
        try:
            yield
        finally:
            self.inside(f"echo {limit} >'{file}'")

    @contextmanager
    def without_filter(self) -> Iterator[None]:
        """Send the tap's frames past the filter."""
        tap = self.tap()
        rule = f"PREROUTING -i {tap} -j libvirt-I-{tap}"
        self.inside(f"ebtables -t nat -D {rule}")
        try:
            yield
        finally:
            self.inside(f"ebtables -t nat -A {rule}")

    def pause(self) -> None:
        paused = self.virsh("suspend", self.name)
        assert paused.returncode == 0, paused.stderr

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Let the domain run, from its firmware on, so that no guest gets far."""
        for order in ("reset", "resume"):
            told = self.virsh(order, self.name)
            assert told.returncode == 0, told.stderr
        try:
            yield
        finally:
            self.pause()

    def tap(self) -> str:
        return self.virsh("domiflist", self.name).stdout.split()[0]

    def inject(self) -> dict[str, bool]:
        """Send frames as the guest would; return by the frame's name whether it reached the bridge."""
        script = (HERE / "walls_frames.py").read_text()
        words = [self.name, self.mac, self.ip, bridge_name(self.project.stack, HOST_NAME)]
        gateway = NETWORK.replace(".0/24", ".1")
        text = self.inside(f"python3 - {shlex.join([*words, gateway])}", stdin=script, timeout_s=240)
        passed: dict[str, bool] = json.loads(text)
        return passed


def config(uri: str, public_key: str) -> dict[str, Any]:
    """The stack of two nodes, with the defaults' strong walls; emulation, for the host has no KVM."""
    return {
        "hosts": {HOST_NAME: {"uri": uri, "accel": "tcg"}},
        "network": {"cidr": NETWORK},
        "images": {"flatcar": {"source": "practice"}},
        "k3s": {
            "installer_url": "http://10.77.0.1:8011/install.sh",
            "releases_url": "http://10.77.0.1:8011",
        },
        "defaults": {
            "memory_mib": 512,
            "vcpus": 1,
            "disk_gib": 2,
            "ssh_authorized_keys": [public_key],
        },
        "nodes": [
            {"name": "n1", "os": "flatcar", "ip": "10.77.0.21"},
            {"name": "n2", "os": "flatcar", "ip": "10.77.0.22"},
        ],
    }
