"""Makes the ISO by which a node gets its first config, and stages it where only its owner can read it."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from layer1.errors import RenderError, ToolError
from layer1.paths import work_dir
from layer1.processes import last_lines, run

_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def staging_dir() -> Path:
    """Return the folder where ISOs wait for their upload; only the owner can enter it."""
    folder = work_dir() / "seeds"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    return folder


def build(file_name: str, label: str, files: Mapping[str, str]) -> Path:
    """Write an ISO 9660 image (Rock Ridge, Joliet) with the given files.

    Args:
        file_name: name of the ISO in the staging folder.
        label: volume label, by which the guest finds it (`config-2`, `cidata`).
        files: text by path within the ISO.

    Returns:
        The staged ISO, mode 0600.

    Raises:
        RenderError: the name is not a plain one, a path leaves the ISO, or a file is empty (some guests choke
            on an empty one).
        ToolError: mkisofs failed.
    """
    if not _PLAIN_NAME.fullmatch(file_name):
        raise RenderError("a seed's file name must be a plain name, for it stays in the staging folder")
    for path, text in files.items():
        if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts or not text:
            raise RenderError(f"seed {file_name}: {path} must be a path within the ISO, and not empty")
    staging = staging_dir()
    target = staging / file_name
    with tempfile.TemporaryDirectory(dir=staging) as folder:  # mode 0700
        root = Path(folder) / "content"
        for path, text in files.items():
            place = root / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.touch(mode=0o600)
            place.write_text(text)
        made = Path(folder) / "seed.iso"
        made.touch(mode=0o600)
        result = run(
            ["mkisofs", "-quiet", "-output", str(made), "-volid", label, "-joliet", "-rock", str(root)]
        )
        if result.returncode != 0:
            raise ToolError(f"mkisofs could not make {file_name}: {last_lines(result.stderr)}")
        made.chmod(0o600)
        shutil.move(made, target)
    return target


def remove(path: str) -> None:
    """Remove a staged ISO; a path outside the staging folder is left alone."""
    staged = Path(path)
    if staged.parent == staging_dir():
        staged.unlink(missing_ok=True)
