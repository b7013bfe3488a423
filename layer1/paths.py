"""Where Layer 1 keeps things: the repository, its git-ignored work folder and the cache."""

from __future__ import annotations

import os
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
ASSETS = REPOSITORY / "assets"


def cache_dir() -> Path:
    """Return the cache folder: `LAYER1_CACHE`, else `$XDG_CACHE_HOME/layer1`, else `~/.cache/layer1`."""
    if own := os.environ.get("LAYER1_CACHE"):
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "layer1"


def work_dir() -> Path:
    """Return the git-ignored folder for state, passphrase, logs and staging: `LAYER1_WORK` or `.layer1/`."""
    return Path(os.environ.get("LAYER1_WORK") or REPOSITORY / ".layer1")
