"""The folder that comes first on PATH: links to the programs that were selected."""

from __future__ import annotations

import os
from pathlib import Path

from toolchain.programs import Program


def link(program: Program, folder: Path, bin_folder: Path) -> None:
    """Link the program, and what it needs beside it, from `folder` into `bin_folder`."""
    bin_folder.mkdir(parents=True, exist_ok=True)
    names = [program.name]
    if program.extra:
        names.append(Path(program.extra.path).name)
    for name in names:
        target, place = folder / name, bin_folder / name
        if place.is_symlink() and place.readlink() == target:
            continue
        # Replaced in one step: whoever starts the program meanwhile gets the old one or the new one.
        fresh = bin_folder / f".{name}.{os.getpid()}"
        fresh.symlink_to(target)
        fresh.replace(place)
