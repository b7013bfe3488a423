"""Runs inside the host: puts frames into a domain's tap as its guest would, and sees what reaches the bridge.

QEMU itself sends them, by its filter-redirector. After each frame comes one that must pass: until that one is
heard the frame before had its chance, and a way that is broken never looks like a filter that drops.
"""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

domain, mac, ip, bridge, gateway = sys.argv[1:]
OTHER_IP = ip.rpartition(".")[0] + ".99"
OTHER_MAC = "52:54:00:66:66:66"
BROADCAST = "ff:ff:ff:ff:ff:ff"
VIRSH = ["virsh", "--quiet", "--connect", "qemu:///system"]


def tell(command: str, **arguments: object) -> dict[str, object]:
    order = json.dumps({"execute": command, "arguments": arguments})
    said = subprocess.run(
        [*VIRSH, "qemu-monitor-command", domain, order], capture_output=True, text=True, check=True
    )
    return dict(json.loads(said.stdout))


def hexed(address: str) -> bytes:
    return bytes.fromhex(address.replace(":", ""))


def ethernet(source: str, destination: str, kind: int, payload: bytes) -> bytes:
    return (hexed(destination) + hexed(source) + struct.pack("!H", kind) + payload).ljust(60, b"\0")


def arp(sender: str, claimed_mac: str, claimed_ip: str, asked: str, operation: int = 1) -> bytes:
    head = struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation)
    claim = hexed(claimed_mac) + socket.inet_aton(claimed_ip)
    return ethernet(sender, BROADCAST, 0x0806, head + claim + bytes(6) + socket.inet_aton(asked))


def checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def udp(sender: str, source: str, from_port: int, to_port: int) -> bytes:
    datagram = struct.pack("!HHHH", from_port, to_port, 12, 0) + b"wall"
    head = struct.pack(
        "!BBHHHBBH4s4s",
        *(0x45, 0, 20 + len(datagram), 7, 0, 64, 17, 0),
        *(socket.inet_aton(source), socket.inet_aton("255.255.255.255")),
    )
    head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
    return ethernet(sender, BROADCAST, 0x0800, head + datagram)


NEIGHBOUR_SOLICITATION = bytes.fromhex("6000000000083aff") + bytes(32) + bytes(8)
FRAMES = {
    "good: ARP of its own": arp(mac, mac, ip, gateway),
    "good: UDP of its own": udp(mac, ip, 999, 999),
    "good: DHCP's first word": udp(mac, "0.0.0.0", 68, 67),  # noqa: S104 - a source, nothing listens
    "bad: another MAC": arp(OTHER_MAC, OTHER_MAC, ip, gateway),
    "bad: another MAC in a datagram": udp(OTHER_MAC, ip, 999, 999),
    "bad: another address": udp(mac, OTHER_IP, 999, 999),
    "bad: the gateway's address": udp(mac, gateway, 53, 999),
    "bad: ARP claims another address": arp(mac, mac, OTHER_IP, gateway),
    "bad: ARP poses as the gateway": arp(mac, mac, gateway, ip, operation=2),
    "bad: ARP claims another MAC": arp(mac, OTHER_MAC, ip, gateway),
    "bad: IPv6": ethernet(mac, "33:33:00:00:00:01", 0x86DD, NEIGHBOUR_SOLICITATION),
}


class Tap:
    """The way into the tap, and the ear on the bridge."""

    def __init__(self) -> None:
        number = subprocess.run([*VIRSH, "domid", domain], capture_output=True, text=True, check=True).stdout
        (folder,) = Path("/var/lib/libvirt/qemu").glob(f"domain-{number.strip()}-*")
        path = f"{folder}/frames.sock"
        address = {"type": "unix", "data": {"path": path}}
        backend = {"type": "socket", "data": {"addr": address, "server": True, "wait": False}}
        answer = tell("chardev-add", id="frames", backend=backend)
        assert "error" not in answer, answer
        answer = tell(
            "object-add",
            **{"qom-type": "filter-redirector", "id": "frames0", "netdev": "hostnet0"},
            **{"queue": "rx", "indev": "frames"},
        )
        assert "error" not in answer, answer
        self.way = socket.socket(socket.AF_UNIX)
        self.way.connect(path)
        self.ear = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self.ear.bind((bridge, 0))
        self.proofs = 0
        # QEMU's header before each frame is longer once the guest's driver is up; the wrong one loses it.
        for self.header_bytes in (10, 12):
            self.send(self.proof())
            if self.heard_until(self.proof(), 5) is not None:
                return
        sys.exit("not even a good frame passes: the way into the tap is broken")

    def proof(self) -> bytes:
        """Return the present frame that must pass: the guest asks for an address, another each time."""
        return arp(mac, mac, ip, ip.rpartition(".")[0] + f".{100 + self.proofs}")

    def send(self, frame: bytes) -> None:
        self.way.sendall(struct.pack("!I", len(frame) + self.header_bytes) + bytes(self.header_bytes) + frame)

    def heard_until(self, last: bytes, within_s: float) -> list[bytes] | None:
        """Return the beginnings of the frames on the bridge up to `last`; None if that does not come."""
        heard: list[bytes] = []
        end = time.monotonic() + within_s
        while (left := end - time.monotonic()) > 0:
            self.ear.settimeout(left)
            try:
                heard.append(self.ear.recv(2048)[:42])
            except TimeoutError:
                break
            if heard[-1] == last[:42]:
                return heard
        return None

    def passes(self, frame: bytes) -> bool:
        self.proofs += 1
        self.send(frame)
        self.send(self.proof())
        heard = self.heard_until(self.proof(), 20)
        if heard is None:
            sys.exit("a good frame did not pass: the way into the tap broke")
        return frame[:42] in heard

    def close(self) -> None:
        self.way.close()
        self.ear.close()
        tell("object-del", id="frames0")
        tell("chardev-remove", id="frames")


tap = Tap()
try:
    passed = {name: tap.passes(frame) for name, frame in FRAMES.items()}
finally:
    tap.close()
print(json.dumps(passed))
