"""Boots the host of the walls with plain QEMU under emulation, and reaches it by SSH on loopback."""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from lab.boot import free_port
from lab.walls.build import DISK, INITRD, KERNEL
from layer1.errors import NodeError, ToolError
from layer1.processes import last_lines, run

USER = "keeper"
"""May log in, use libvirt, and become root by sudo."""
_ARGUMENTS = "root=/dev/vda rw rootfstype=ext4 console=ttyS0 mitigations=off panic=-1 net.ifnames=0 quiet"


@dataclass
class Host:
    """One start of the host: its disk is thrown away afterwards, its keys are made for it.

    Attributes:
        folder: for the disk, the keys and the logs.
        image: the folder of the built host.
        memory_mib: the machine's memory.
        cpus: its processors.
    """

    folder: Path
    image: Path
    memory_mib: int = 3072
    cpus: int = 2
    port: int = field(default=0, init=False)
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _shared: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def key(self) -> Path:
        """The private key of the user."""
        return self.folder / "operator"

    @property
    def host_key(self) -> str:
        """The host's public SSH key."""
        return (self.folder / "host-key.pub").read_text().strip()

    @property
    def known_hosts(self) -> Path:
        """A file in which this host alone is known, by its port."""
        return self.folder / "known_hosts"

    @property
    def uri(self) -> str:
        """Where its libvirt is, for the provider and for virsh."""
        return (
            f"qemu+ssh://{USER}@127.0.0.1:{self.port}/system?keyfile={self.key}&knownhosts={self.known_hosts}"
        )

    def __enter__(self) -> Host:
        self.power_on()
        return self

    def __exit__(self, *_: object) -> None:
        self.unplug()

    def power_on(self) -> None:
        """Make keys and a disk for this start, and switch the machine on."""
        for name in ("operator", "host-key"):
            _demand("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(self.folder / name))
        disk = self.folder / "disk.qcow2"
        _demand(
            "qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(self.image / DISK), str(disk)
        )
        self.port = free_port()
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {self.host_key}\n")
        with (self.folder / "qemu.log").open("ab") as log:
            self._process = subprocess.Popen(self._command(disk), stdout=log, stderr=log)

    def unplug(self) -> None:
        """Pull the plug."""
        for process in (self._shared, self._process):
            if process is not None:
                process.kill()
                process.wait()

    def alive(self) -> bool:
        """Whether the machine is on."""
        return self._process is not None and self._process.poll() is None

    def wait(self, timeout_s: float) -> float:
        """Wait until its libvirt answers, and return the seconds that took.

        Raises:
            NodeError: it stopped, or does not answer in time; with its last words.
        """
        began = time.monotonic()
        while (passed := time.monotonic() - began) < timeout_s:
            if not self.alive():
                raise NodeError(f"the host stopped after {passed:.0f} s; {self._last_words()}")
            result = self.ssh("virsh --connect qemu:///system --quiet version")
            if result.returncode == 0:
                self._share_connection()
                return time.monotonic() - began
            time.sleep(1)
        raise NodeError(
            f"no libvirt within {timeout_s:.0f} s: {last_lines(result.stderr, 2)}; {self._last_words()}"
        )

    def ssh(
        self, command: str, *, stdin: str = "", timeout_s: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as the user, for whom the host has to have its pinned key."""
        return run([*self._ssh(), f"{USER}@127.0.0.1", command], stdin=stdin, timeout_s=timeout_s)

    def _ssh(self) -> list[str]:
        options = {
            "BatchMode": "yes",
            "ConnectTimeout": "10",
            "ControlPath": str(self.folder / "ssh"),
            "IdentitiesOnly": "yes",
            "IdentityAgent": "none",
            "GlobalKnownHostsFile": "/dev/null",
            "StrictHostKeyChecking": "yes",
            "UserKnownHostsFile": str(self.known_hosts),
        }
        words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        return ["ssh", "-F", "none", "-i", str(self.key), *words, "-p", str(self.port)]

    def _share_connection(self) -> None:
        """Keep one connection open for all commands: a handshake takes the emulated host seconds."""
        with (self.folder / "ssh.log").open("ab") as log:
            self._shared = subprocess.Popen(
                [*self._ssh(), "-M", "-N", f"{USER}@127.0.0.1"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _command(self, disk: Path) -> list[str]:
        # Rather emulation than KVM also where there is KVM: the tests mean the same everywhere.
        return [
            *("qemu-system-x86_64", "-name", "layer1-walls", "-nodefaults", "-no-user-config", "-no-reboot"),
            *("-accel", "tcg,thread=multi,tb-size=256", "-machine", "q35,usb=off", "-cpu", "qemu64"),
            *("-smp", str(self.cpus), "-m", str(self.memory_mib), "-display", "none"),
            *("-serial", f"file:{self.folder / 'console.log'}"),
            *("-kernel", str(self.image / KERNEL), "-initrd", str(self.image / INITRD)),
            *("-append", _ARGUMENTS),
            *("-drive", f"file={disk},if=none,id=disk,format=qcow2,cache=unsafe,discard=unmap"),
            *("-device", "virtio-blk-pci,drive=disk"),
            *("-fw_cfg", f"name=opt/layer1/host-key,file={self.folder / 'host-key'}"),
            *("-fw_cfg", f"name=opt/layer1/operator,file={self.folder / 'operator.pub'}"),
            # restrict: the host reaches nothing, and nothing reaches it but by this one port.
            *("-netdev", f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{self.port}-:22"),
            *("-device", "virtio-net-pci,netdev=net,romfile="),
            *("-device", "virtio-rng-pci"),
        ]

    def _last_words(self) -> str:
        logs = [self.folder / name for name in ("qemu.log", "console.log")]
        text = "\n".join(log.read_text(errors="replace") for log in logs if log.exists())
        return "its last words:\n" + last_lines(text, 12)


def _demand(*command: str) -> None:
    result = run(command)
    if result.returncode != 0:
        raise ToolError(f"{command[0]}: {last_lines(result.stderr, 2)}")
