"""The folder that comes first on PATH, and Pulumi's own plugin folder: links to the programs selected."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from toolchain.programs import Program

PULUMI_HOME = "pulumi"
"""Name of Pulumi's home below the work folder; env.py exports it."""


def link(program: Program, folder: Path, bin_folder: Path) -> None:
    """Link the program, and what it needs beside it, from `folder` into `bin_folder`.

    A plugin is also put where Pulumi keeps installed ones: it warns at each run about those on PATH. For the
    same reason the engine is a file of its own here: it looks for the language host beside its real path.
    """
    bin_folder.mkdir(parents=True, exist_ok=True)
    names = [program.name]
    if program.extra:
        names.append(Path(program.extra.path).name)
    for name in names:
        target, place = folder / name, bin_folder / name
        if program.name == "pulumi" and not (folder / "pulumi-language-python").exists():
            _own_copy(target, place)
        else:
            _symlink(target, place)
    if program.plugin:
        link_plugin(folder / program.name, program.plugin, bin_folder.parent)


def link_plugin(file: Path, plugin: str, work: Path) -> None:
    """Link a plugin to where Pulumi keeps installed ones; `plugin` is the folder's name, kind and version."""
    home = work / PULUMI_HOME / "plugins" / plugin
    home.mkdir(parents=True, exist_ok=True)
    _symlink(file, home / file.name)


def _symlink(target: Path, place: Path) -> None:
    if place.is_symlink() and place.readlink() == target:
        return
    fresh = _fresh(place)
    fresh.symlink_to(target)
    fresh.replace(place)


def _own_copy(target: Path, place: Path) -> None:
    if place.exists() and not place.is_symlink() and _same(target, place):
        return
    fresh = _fresh(place)
    try:
        os.link(target, fresh)
    except OSError:  # another file system
        shutil.copy2(target, fresh)
    fresh.replace(place)


def _same(one: Path, other: Path) -> bool:
    first, second = one.stat(), other.stat()
    return first.st_ino == second.st_ino or (
        (first.st_size, first.st_mtime_ns) == (second.st_size, second.st_mtime_ns)
    )


def _fresh(place: Path) -> Path:
    """Name what will replace `place` in one step: whoever starts it meanwhile gets the old or the new one."""
    return place.with_name(f".{place.name}.{os.getpid()}")
