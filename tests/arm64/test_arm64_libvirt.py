"""Virtual machines on a Pi: the aarch64 domain that Layer 1 renders boots through AAVMF in the real libvirtd.

Emulated, for this machine is none; the domain differs by that alone. The disk holds the practice board, which
says on its FAT partition what it found, and switches the machine off.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from arm64_support import wait_until

from lab.arm64 import build
from lab.arm64.firmware import add_efi_loader, read_boot_file, write_boot_file
from layer1 import config, machine, seed_iso, sshkeys
from layer1.model import Node, StackConfig

pytestmark = [pytest.mark.arm64, pytest.mark.engine, pytest.mark.timeout(900)]

PROVIDER_XML = Path(__file__).parents[1] / "units" / "provider_xml" / "aarch64-uefi-kvm.xml"
LIBVIRT_IMAGES = Path("/var/lib/libvirt/images")
STACK = f"arm64-{os.getpid()}"
OPERATOR = sshkeys.ed25519_public(b"\x01" * 32, "operator@example")
NODES: dict[str, dict[str, Any]] = {
    "flatcar": {"os": "flatcar", "ssh_authorized_keys": [OPERATOR]},
    "talos": {"os": "talos", "role": "controlplane"},
}
# What the guest looks at. `udevadm settle`: the CD-ROM's module comes when udev finds the controller.
PROBE = """#!/bin/sh
exec >/boot/firmware/found.txt 2>/boot/firmware/probe.log
udevadm settle
uname -m
[ -d /sys/firmware/efi ] && echo efi
echo "root on $(findmnt --noheadings --output SOURCE /)"
echo "seed labelled $(blkid -s LABEL -o value /dev/sr0)"
mount -o ro /dev/sr0 /mnt && cat /mnt/openstack/latest/user_data
touch /mnt/x 2>/dev/null && echo "the seed can be written"
echo "cards: $(ls /sys/class/net | grep -vx lo | wc -l), $(cat /sys/class/net/e*/address)"
sync
"""


def virsh(*arguments: str, ok: bool = True) -> str:
    done = subprocess.run(
        ["virsh", "--quiet", "--connect", "qemu:///system", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0 or not ok, f"virsh {arguments[0]}: {done.stderr}"
    return done.stdout.strip()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder below the one that libvirt's AppArmor profile and users may enter."""
    made = Path(tempfile.mkdtemp(prefix="layer1-arm64-", dir=LIBVIRT_IMAGES))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


def _stack(pool: Path, kind: str) -> tuple[StackConfig, Node]:
    home = {"accel": "tcg", "svirt": "none", "memory_hard_limit": False, "pool_path": str(pool)}
    node = {
        "name": "k3s-1",
        "arch": "aarch64",
        "memory_mib": 2048 if kind == "talos" else 1024,
        **NODES[kind],
    }
    stack = config.load(STACK, {"hosts": {"home": home}, "nodes": [node]}, {})
    return stack, stack.nodes[0]


def _domain(pool: Path, kind: str) -> str:
    """The provider's XML for the node, without the disks that a plain node lacks, through Layer 1's sheet."""
    stack, node = _stack(pool, kind)
    described = machine.machine(stack, node)
    text = PROVIDER_XML.read_text().replace("/var/lib/libvirt/images/layer1-unit", f"{pool}/layer1-{STACK}")
    text = text.replace("layer1-unit", f"layer1-{STACK}")
    root = ET.fromstring(text)  # noqa: S314 - our own
    root.set("type", described.domain_type)
    root.find("memory").text = str(described.memory_mib)  # type: ignore[union-attr]
    root.find("cpu").set("mode", described.cpu_mode)  # type: ignore[union-attr]
    root.find("devices/interface/mac").set("address", described.mac)  # type: ignore[union-attr]
    devices = root.find("devices")
    assert devices is not None
    for disk in devices.findall("disk"):
        if disk.find("target").get("dev") in ("vdb", "vdc"):  # type: ignore[union-attr]
            devices.remove(disk)
    sheet, provider = pool / "sheet.xsl", pool / "provider.xml"
    sheet.write_text(described.sheet)
    provider.write_text(ET.tostring(root, encoding="unicode"))
    return subprocess.run(
        ["xsltproc", str(sheet), str(provider)], check=True, capture_output=True, text=True
    ).stdout


