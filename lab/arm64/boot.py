"""Boots a practice board with plain QEMU, start by start, as a Pi does: no libvirt, no bridge, no root."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from lab.arm64.firmware import Start, read_card
from lab.boot import free_port, ssh
from layer1.errors import NodeError, ToolError

ADDRESS, GATEWAY, NAMESERVER = "10.0.2.15/24", "10.0.2.2", "10.0.2.3"
"""What QEMU's user network expects of its guest; the gateway is this machine's loopback."""


@dataclass
class Board:
    """One board with a card in it; its logs are in its folder.

    Each start reads the card's FAT partition anew, so a cmdline.txt that the guest has edited counts.

    Attributes:
        folder: for logs and what was read from the card.
        card: raw image; the guest writes to it.
        guest_ports: TCP ports of the guest that lead out, each to a port of 127.0.0.1.
        memory_mib: the guest's memory.
    """

    folder: Path
    card: Path
    guest_ports: tuple[int, ...] = (22,)
    memory_mib: int = 768
    starts: list[Start] = field(default_factory=list, init=False)
    _ports: dict[int, int] = field(default_factory=dict, init=False)
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _runner: threading.Thread | None = field(default=None, init=False)
    _unplugged: threading.Event = field(default_factory=threading.Event, init=False)
    _failure: Exception | None = field(default=None, init=False)

    def __enter__(self) -> Board:
        self.power_on()
        return self

    def __exit__(self, *_: object) -> None:
        self.unplug()

    @property
    def port(self) -> int:
        """The port of 127.0.0.1 that leads to the guest's SSH."""
        return self.forwarded(22)

    def forwarded(self, guest_port: int) -> int:
        """Return the port of 127.0.0.1 that leads to a port of the guest."""
        return self._ports[guest_port]

    def power_on(self) -> None:
        """Switch the board on; whenever the guest reboots, it is started anew."""
        self._ports = {port: free_port() for port in self.guest_ports}
        self._unplugged.clear()
        self._failure = None
        self._runner = threading.Thread(target=self._run, daemon=True)
        self._runner.start()

    def unplug(self) -> None:
        """Pull the plug: what the guest has not written yet is lost."""
        self._unplugged.set()
        if self._process is not None:
            self._process.kill()
        if self._runner is not None:
            self._runner.join()

    def alive(self) -> bool:
        """Whether the board is on."""
        return self._runner is not None and self._runner.is_alive()

    def wait_off(self, timeout_s: float) -> float:
        """Wait until the guest has powered the board off, and return the seconds that took."""
        began = time.monotonic()
        if self._runner is None:
            raise NodeError("the board was never switched on")
        self._runner.join(timeout_s)
        if self._runner.is_alive():
            raise NodeError(f"the board did not power off within {timeout_s:.0f} s; {self._last_words()}")
        if self._failure:
            raise self._failure
        return time.monotonic() - began

    def wait_ssh(self, *, user: str, key: Path, known_hosts: Path, timeout_s: float) -> float:
        """Wait until the user can log in, and return the seconds that took."""
        began = time.monotonic()
        while (passed := time.monotonic() - began) < timeout_s:
            if not self.alive():
                raise self._failure or NodeError(
                    f"the board powered off after {passed:.0f} s; {self._last_words()}"
                )
            if "Kernel panic" in self.console():
                raise NodeError(f"the guest's kernel stopped; {self._last_words()}")
            result = self.ssh("true", user=user, key=key, known_hosts=known_hosts)
            if result.returncode == 0:
                return time.monotonic() - began
            time.sleep(1)
        raise NodeError(f"no login within {timeout_s:.0f} s: {result.stderr.strip()}; {self._last_words()}")

    def ssh(
        self, command: str, *, user: str, key: Path, known_hosts: Path
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the guest; the host key has to be the known one."""
        return ssh(command, port=self.port, user=user, key=key, known_hosts=known_hosts)

    def console(self) -> str:
        """Return what the kernel and programs wrote on the serial line, of all starts."""
        logs = (self.folder / f"serial-{number}.log" for number in range(1, len(self.starts) + 1))
        return "\n".join(log.read_text(errors="replace") for log in logs if log.exists())

    def _last_words(self) -> str:
        return "its last words:\n" + "\n".join(self.console().splitlines()[-10:])

    def _run(self) -> None:
        try:
            while not self._unplugged.is_set() and self._one_start() == "guest-reset":
                pass
        except Exception as error:  # noqa: BLE001 - handed over to whoever waits for the board
            self._failure = error

    def _one_start(self) -> str:
        """Start QEMU, wait for its end, and return why it ended."""
        self.starts.append(read_card(self.card, self.folder))
        with (self.folder / "qemu.log").open("ab") as log:
            self._process = subprocess.Popen(self._command(self.starts[-1]), stdout=log, stderr=log)
        if self._unplugged.is_set():  # pulled while QEMU was being started
            self._process.kill()
        reason = self._end_reason()
        if self._process.wait() != 0 and not self._unplugged.is_set():
            text = (self.folder / "qemu.log").read_text(errors="replace").strip()
            raise ToolError(f"QEMU failed: {text}")
        return reason

    def _command(self, start: Start) -> list[str]:
        forwards = [f"hostfwd=tcp:127.0.0.1:{ours}-:{guest}" for guest, ours in self._ports.items()]
        return [
            *("qemu-system-aarch64", "-name", "layer1-board", "-nodefaults", "-no-user-config", "-no-reboot"),
            *("-accel", "tcg,thread=multi,tb-size=256", "-machine", "virt", "-cpu", "cortex-a72"),
            *("-smp", "2", "-m", str(self.memory_mib), "-display", "none"),
            *("-serial", f"file:{self.folder / f'serial-{len(self.starts)}.log'}"),
            *("-kernel", str(start.kernel), "-initrd", str(start.initrd), "-append", start.arguments),
            *("-drive", f"file={self.card},format=raw,if=none,id=card,cache=unsafe,discard=unmap"),
            *("-device", "virtio-blk-pci,drive=card"),
            *("-netdev", ",".join(["user,id=net", *forwards])),
            *("-device", "virtio-net-pci,netdev=net,romfile="),
            *("-device", "virtio-rng-pci"),
            *("-qmp", f"unix:{self.folder / 'qmp'},server=on,wait=off"),
        ]

    def _end_reason(self) -> str:
        """Listen to QEMU until it ends, and return the reason it gives."""
        reason = "none"
        with (
            contextlib.suppress(OSError, ValueError),
            self._control() as control,
            control.makefile() as lines,
        ):
            control.sendall(b'{"execute": "qmp_capabilities"}\n')
            for line in lines:
                message = json.loads(line)
                if message.get("event") == "SHUTDOWN":
                    reason = message["data"]["reason"]
        return reason

    def _control(self) -> socket.socket:
        while True:
            control = socket.socket(socket.AF_UNIX)
            try:
                control.connect(str(self.folder / "qmp"))
            except OSError:
                control.close()
                if self._process is None or self._process.poll() is not None:
                    raise
                time.sleep(0.05)
            else:
                return control
