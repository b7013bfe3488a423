"""Turns Butane into Ignition and refuses what the guest would choke on, before any guest exists."""

from __future__ import annotations

import base64
import gzip
import json
import re
import zlib
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote_to_bytes

from layer1.errors import RenderError
from layer1.processes import last_lines, run

_READ_ONLY = ("/usr", "/bin", "/sbin", "/lib", "/lib64")
"""Below these Flatcar is read-only: Ignition fails there, on the first boot, without a console."""

_QUOTED = re.compile(r"`[^`]*`")
"""How butane quotes a value, which may be secret, in an error."""


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
        said = _QUOTED.sub("`(a value)`", last_lines(result.stderr))
        raise RenderError(f"butane --strict refused the config:\n{said}")
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
    config = _plain_keys(json.loads(ignition))
    refused = read_only_paths(config)
    if refused:
        raise RenderError(
            "the config writes where the node is read-only (Ignition would fail on the first boot): "
            + ", ".join(refused)
            + "; use /etc, /opt or /var"
        )
    others = (config.get("ignition") or {}).get("config") or {}
    for other in [*(others.get("merge") or []), others.get("replace") or {}]:
        inline = inlined(other)
        if inline is not None:
            check(inline)


def read_only_paths(config: dict[str, Any]) -> list[str]:
    """List the paths that a config writes below /usr and its links, in order."""
    storage = config.get("storage") or {}
    places = [
        entry["path"]
        for kind in ("files", "directories", "links")
        for entry in storage.get(kind) or []
        if _is_read_only(entry["path"])
    ]
    return sorted(set(places))


def _is_read_only(path: str) -> bool:
    parts = PurePosixPath(path).parts
    return any(parts[: len(top)] == top for top in (PurePosixPath(place).parts for place in _READ_ONLY))


def _plain_keys(item: Any) -> Any:  # noqa: ANN401
    """Write every key in small letters: Ignition (Go) takes `Storage` for `storage`."""
    if isinstance(item, dict):
        return {str(key).lower(): _plain_keys(value) for key, value in item.items()}
    return [_plain_keys(value) for value in item] if isinstance(item, list) else item


def inlined(other: dict[str, Any]) -> str | None:
    """Return the text of a config given as a data URL, None for one that is fetched."""
    source = other.get("source") or ""
    if not source.startswith("data:"):
        return None
    header, _, body = source.partition(",")
    data = unquote_to_bytes(body)
    try:
        if header.endswith(";base64"):
            data = base64.b64decode(data)
        if other.get("compression") == "gzip":
            data = gzip.decompress(data)
        return data.decode()
    except (ValueError, OSError, EOFError, zlib.error):
        raise RenderError("a config that is merged in cannot be decoded (base64, gzip or UTF-8)") from None