@pytest.fixture
def network() -> Iterator[None]:
    name = f"layer1-{STACK}"
    xml = Path(tempfile.mkdtemp()) / "network.xml"
    xml.write_text(f"<network><name>{name}</name><bridge name='l1arm{os.getpid() % 100000}'/></network>")
    virsh("net-create", str(xml))
    yield
    virsh("net-destroy", name)
    shutil.rmtree(xml.parent)


def _disk(card: Path, target: Path) -> None:
    """Make the root disk: the practice board's card, with a boot loader and the probe."""
    shutil.copyfile(build.build().with_name(build.IMAGE), card)
    card.chmod(0o600)
    words = read_boot_file(card, "cmdline.txt").split()
    words.remove("init=/usr/lib/raspberrypi-sys-mods/firstboot")
    words += ["systemd.run=/boot/firmware/probe.sh", "systemd.unit=kernel-command-line.target"]
    words += [f"systemd.run_{end}_action=poweroff" for end in ("success", "failure")]
    write_boot_file(card, "cmdline.txt", " ".join(words) + "\n")
    write_boot_file(card, "probe.sh", PROBE)
    add_efi_loader(card, build.build().with_name(build.LOADER))
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", card, target], check=True)


@pytest.mark.usefixtures("network")
def test_the_aarch64_domain_boots_through_uefi(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stack, node = _stack(folder, "flatcar")
    pool = Path(machine.pool_directory(stack, node.host_name))
    pool.mkdir()
    monkeypatch.setenv("LAYER1_WORK", str(folder / "work"))
    seed = seed_iso.build("seed.iso", "config-2", {"openstack/latest/user_data": "what the node is told\n"})
    shutil.copyfile(seed, pool / "k3s-1-seed-0123456789ab.iso")
    disk = pool / "k3s-1-root-0123456789ab.qcow2"
    _disk(folder / "card.img", disk)
    domain = folder / "domain.xml"
    domain.write_text(_domain(folder, "flatcar"))
    name = machine.domain_name(stack, node)

    virsh("define", str(domain))
    try:
        virsh("start", name)
        wait_until(lambda: virsh("domstate", name) == "shut off", "the guest has switched itself off")
    finally:
        virsh("destroy", name, ok=False)
        nvram = Path(machine.machine(stack, node).nvram_file)
        made = nvram.exists()
        virsh("undefine", "--nvram", name)
    assert made, "the firmware's variables had a file of their own"
    assert not nvram.exists()

    subprocess.run(["qemu-img", "convert", "-O", "raw", disk, folder / "after.img"], check=True)
    assert read_boot_file(folder / "after.img", "found.txt").splitlines() == [
        "aarch64",
        "efi",
        "root on /dev/vda2",
        "seed labelled config-2",
        "what the node is told",
        f"cards: 1, {node.mac.lower()}",
    ]


@pytest.mark.parametrize("kind", NODES)
def test_libvirt_makes_a_qemu_command_for_the_virt_machine(folder: Path, kind: str) -> None:
    domain = folder / "domain.xml"
    domain.write_text(_domain(folder, kind))
    command = virsh("domxml-to-native", "qemu-argv", str(domain))
    assert "/usr/bin/qemu-system-aarch64" in command
    assert "-machine virt-7.2," in command
    assert "gic-version" not in command.replace("gic-version=2", ""), "none is forced: a Pi has version 2"
    assert "AAVMF_CODE.fd" in command
    assert "virtualization=on" not in command, "no hypervisor inside the node"
    assert '"driver":"virtio-scsi-pci"' in command
    assert '"driver":"scsi-cd"' in command
