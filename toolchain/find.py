"""Finds programs of exactly the right version that the machine already has."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from layer1.paths import work_dir
from toolchain.links import PULUMI_HOME
from toolchain.programs import Program

# A program that does not know the argument might serve for ever.
PROBE_TIMEOUT_S = 10


def printed_version(binary: Path, arguments: tuple[str, ...]) -> str | None:
    """Return the first version number that the program prints, None if it prints none."""
    environment = {**os.environ, "PULUMI_SKIP_UPDATE_CHECK": "true"}
    try:
        done = subprocess.run(
            [binary, *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PROBE_TIMEOUT_S,
            check=False,
            stdin=subprocess.DEVNULL,
            env=environment,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"\bv?(\d+\.\d+\.\d+(?:[-+][0-9A-Za-z.+-]+)?)", done.stdout)
    return found.group(1) if found and done.returncode == 0 else None


def search_path(own: Path) -> str:
    """Return PATH without our own folder of links, which would find itself."""
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    return os.pathsep.join(folder for folder in folders if Path(folder).resolve() != own.resolve())


def in_plugin_folder(program: Program) -> Path | None:
    """Return a plugin that Pulumi itself has installed."""
    if not program.plugin:
        return None
    own = work_dir().absolute() / PULUMI_HOME
    for home in (Path(os.environ.get("PULUMI_HOME") or own), Path.home() / ".pulumi"):
        binary = home / "plugins" / program.plugin / program.name
        # Our own links would find themselves.
        if home != own and os.access(binary, os.X_OK):
            return binary
    return None


def on_path(program: Program, path: str, engine: Path | None) -> Path | None:
    """Return the program from PATH or the plugin folder if it is of exactly the right version.

    `engine` is the `pulumi` that was found. A program that cannot print its version is only taken from
    beside it: they are released together.
    """
    if not program.from_path:
        return None
    if program.version_arguments is None:
        return _beside(program, engine)
    found = shutil.which(program.name, path=path)
    if found and printed_version(Path(found), program.version_arguments) == program.version:
        return Path(found)
    return in_plugin_folder(program)


def _beside(program: Program, engine: Path | None) -> Path | None:
    names = [program.name, *([Path(program.extra.path).name] if program.extra else [])]
    folders = [] if engine is None else [engine.parent, engine.resolve().parent]
    for folder in folders:
        if all(os.access(folder / name, os.X_OK) for name in names):
            return folder / program.name
    return None
