"""Boots the practice image with plain QEMU, for tests of the image itself: no libvirt, no bridge, no root."""

from __future__ import annotations

import contextlib
import json
import shlex
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from layer1.errors import NodeError, ToolError

OVMF = Path("/usr/share/OVMF")  # the build without Secure Boot: the boot loader is not signed


def _output(command: Sequence[str | Path], timeout: float = 120) -> str:
    result = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=timeout, check=False
    )
    if result.returncode:
        raise ToolError(f"`{shlex.join(map(str, command))}` failed: {result.stderr.strip()}")
    return result.stdout


def free_port() -> int:
    """Return a TCP port of loopback that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def ssh(
    command: str, *, port: int, user: str, key: Path, known_hosts: Path
) -> subprocess.CompletedProcess[str]:
    """Run a command in a guest that listens on loopback; the host key has to be the known one."""
    options = {
        "BatchMode": "yes",
        "ConnectTimeout": "30",
        "ServerAliveInterval": "20",  # an emulated guest on a busy machine may say nothing for long
        "IdentitiesOnly": "yes",
        "IdentityFile": str(key),
        "StrictHostKeyChecking": "yes",
        "UserKnownHostsFile": str(known_hosts),
        "GlobalKnownHostsFile": "/dev/null",
        "HostKeyAlias": "guest",  # the port is another each time
    }
    words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    return subprocess.run(
        ["ssh", "-F", "/dev/null", *words, "-p", str(port), f"{user}@127.0.0.1", command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def config_drive(folder: Path, config: str) -> Path:
    """Write the ISO that the platform `openstack` reads its config from."""
    latest = folder / "config-2" / "openstack" / "latest"
    latest.mkdir(parents=True)
    (latest / "user_data").write_text(config)
    iso = folder / "config-2.iso"
    _output(["mkisofs", "-quiet", "-output", iso, "-volid", "config-2", "-J", "-R", folder / "config-2"])
    return iso


@dataclass
class Guest:
    """One virtual machine on a copy-on-write disk; everything it needs is in its folder."""

    folder: Path
    image: Path
    config: str
    disk_gib: int = 2
    uefi: bool = False
    answering_network: bool = True
    user: str = "core"
    discs: Sequence[Path] = ()
    """ISOs that are in further CD-ROM drives."""
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _resets: list[int] = field(default_factory=list, init=False)
    _port: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.disk = self.folder / "disk.qcow2"
        self.iso = config_drive(self.folder, self.config)
        create = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2"]
        _output([*create, "-b", self.image, self.disk, f"{self.disk_gib}G"])
        if self.uefi:
            shutil.copyfile(OVMF / "OVMF_VARS_4M.fd", self.folder / "vars.fd")

    def __enter__(self) -> Guest:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def reboots(self) -> int:
        """How often the guest has rebooted since it was started."""
        # The firmware resets the machine once more right after the guest did.
        return sum(b - a > 3 for a, b in zip([0, *self._resets], self._resets, strict=False))

    def start(self) -> None:
        """Power the machine on."""
        self._port = free_port()
        self._resets.clear()
        with (self.folder / "qemu.log").open("ab") as log:
            self._process = subprocess.Popen(self._command(), stdout=log, stderr=log)
        self._connect()

    def _command(self) -> list[str]:
        command = [
            *("qemu-system-x86_64", "-name", "layer1-lab", "-nodefaults", "-no-user-config"),
            *("-accel", "tcg,thread=multi,tb-size=128", "-machine", "q35,usb=off", "-cpu", "max"),
            *("-smp", "1", "-m", "512", "-display", "none", "-vga", "none"),
            *("-drive", f"if=none,id=root,file={self.disk},format=qcow2,discard=unmap,cache=unsafe"),
            *("-device", "virtio-blk-pci,drive=root,bootindex=1"),
            *("-drive", f"if=none,id=config,file={self.iso},format=raw,readonly=on,media=cdrom"),
            *("-device", "ide-cd,drive=config,bus=ide.0"),
            *("-qmp", f"unix:{self.folder / 'qmp'},server=on,wait=off"),
        ]
        for at, disc in enumerate(self.discs, 1):
            command += ["-drive", f"if=none,id=disc{at},file={disc},format=raw,readonly=on,media=cdrom"]
            command += ["-device", f"ide-cd,drive=disc{at},bus=ide.{at}"]
        # A hub without another port: there is a network card, and nothing answers on it.
        network = (
            f"user,hostfwd=tcp:127.0.0.1:{self._port}-:22" if self.answering_network else "hubport,hubid=0"
        )
        command += ["-netdev", f"{network},id=net"]
        command += ["-device", "virtio-net-pci,netdev=net,mac=52:54:00:6c:61:62"]
        if self.uefi:
            code = OVMF / "OVMF_CODE_4M.fd"
            command += ["-drive", f"if=pflash,format=raw,readonly=on,file={code}"]
            command += ["-drive", f"if=pflash,format=raw,file={self.folder / 'vars.fd'}"]
        return command

    def _connect(self) -> None:
        """Open QEMU's control socket, and collect its events until QEMU ends."""
        deadline = time.monotonic() + 20
        while True:
            self._control = socket.socket(socket.AF_UNIX)
            try:
                self._control.connect(str(self.folder / "qmp"))
                break
            except OSError as error:
                self._control.close()
                if not self.alive() or time.monotonic() > deadline:
                    self.kill()
                    log = (self.folder / "qemu.log").read_text(errors="replace")
                    raise ToolError(f"QEMU did not start: {log.strip()}") from error
                time.sleep(0.05)
        self._control.sendall(b'{"execute": "qmp_capabilities"}\n')
        threading.Thread(target=self._collect, args=(self._control,), daemon=True).start()

    def _collect(self, control: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError), control, control.makefile() as lines:
            for line in lines:
                message = json.loads(line)
                if message.get("event") == "RESET":
                    self._resets.append(message["timestamp"]["seconds"])

    def alive(self) -> bool:
        """Whether the machine is on."""
        return self._process is not None and self._process.poll() is None

    def press_power_button(self) -> None:
        """Ask the guest to shut down, as `virsh shutdown` does."""
        self._control.sendall(b'{"execute": "system_powerdown"}\n')

    def kill(self) -> None:
        """Pull the plug, if the machine is on."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def wait_off(self, timeout: float) -> float:
        """Wait until the machine has powered itself off, and return the seconds that took."""
        began = time.monotonic()
        if self._process is None:
            raise NodeError("the guest was never started")
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise NodeError(f"the guest did not power off within {timeout:.0f} s") from error
        return time.monotonic() - began

    def wait_ssh(self, key: Path, known_hosts: Path, timeout: float) -> float:
        """Wait until the user can log in, and return the seconds that took."""
        began = time.monotonic()
        while (passed := time.monotonic() - began) < timeout:
            if not self.alive():
                reason = self.root_file("/var/log/ignition-failed.log") or "it left no reason"
                raise NodeError(f"the guest powered off after {passed:.0f} s:\n{reason}")
            if self.ssh("true", key=key, known_hosts=known_hosts).returncode == 0:
                return time.monotonic() - began
            time.sleep(1)
        last = self.ssh("true", key=key, known_hosts=known_hosts).stderr.strip()
        raise NodeError(f"no login within {timeout:.0f} s: {last}")

    def ssh(self, command: str, *, key: Path, known_hosts: Path) -> subprocess.CompletedProcess[str]:
        """Run a command in the guest; the host key has to be the known one."""
        return ssh(command, port=self._port, user=self.user, key=key, known_hosts=known_hosts)

    def root_file(self, path: str) -> str | None:
        """Read a file of ROOT from the disk of a machine that is off, or None if it is not there."""
        if self.alive():
            raise NodeError("the guest is on: its disk cannot be read")
        raw = self.folder / "disk.raw"
        _output(["qemu-img", "convert", "-O", "raw", self.disk, raw])
        try:
            table = json.loads(_output(["/usr/sbin/sfdisk", "--json", raw]))["partitiontable"]
            start = next(p["start"] for p in table["partitions"] if p["name"] == "ROOT")
            found = self.folder / "found"
            found.unlink(missing_ok=True)
            _output(["/usr/sbin/debugfs", "-R", f"dump {path} {found}", f"{raw}?offset={start * 512}"])
            return found.read_text() if found.exists() else None
        finally:
            raw.unlink()
