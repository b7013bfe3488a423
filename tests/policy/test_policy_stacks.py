"""The stack files that ship pass the policy pack; one that drops a wall without the word for it does not."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import pytest
import yaml
from engine_project import POLICY, Project
from policy_support import violations

from lab import build as lab_image
from layer1 import sshkeys
from layer1.images.lockfile import Entry, LockFile
from layer1.paths import REPOSITORY
from policy.rules import STRONG_CHOICES, STRONG_WALLS

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]
# A digest made up for this test, in this test's copy of the lock file alone.
INSTALLER = Entry.model_validate(
    {
        "url": "https://mirror.example/install.sh",
        "sha512": "0" * 128,
        "size_bytes": 1,
        "file_format": "script",
        "pinned_at": "2026-01-01T00:00:00Z",
    }
)
OPERATOR = sshkeys.ed25519_public(b"\x01" * 32, "operator")


def shipped(name: str) -> dict[str, Any]:
    """The stack file, with an operator's key in place of what it leaves to the operator."""
    document = yaml.safe_load((REPOSITORY / f"Pulumi.{name}.yaml").read_text())["config"]
    config = {key.removeprefix("layer1:"): value for key, value in document.items()}
    config["defaults"].pop("ssh_authorized_key_files", None)
    config["defaults"]["ssh_authorized_keys"] = [OPERATOR]
    return config


def preview(folder: Path, config: dict[str, Any], *, ok: bool = True) -> str:
    project = Project(folder / "project", f"j{secrets.token_hex(3)}", config)
    if config.get("images", {}).get("flatcar", {}).get("source") == "practice":
        lab_image.build()
    lock = LockFile.load(project.program / "assets" / "images.lock.yaml")
    lock.with_entry("k3s-installer/v1.36.4+k3s1", INSTALLER).save()
    return project.pulumi("preview", "--stack", project.stack, *POLICY, ok=ok)


@pytest.mark.parametrize("name", sorted(path.name.split(".")[1] for path in REPOSITORY.glob("Pulumi.*.yaml")))
def test_a_stack_that_ships_passes(name: str, tmp_path: Path) -> None:
    said = preview(tmp_path, shipped(name))
    assert "✅ layer1" in said
    assert violations(said) == set()


def test_the_lab_without_its_word_is_stopped_and_told_each_wall_and_key(tmp_path: Path) -> None:
    config = shipped("lab")
    del config["environment"]
    said = preview(tmp_path, config, ok=False)
    named = violations(said)
    assert (STRONG_WALLS.name, "k3s-1-domain") in named
    assert {rule for rule, _ in named} == {STRONG_WALLS.name, STRONG_CHOICES}
    for key in ("accel", "svirt", "memory_hard_limit"):
        assert f"layer1:hosts.home.{key}" in said
    assert "layer1:images.flatcar.source" in said
