"""Builds the practice image into the cache and describes it in `image.json`."""

from __future__ import annotations

import json
import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lab import steps
from layer1.errors import ImageError, ToolError
from layer1.paths import cache_dir, work_dir

LAB = Path(__file__).resolve().parent
RECIPE = LAB / "recipe"
K3S = LAB / "k3s"
STEPS = sorted((RECIPE / "steps").glob("[0-9]*.sh"))
# program -> the Debian package that has it
PROGRAMS = {
    "mmdebstrap": "mmdebstrap",
    "dpkg-deb": "dpkg",
    "mksquashfs": "squashfs-tools",
    "veritysetup": "cryptsetup-bin",
    "syslinux": "syslinux",
    "mkfs.vfat": "dosfstools",
    "mcopy": "mtools",
    "sfdisk": "fdisk",
    "mkfs.ext4": "e2fsprogs",
    "qemu-img": "qemu-utils",
    "cpio": "cpio",
    "zstd": "zstd",
    "modprobe": "kmod",
}
FILES = {
    "/usr/lib/systemd/boot/efi/systemd-bootx64.efi": "systemd-boot-efi",
    "/usr/lib/syslinux/mbr/gptmbr.bin": "syslinux-common",
    "/usr/lib/syslinux/modules/bios/ldlinux.c32": "syslinux-common",
}


def recipe_key() -> str:
    """Return 12 hex digits over the names, modes and contents of the recipe's files."""
    return steps.recipe_key(RECIPE)


def image_folder() -> Path:
    """Return the folder that holds, or will hold, the image of the present recipe."""
    return cache_dir() / "lab" / recipe_key()


def build() -> Path:
    """Build the image unless it is there, and return its manifest's path."""
    folder = image_folder()
    manifest = folder / "image.json"
    if manifest.exists():
        _make_current(folder)
        _refresh_installer(manifest)
        return manifest
    folder.parent.mkdir(parents=True, exist_ok=True)
    with steps.only_build(folder.parent):
        if not manifest.exists():  # another build may have made it meanwhile
            _build(folder)
    return manifest


def manifest() -> dict[str, Any]:
    """Return the manifest of the built image."""
    path = image_folder() / "image.json"
    if not path.exists():
        raise ImageError("the practice image is not built: run `python -m lab build`")
    _refresh_installer(path)
    data: dict[str, Any] = json.loads(path.read_text())
    return data


def _build(folder: Path) -> None:
    steps.check_tools(PROGRAMS, FILES)
    ignition = _ignition()
    steps.build(
        RECIPE,
        STEPS,
        folder,
        "the practice image",
        finish=lambda out: _write_manifest(out, folder),
        variables={"IGNITION": str(ignition)},
    )
    _make_current(folder)
    image = folder / "guest.qcow2"
    print(f"{image}: {image.stat().st_size / 1e6:.0f} MB", flush=True)


def _make_current(folder: Path) -> None:
    """Point `<cache>/lab/current` at the folder: the image that stacks with a practice node take."""
    link = folder.parent / "current"
    if link.is_symlink() and link.readlink() == Path(folder.name):
        return
    temporary = folder.parent / f".current-{os.getpid()}"
    temporary.symlink_to(folder.name)
    temporary.replace(link)


def _ignition() -> Path:
    own = os.environ.get("LAB_IGNITION")
    path = Path(own) if own else work_dir() / "bin" / "ignition"
    if not path.exists():
        raise ToolError(
            f"there is no Ignition at {path}: run `make toolchain`, or name one with LAB_IGNITION"
        )
    return path.resolve()


def _write_manifest(out: Path, folder: Path) -> None:
    image = out / "guest.qcow2"
    image.chmod(0o444)
    info = json.loads(
        subprocess.run(
            ["qemu-img", "info", "--output=json", str(image)], check=True, capture_output=True, text=True
        ).stdout
    )
    steps.write_json(
        out / "image.json",
        {
            "name": "practice",
            "version": folder.name,
            "arch": "amd64",
            "format": "qcow2",
            "path": str(folder / image.name),
            "size_bytes": image.stat().st_size,
            "sha512": steps.sha512(image),
            "virtual_size_bytes": info["virtual-size"],
            "built_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "k3s_installer": _installer(),
        },
    )


def _installer() -> dict[str, str]:
    path = K3S / "install.sh"
    return {"sha512": steps.sha512(path), "path": str(path)}


def _refresh_installer(path: Path) -> None:
    """Bring the installer's entry up to date: it is no part of the image and may change without a build."""
    data = json.loads(path.read_text())
    if data["k3s_installer"] != _installer():
        data["k3s_installer"] = _installer()
        steps.write_json(path, data)
