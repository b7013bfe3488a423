"""Debian trees that boards of the tests boot from; each made once and kept in the cache."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from pathlib import Path

from layer1.paths import cache_dir

RELEASE = "bookworm"


def debian_tree(packages: str) -> Path:
    """Return a minimal Debian with these packages (commas between); the first run takes a minute or two."""
    folder = cache_dir().absolute() / "debian-trees"
    made = folder / f"{RELEASE}-{packages.replace(',', '-')}"
    if made.exists():
        return made
    folder.mkdir(parents=True, exist_ok=True)
    scratch = folder / f"making-{os.getpid()}"
    sources = [Path("/etc/apt/sources.list.d/debian.sources"), Path("/etc/apt/sources.list")]
    own = os.environ.get("LAB_APT_SOURCES") or next(str(path) for path in sources if path.exists())
    excludes = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale")]
    options = ["--mode=root", "--variant=minbase", "--format=directory", f"--include={packages}"]
    recommends = '--aptopt=APT::Install-Recommends "false"'
    subprocess.run(
        ["mmdebstrap", *options, *excludes, recommends, RELEASE, str(scratch), own],
        check=True,
        capture_output=True,
        timeout=580,
    )
    with contextlib.suppress(OSError):  # another run was faster
        scratch.rename(made)
    shutil.rmtree(scratch, ignore_errors=True)
    return made
