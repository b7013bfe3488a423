"""Builds the host of `make test-walls` into the cache: an ordinary Debian with libvirt, QEMU and AppArmor."""

from __future__ import annotations

import tempfile
from pathlib import Path

from lab import steps
from layer1.errors import ImageError
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
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    out = scratch / "out"
    out.mkdir(mode=0o700)
    variables = {
        "RECIPE": str(RECIPE),
        "WORK": str(scratch),
        "OUT": str(out),
        "APT_SOURCES": str(steps.apt_sources()),
    }
    try:
        kept_log = folder.parent / "build-failed.log"
        steps.run_steps(STEPS, variables, scratch / "build.log", kept_log, "the host of the walls")
        if recipe_key() != folder.name:
            raise ImageError("the recipe was changed while the host was being built: build again")
        (out / DISK).chmod(0o444)
        out.rename(folder)
    finally:
        steps.remove(scratch)
    print(f"{folder / DISK}: {(folder / DISK).stat().st_blocks * 512 / 1e6:.0f} MB on disk", flush=True)
