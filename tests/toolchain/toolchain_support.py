"""A machine of our own making, and the schemas of the built plugins."""

from __future__ import annotations

import json
import os
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from layer1.paths import work_dir
from toolchain.programs import Program

BIN = work_dir().absolute() / "bin"


class FakeMachine:
    """Temporary folders in place of PATH, home, cache, work folder and recipes."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tools, self.cache, self.work, self.recipes = (
            root / name for name in ("tools", "cache", "work", "recipes")
        )
        for folder in (self.tools, self.recipes / "tool"):
            folder.mkdir(parents=True)
        (self.recipes / "tool" / "go.mod").write_text("module tool\n")
        monkeypatch.setenv("PATH", f"{self.tools}:/usr/bin:/bin")
        monkeypatch.setenv("HOME", str(root / "home"))
        monkeypatch.delenv("PULUMI_HOME", raising=False)

    def script(self, name: str, body: str) -> Path:
        """Put a shell script on PATH."""
        path = self.tools / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
        return path

    def go(self, build: str, version: str = "go1.26.9") -> None:
        """Put a `go` on PATH; `build` is what its build does, with `$out` as the file to make."""
        self.script(
            "go",
            f"""case $1 in
            env) echo {version}; exit ;;
            esac
            while [ "$1" != -o ]; do shift; done
            out=$2
            {build}""",
        )

    def program(self, **changes: Any) -> Program:
        """Return the recipe of a small program."""
        settings: dict[str, Any] = {
            "name": "tool",
            "version": "1.2.3",
            "folder": "tool",
            "recipes": self.recipes,
        }
        return Program(**{**settings, **changes})


@cache
def schema(plugin: str) -> dict[str, Any]:
    """Return the schema that the plugin in the work folder reports."""
    done = subprocess.run(
        [BIN / "pulumi", "package", "get-schema", BIN / f"pulumi-resource-{plugin}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PULUMI_SKIP_UPDATE_CHECK": "true"},
    )
    assert done.returncode == 0, f"run `python3 toolchain/setup.py` first: {done.stderr}"
    document: dict[str, Any] = json.loads(done.stdout)
    return document
