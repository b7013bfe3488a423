"""Runs a program with the policy pack on the real engine, and reads what the engine says of it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from layer1.paths import REPOSITORY

PACK = REPOSITORY / "policy"
PROGRAMS = Path(__file__).resolve().parent / "programs"
STACK = "judged"
# As the engine prints a violation: "- [mandatory]  rule  (type: resource)".
_VIOLATION = re.compile(r"\[mandatory\]\s+(\S+)\s+\(\S+: (.+)\)$", re.MULTILINE)


class Judged:
    """One program in a folder of its own, with a stack that has no resources."""

    def __init__(self, folder: Path, program: str, config: Mapping[str, Any]) -> None:
        self.folder = folder
        self.environment = {
            **os.environ,
            "PYTHONPATH": f"{REPOSITORY}:{PROGRAMS}",
            "PULUMI_BACKEND_URL": f"file://{folder}/state",
            "PULUMI_CONFIG_PASSPHRASE": "only for this test",
        }
        self.environment.pop("PULUMI_CONFIG_PASSPHRASE_FILE", None)
        (folder / "state").mkdir(parents=True)
        shutil.copy(PROGRAMS / program, folder / "__main__.py")
        (folder / "Pulumi.yaml").write_text("name: layer1\nruntime: python\n")
        self.pulumi("stack", "init", STACK)
        salted = yaml.safe_load((folder / f"Pulumi.{STACK}.yaml").read_text())
        document = {**salted, "config": {f"layer1:{key}": value for key, value in config.items()}}
        (folder / f"Pulumi.{STACK}.yaml").write_text(yaml.safe_dump(document))

    def pulumi(self, *arguments: str, ok: bool = True) -> str:
        done = subprocess.run(
            ["pulumi", *arguments, "--non-interactive", "--color", "never"],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=180,
            stdin=subprocess.DEVNULL,
        )
        said = done.stdout + done.stderr
        assert (done.returncode == 0) == ok, said
        return said

    def preview(self, *arguments: str, ok: bool) -> str:
        return self.pulumi("preview", "--stack", STACK, "--policy-pack", str(PACK), *arguments, ok=ok)

    def up(self, *, ok: bool) -> str:
        arguments = ("--stack", STACK, "--policy-pack", str(PACK), "--yes", "--skip-preview")
        return self.pulumi("up", *arguments, ok=ok)


def violations(said: str) -> set[tuple[str, str]]:
    """The pairs of rule and resource that the engine names."""
    return {(rule, resource) for rule, resource in _VIOLATION.findall(said)}
