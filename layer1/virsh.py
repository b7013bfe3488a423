"""What Layer 1 asks libvirt itself, over the same URI as the provider, by virsh."""

from __future__ import annotations

import secrets
import subprocess
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from layer1 import host_ssh
from layer1.errors import HostError
from layer1.processes import last_lines, run

UNREACHABLE = "unreachable"
"""The state of a domain whose host does not answer."""


def virsh(uri: str, *arguments: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    """Run one virsh command on a host; its exit code is the caller's to judge."""
    with _address(uri) as address:
        return run(["virsh", "--quiet", "--connect", address, *arguments], timeout_s=timeout_s)


@contextmanager
def _address(uri: str) -> Iterator[str]:
    """Give the URI that means to virsh what ours means to the provider."""
    if not host_ssh.virsh_speaks_ssh(uri):
        yield uri
        return
    with tempfile.TemporaryDirectory(prefix="layer1-") as folder:  # mode 0700
        program = Path(folder) / "ssh"
        program.write_text(host_ssh.wrapper(uri))
        program.chmod(0o700)
        yield host_ssh.virsh_uri(uri, str(program))


def _demand(uri: str, *arguments: str) -> str:
    result = virsh(uri, *arguments)
    if result.returncode != 0:
        raise HostError(f"libvirt on {uri} refused `virsh {arguments[0]}`: {last_lines(result.stderr, 2)}")
    return result.stdout


def claim_pool(uri: str, name: str, directory: str) -> None:
    """Make sure that a pool and its directory are free, so that the stack owns what it will remove.

    Raises:
        HostError: a pool of that name exists, or the directory does.
    """
    if virsh(uri, "pool-info", name).returncode == 0:
        raise HostError(
            f"the storage pool {name} exists on {uri}, but not in this stack's state; if it is left over, "
            f"remove its volumes, then `virsh -c {uri} pool-destroy {name}` and "
            f"`virsh -c {uri} pool-undefine {name}`"
        )
    probe = f"layer1-probe-{secrets.token_hex(4)}"
    # A transient pool looks into the directory on whatever host libvirt runs, and leaves it alone.
    if virsh(uri, "pool-create-as", probe, "dir", "--target", directory).returncode != 0:
        return
    names = virsh(uri, "vol-list", probe).stdout.split("\n")
    _demand(uri, "pool-destroy", probe)
    held = ", ".join(line.split()[0] for line in names[:3] if line.strip()) or "nothing"
    raise HostError(
        f"the directory {directory} exists on {uri} already and holds {held}; the stack would remove it "
        "later, and it removes only what it made: move the directory away, or set another pool_path"
    )


def reserve_address(uri: str, network: str, mac: str, ip: str, name: str) -> None:
    """Bind an address to a MAC in a network's DHCP, now and for good; the same again changes nothing."""
    _unbind(uri, network, mac, ip)
    _demand(
        uri,
        "net-update",
        network,
        "add-last",
        "ip-dhcp-host",
        _dhcp_host(mac, ip, name),
        "--live",
        "--config",
    )


def release_address(uri: str, network: str, mac: str) -> None:
    """Remove a MAC's binding; its address may be another node's by now. A network that is gone has none."""
    _unbind(uri, network, mac, None)


def _unbind(uri: str, network: str, mac: str, ip: str | None) -> None:
    result = virsh(uri, "net-dumpxml", network)
    if result.returncode != 0:
        return
    for host in ET.fromstring(result.stdout).iter("host"):  # noqa: S314 - libvirt's own answer
        if host.get("mac", "").lower() == mac.lower() or (ip and host.get("ip") == ip):
            entry = _dhcp_host(host.get("mac", ""), host.get("ip", ""), host.get("name", ""))
            _demand(uri, "net-update", network, "delete", "ip-dhcp-host", entry, "--live", "--config")


def _dhcp_host(mac: str, ip: str, name: str) -> str:
    attributes = {"mac": mac, "ip": ip} | ({"name": name} if name else {})
    return ET.tostring(ET.Element("host", attributes), encoding="unicode")


def domain_state(uri: str, domain: str) -> str:
    """Return a domain's state as libvirt words it (`running`, `shut off`), or `gone`, or UNREACHABLE."""
    result = virsh(uri, "domstate", domain, "--reason")
    if result.returncode == 0:
        return result.stdout.strip()
    return "gone" if virsh(uri, "hostname").returncode == 0 else UNREACHABLE


def drop_volumes(uri: str, pool: str, prefix: str) -> None:
    """Remove the volumes of a pool whose names begin with `prefix`; a pool that is gone has none."""
    for line in virsh(uri, "vol-list", pool).stdout.splitlines():
        name = line.split()[0] if line.strip() else ""
        if name.startswith(prefix):
            _demand(uri, "vol-delete", "--pool", pool, name)


def forget_vtpm(uri: str, uuid: str) -> None:
    """Remove the vTPM's state of a domain that is gone; none is fine.

    A domain's vTPM keeps its state when the domain is replaced. libvirt removes the state with a domain of
    the same UUID that does not keep it, on whatever host it runs.

    Raises:
        HostError: a domain has this UUID still, or libvirt refused.
    """
    if virsh(uri, "dominfo", uuid).returncode == 0:
        raise HostError(
            f"the domain {uuid} on {uri} is there still, so its vTPM's state stays; remove the domain first"
        )
    name = f"layer1-vtpm-{uuid}"
    document = (
        f"<domain type='qemu'><name>{name}</name><uuid>{uuid}</uuid><memory unit='MiB'>64</memory>"
        "<os><type arch='x86_64' machine='q35'>hvm</type></os><devices>"
        "<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm></devices></domain>"
    )
    with tempfile.NamedTemporaryFile("w", prefix="layer1-", suffix=".xml") as file:
        file.write(document)
        file.flush()
        _demand(uri, "define", file.name)
    _demand(uri, "undefine", name)
