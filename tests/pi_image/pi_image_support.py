"""Images in the shape of Raspberry Pi OS, made with other tools than the code uses where there are others."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

from layer1 import sshkeys
from layer1.butane import InstallerPin
from layer1.pi.bundle import BoardSettings

MIB = 1 << 20
BOOT_AT = 8 * MIB  # as pi-gen aligns it
BOOT_MIB = 40
ROOT_MIB = 16
DISK_ID = "5a1d0c0d"
HOST_KEY = sshkeys.ed25519_private(b"\x01" * 32, "pi")
BOOKWORM_LINE = (
    f"console=serial0,115200 console=tty1 root=PARTUUID={DISK_ID}-02 rootfstype=ext4 fsck.repair=yes "
    "rootwait quiet init=/usr/lib/raspberrypi-sys-mods/firstboot\n"
)
TRIXIE_LINE = (
    f"console=serial0,115200 console=tty1 root=PARTUUID={DISK_ID}-02 rootfstype=ext4 rootwait resize\n"
)
SETTINGS = BoardSettings(
    hostname="pi-1",
    user="layer1",
    ssh_authorized_keys=(sshkeys.ed25519_public(b"\x02" * 32, "operator"),),
    host_private=HOST_KEY,
    host_public=sshkeys.ed25519_public(b"\x01" * 32, "pi"),
    status_public=sshkeys.ed25519_public(b"\x03" * 32, "status"),
    apply_public=sshkeys.ed25519_public(b"\x04" * 32, "apply"),
    address="192.168.1.20/24",
    gateway="192.168.1.1",
    nameservers=("192.168.1.1", "9.9.9.9"),
    cluster_networks=("192.168.1.0/24",),
    operator_networks=("192.168.1.0/24", "10.9.0.0/16"),
    installer=InstallerPin(
        url="https://get.example.org/k3s.sh", sha512="ab" * 64, releases_url="https://example.org/k3s"
    ),
    k3s_version="v1.36.4+k3s1",
)
_NEEDED = ("bin/curl", "bin/flock", "bin/sudo", "bin/systemctl", "sbin/nft", "sbin/sshd", "sbin/useradd")


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What an image is made of; the fields are what the tests vary."""

    identity: str = "debian"
    codename: str = "bookworm"
    issue: str = "Raspberry Pi reference 2025-05-13\nGenerated using pi-gen\n"
    fstab: str = f"PARTUUID={DISK_ID}-01  /boot/firmware  vfat  defaults  0  2\n"
    packages: tuple[str, ...] = ("raspberrypi-sys-mods", "userconf-pi")
    programs: tuple[str, ...] = (*_NEEDED, "sbin/visudo")
    cmdline: bytes | None = BOOKWORM_LINE.encode()
    seed: bool = False
    label: str = "dos"
    types: tuple[str, ...] = ("c", "83")
    fat_bits: int = 32


BOOKWORM = Shape()
TRIXIE_FIRST = Shape(
    codename="trixie",
    issue="Raspberry Pi reference 2025-10-01\n",
    packages=("cloud-init", "raspberrypi-sys-mods"),
    cmdline=TRIXIE_LINE.encode(),
)
TRIXIE = replace(TRIXIE_FIRST, issue="Raspberry Pi reference 2026-04-13\n", seed=True)
SHAPES = {"bookworm": BOOKWORM, "trixie-2025-10-01": TRIXIE_FIRST, "trixie-cloud-init": TRIXIE}


