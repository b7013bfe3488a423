"""Writes a file that others read, never half of it."""

from __future__ import annotations

import tempfile
from pathlib import Path

from layer1.errors import Layer1Error


def replace(path: Path, text: str) -> None:
    """Put a text in a file's place at once; whoever reads it has the old one or the new one.

    Raises:
        Layer1Error: it cannot be written there.
    """
    try:
        with tempfile.NamedTemporaryFile(
            "w", dir=path.parent, prefix=f".{path.name}-", delete=False, encoding="utf-8"
        ) as file:
            made = Path(file.name)
            file.write(text)
        made.chmod(0o644)  # another user's exporter reads it; it holds no secret
        made.replace(path)
    except OSError as error:
        raise Layer1Error(
            f"{path}: cannot be written ({error.strerror}); name a file in a folder of yours"
        ) from None
