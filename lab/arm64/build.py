"""Builds the practice board's card image into the cache and describes it in `image.json`."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lab import steps
from layer1.errors import ImageError
from layer1.paths import cache_dir

RECIPE = Path(__file__).resolve().parent / "recipe"
STEPS = sorted((RECIPE / "steps").glob("[0-9]*.sh"))
# program -> the Debian package that has it
PROGRAMS = {
    "mmdebstrap": "mmdebstrap",
    "arch-test": "arch-test",
    "qemu-aarch64-static": "qemu-user-static",
    "unshare": "util-linux",
    "dpkg-deb": "dpkg",
    "modprobe": "kmod",
    "cpio": "cpio",
    "mkfs.vfat": "dosfstools",
    "mcopy": "mtools",
    "sfdisk": "fdisk",
    "mkfs.ext4": "e2fsprogs",
}
FILES = {
    "/usr/lib/binfmt.d/qemu-aarch64.conf": "qemu-user-static",
    "/usr/share/mmdebstrap/hooks/merged-usr/setup00.sh": "mmdebstrap",
}
IMAGE = "board.img"
LOADER = "bootaa64.efi"


def recipe_key() -> str:
    """Return 12 hex digits over the names, modes and contents of the recipe's files."""
    return steps.recipe_key(RECIPE)


def image_folder() -> Path:
    """Return the folder that holds, or will hold, the image of the present recipe."""
    return cache_dir() / "lab" / "arm64" / recipe_key()


def build() -> Path:
    """Build the image unless it is there, and return its manifest's path."""
    folder = image_folder()
    manifest = folder / "image.json"
    if not manifest.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with steps.only_build(folder.parent):
            if not manifest.exists():  # another build may have made it meanwhile
                _build(folder)
    return manifest


def manifest() -> dict[str, Any]:
    """Return the manifest of the built image."""
    path = image_folder() / "image.json"
    if not path.exists():
        raise ImageError("the practice board's image is not built: run `python -m lab build-arm64`")
    data: dict[str, Any] = json.loads(path.read_text())
    return data


def _build(folder: Path) -> None:
    steps.check_tools(PROGRAMS, FILES)
    steps.build(
        RECIPE,
        STEPS,
        folder,
        "the practice board's image",
        finish=lambda out: _write_manifest(out, folder),
    )
    print(f"{folder / IMAGE}: {(folder / IMAGE).stat().st_blocks * 512 / 1e6:.0f} MB on disk", flush=True)


def _write_manifest(out: Path, folder: Path) -> None:
    image = out / IMAGE
    image.chmod(0o444)
    steps.write_json(
        out / "image.json",
        {
            "name": "practice-board",
            "version": folder.name,
            "arch": "arm64",
            "format": "raw",
            "path": str(folder / IMAGE),
            "size_bytes": image.stat().st_size,
            "sha512": steps.sha512(image),
            "efi_loader": str(folder / LOADER),
            "built_at": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    )