def tool(*command: str, stdin: str = "") -> str:
    """Run a tool that must succeed."""
    found = shutil.which(command[0], path="/usr/sbin:/usr/bin:/sbin:/bin")
    assert found, command[0]
    done = subprocess.run(
        [found, *command[1:]], input=stdin, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout


def make(folder: Path, shape: Shape = BOOKWORM) -> Path:
    """Make an image: partition table by sfdisk, FAT by mkfs.vfat and mtools, ext4 by mkfs.ext4 -d."""
    folder.mkdir(parents=True, exist_ok=True)
    image, boot, root = folder / "base.img", folder / "boot.fat", folder / "root.ext4"
    _root_tree(folder / "tree", shape)
    boot.touch()
    with boot.open("r+b") as stream:
        stream.truncate(BOOT_MIB * MIB)
    cluster = ["-s", "1"] if shape.fat_bits == 32 else []  # pi-gen's, and what makes 40 MiB enough for FAT32
    tool("mkfs.vfat", "-F", str(shape.fat_bits), *cluster, "-n", "bootfs", str(boot))
    for name, data in _boot_tree(shape).items():
        (folder / name).write_bytes(data)
        tool("mcopy", "-i", str(boot), str(folder / name), "::")
    tool("mmd", "-i", str(boot), "::overlays")
    root.touch()
    with root.open("r+b") as stream:
        stream.truncate(ROOT_MIB * MIB)
    tool("mkfs.ext4", "-q", "-L", "rootfs", "-O", "^huge_file", "-d", str(folder / "tree"), str(root))
    with image.open("wb") as stream:
        stream.truncate(BOOT_AT + (BOOT_MIB + ROOT_MIB) * MIB + 2 * MIB)
    _partition(image, shape)
    tool("dd", f"if={boot}", f"of={image}", "bs=1M", "seek=8", "conv=notrunc,sparse", "status=none")
    seek = f"seek={8 + BOOT_MIB}"
    tool("dd", f"if={root}", f"of={image}", "bs=1M", seek, "conv=notrunc,sparse", "status=none")
    boot.unlink()
    root.unlink()
    return image


def _partition(image: Path, shape: Shape) -> None:
    first = f"start={BOOT_AT // 512}, size={BOOT_MIB * 2048}"
    second = f"start={(BOOT_AT + BOOT_MIB * MIB) // 512}, size={ROOT_MIB * 2048}"
    third = f"start={(BOOT_AT + (BOOT_MIB + ROOT_MIB) * MIB) // 512}, size=2048"
    kinds = shape.types
    if shape.label == "gpt":
        script = f"label: gpt\n{first}\n{second}\n"
    else:
        places = (first, second, third)
        lines = [f"{place}, type={kind}" for place, kind in zip(places, kinds, strict=False)]
        script = "\n".join(["label: dos", f"label-id: 0x{DISK_ID}", *lines, ""])
    tool("sfdisk", "-q", str(image), stdin=script)


def _boot_tree(shape: Shape) -> dict[str, bytes]:
    files = {"config.txt": b"auto_initramfs=1\n", "kernel8.img": b"kernel" * 5000}
    if shape.cmdline is not None:
        files["cmdline.txt"] = shape.cmdline
    if shape.seed:
        stub = b"#cloud-config\n"
        files |= {"meta-data": b"instance_id: rpios-image\n", "user-data": stub, "network-config": b"#\n"}
    return files


def _root_tree(tree: Path, shape: Shape) -> None:
    files = {
        "usr/lib/os-release": f'NAME="Debian"\nVERSION_CODENAME={shape.codename}\nID={shape.identity}\n',
        "etc/rpi-issue": shape.issue,
        "etc/fstab": f"proc  /proc  proc  defaults  0  0\n{shape.fstab}",
        "etc/passwd": "root:x:0:0::/root:/bin/bash\nbackup:x:34:34::/:/usr/sbin/nologin\n",
        "etc/group": "root:x:0:\noperator:x:37:\n",
        "etc/secret-of-the-root": "the rest of the image",
        **{f"usr/{program}": "" for program in shape.programs},
        **{f"var/lib/dpkg/info/{package}.list": "/.\n" for package in shape.packages},
    }
    for path, text in files.items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_text(text)


def fat(image: Path) -> str:
    """Name the FAT partition as mtools does."""
    return f"{image}@@{BOOT_AT}"


def fat_file(image: Path, name: str) -> bytes:
    """Read a file of the FAT partition."""
    done = subprocess.run(
        ["mtype", "-i", fat(image), f"::{name}"], capture_output=True, check=True, timeout=60
    )
    return done.stdout


def part_files(image: Path, folder: Path) -> tuple[Path, Path]:
    """Cut both partitions out, for tools that take no offset."""
    boot, root = folder / "boot.part", folder / "root.part"
    with image.open("rb") as stream:
        stream.seek(BOOT_AT)
        boot.write_bytes(stream.read(BOOT_MIB * MIB))
        root.write_bytes(stream.read(ROOT_MIB * MIB))
    return boot, root
