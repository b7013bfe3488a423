"""Turns Butane into Ignition and refuses what the guest would choke on, before any guest exists."""

from __future__ import annotations

import base64
import gzip
import json
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote_to_bytes

from layer1.errors import RenderError
from layer1.processes import last_lines, run

_READ_ONLY = ("/usr", "/bin", "/sbin", "/lib", "/lib64")
"""Below these Flatcar is read-only: Ignition fails there, on the first boot, without a console."""


def from_butane(butane: str) -> str:
    """Translate a Butane config with `butane --strict` and check the result.

    Args:
        butane: the config; secret, so it goes by standard input.

    Returns:
        The Ignition config as JSON text.

    Raises:
        RenderError: butane, ignition-validate or our own checks refuse it.
    """
    result = run(["butane", "--strict"], stdin=butane)
    if result.returncode != 0:
        raise RenderError(f"butane --strict refused the config:\n{last_lines(result.stderr)}")
    check(result.stdout)
    return result.stdout


def check(ignition: str) -> None:
    """Check an Ignition config with the guest's own validator, then for writes to read-only places.

    Merged configs that are inlined (Layer 2's) are checked the same way.

    Raises:
        RenderError: naming each path that cannot be written.
    """
    result = run(["ignition-validate", "-"], stdin=ignition)
    if result.returncode != 0:
        raise RenderError(
            f"ignition-validate refused the config:\n{last_lines(result.stdout + result.stderr)}"
        )
    config = json.loads(ignition)
    refused = read_only_paths(config)
    if refused:
        raise RenderError(
            "the config writes where the node is read-only (Ignition would fail on the first boot): "
            + ", ".join(refused)
            + "; use /etc, /opt or /var"
        )
    for merged in config.get("ignition", {}).get("config", {}).get("merge", []):
        inline = _inline(merged)
        if inline is not None:
            check(inline)


def read_only_paths(config: dict[str, Any]) -> list[str]:
    """List the paths that a config writes below /usr and its links, in order."""
    storage = config.get("storage", {})
    places = [
        entry["path"]
        for kind in ("files", "directories", "links")
        for entry in storage.get(kind, [])
        if _is_read_only(entry["path"])
    ]
    return sorted(set(places))


def _is_read_only(path: str) -> bool:
    parts = PurePosixPath(path).parts
    return any(parts[: len(top)] == top for top in (PurePosixPath(place).parts for place in _READ_ONLY))


def _inline(merged: dict[str, Any]) -> str | None:
    """Return the text of a merged config given as a data URL, None for one that is fetched."""
    source = merged.get("source") or ""
    if not source.startswith("data:"):
        return None
    header, _, body = source.partition(",")
    data = unquote_to_bytes(body)
    if header.endswith(";base64"):
        data = base64.b64decode(data)
    if merged.get("compression") == "gzip":
        data = gzip.decompress(data)
    return data.decode()
