"""Virtual environments, each made from a lock file with hashes."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from toolchain.locks import exclusive
from toolchain.report import SetupError, step

NEEDED = (3, 11)
STAMP = "layer1.lock-sha256"


def wanted_stamp(lock: Path) -> str:
    """Return what the stamp of an environment made from this lock says."""
    python = ".".join(map(str, sys.version_info[:2]))
    return f"{python} {hashlib.sha256(lock.read_bytes()).hexdigest()}\n"


def is_current(venv: Path, stamp: str) -> bool:
    """Say whether the environment was made from this lock; a removed interpreter breaks it."""
    try:
        return (venv / STAMP).read_text() == stamp and (venv / "bin" / "python").exists()
    except OSError:
        return False


def provide_venv(name: str, venv: Path, lock: Path, log: Path) -> None:
    """Make `venv` unless it is already what `lock` says; `name` is for the line that says so."""
    if sys.version_info < NEEDED:
        raise SetupError(
            f"virtual environment: Python {'.'.join(map(str, NEEDED))} or newer is needed, "
            f"{sys.executable} is {sys.version.split()[0]}. Run toolchain/setup.py with a newer one."
        )
    stamp = wanted_stamp(lock)
    with step(f"virtual environment {name}") as line, exclusive(log.with_suffix(".lock")):
        if is_current(venv, stamp):
            line.outcome = "current"
            return
        # The stamp goes first and comes last: an interrupted install is never taken for whole.
        (venv / STAMP).unlink(missing_ok=True)
        # Kept where it runs: pip then installs only what differs, and whoever uses it is not cut off.
        if not _works(venv / "bin" / "python"):
            shutil.rmtree(venv, ignore_errors=True)
            _run([sys.executable, "-m", "venv", str(venv)], log)
        pip = [str(venv / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        _run([*pip, "--require-hashes", "-r", str(lock)], log)
        (venv / STAMP).write_text(stamp)
        line.outcome = f"installed from {lock.name}"


def _works(python: Path) -> bool:
    """Say whether the environment's interpreter is there and of this Python's version."""
    version = ".".join(map(str, sys.version_info[:2]))
    code = f"import sys, pip; sys.exit('.'.join(map(str, sys.version_info[:2])) != '{version}')"
    try:
        return subprocess.run([python, "-c", code], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _run(command: list[str], log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as handle:
        done = subprocess.run(command, stdout=handle, stderr=subprocess.STDOUT, check=False)
    if done.returncode != 0:
        cause = "\n".join(f"  {line}" for line in log.read_text(errors="replace").splitlines()[-6:])
        raise SetupError(
            f"virtual environment: `{' '.join(command[1:4])}` failed:\n{cause}\n"
            "Make pip's package index reachable (Debian and Ubuntu: also the package python3-venv), "
            f"then run setup again.\nThe whole log: {log}"
        )
