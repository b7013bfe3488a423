"""Builds the host of `make test-walls` into the cache: an ordinary Debian with libvirt, QEMU and AppArmor."""

from __future__ import annotations

from pathlib import Path

from lab import steps
from layer1.paths import cache_dir

RECIPE = Path(__file__).resolve().parent / "recipe"
STEPS = sorted((RECIPE / "steps").glob("[0-9]*.sh"))
# program -> the Debian package that has it
PROGRAMS = {"mmdebstrap": "mmdebstrap", "mkfs.ext4": "e2fsprogs"}
DISK, KERNEL, INITRD = "host.img", "vmlinuz", "initrd"


def recipe_key() -> str:
    """Return 12 hex digits over the names, modes and contents of the recipe's files."""
    return steps.recipe_key(RECIPE)


def image_folder() -> Path:
    """Return the folder that holds, or will hold, the host of the present recipe."""
    return cache_dir() / "lab" / "walls" / recipe_key()


def build() -> Path:
    """Build the host unless it is there, and return its folder."""
    folder = image_folder()
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with steps.only_build(folder.parent):
            if not folder.exists():  # another build may have made it meanwhile
                _build(folder)
    return folder


def _build(folder: Path) -> None:
    steps.check_tools(PROGRAMS, {})
    steps.build(
        RECIPE,
        STEPS,
        folder,
        "the host of the walls",
        finish=lambda out: (out / DISK).chmod(0o444),
    )
    print(f"{folder / DISK}: {(folder / DISK).stat().st_blocks * 512 / 1e6:.0f} MB on disk", flush=True)
