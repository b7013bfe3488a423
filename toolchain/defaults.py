"""The embedded state backend and its passphrase, for those who bring none of their own."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from toolchain.report import SetupError


def provide_state(work: Path) -> Path:
    """Return the folder of the file backend, readable by its owner only."""
    state = work / "state"
    state.mkdir(parents=True, exist_ok=True)
    state.chmod(0o700)
    return state


def provide_passphrase(work: Path) -> Path:
    """Return the file with the passphrase, made once: a new one would lock out every secret in the state."""
    path = work / "passphrase"
    work.mkdir(parents=True, exist_ok=True)
    try:
        # Complete under another name first: an interrupted setup must not leave an empty passphrase.
        fresh = work / f".passphrase.{os.getpid()}"
        handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
        try:
            os.link(fresh, path)
        except FileExistsError:
            path.chmod(0o600)
        finally:
            fresh.unlink()
    except OSError as error:
        raise SetupError(
            f"passphrase: {path}: {error.strerror}. Make {work} writable, then run setup again."
        ) from error
    return path
