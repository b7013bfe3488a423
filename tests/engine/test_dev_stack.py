"""The stack files for a real host, as far as a machine without internet can plan them."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest
import yaml
from engine_project import Project

from layer1.images.lockfile import Entry, LockFile
from layer1.paths import REPOSITORY

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]
PREFIX = "layer1:"


def as_shipped(name: str, folder: Path) -> Project:
    """A stack file as it ships, as a stack of its own."""
    shipped = yaml.safe_load((REPOSITORY / f"Pulumi.{name}.yaml").read_text())["config"]
    config = {key.removeprefix(PREFIX): value for key, value in shipped.items()}
    return Project(folder / "project", f"d{secrets.token_hex(3)}", config)


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return as_shipped("dev", tmp_path_factory.mktemp("dev"))


def test_as_shipped_it_asks_for_the_ssh_key(dev: Project) -> None:
    said = dev.pulumi("preview", "--stack", dev.stack, ok=False)
    assert "layer1:defaults.ssh_authorized_keys[0]: is still the placeholder" in said


def test_an_unpinned_installer_stops_the_plan_and_names_the_command(dev: Project, operator_key: Path) -> None:
    dev.config["defaults"]["ssh_authorized_keys"] = [operator_key.with_suffix(".pub").read_text().strip()]
    dev.write()
    said = dev.pulumi("preview", "--stack", dev.stack, ok=False)
    assert "python -m layer1 image pin k3s-installer --version v1.36.4+k3s1" in said
    assert "Traceback" not in said


def test_pinned_it_plans_one_node_with_every_wall(dev: Project) -> None:
    lock = LockFile.load(dev.program / "assets" / "images.lock.yaml")
    # A digest made up for this test, in this test's copy of the lock file alone.
    entry = Entry.model_validate(
        {
            "url": "https://mirror.example/install.sh",
            "sha512": "0" * 128,
            "size_bytes": 1,
            "file_format": "script",
            "pinned_at": "2026-01-01T00:00:00Z",
        }
    )
    lock.with_entry("k3s-installer/v1.36.4+k3s1", entry).save()
    planned = dev.plan()
    assert set(planned) == {"create"}
    assert {"home-flatcar-amd64-image", "home-flatcar-amd64-base", "k3s-1-domain", "k3s-1-ready"} <= planned[
        "create"
    ]
    said = dev.printed[-1]
    assert "4096 MiB (layer1:defaults.memory_mib)" in said
    assert ", kvm" in said
    assert "WEAKER" not in said


def test_the_talos_stack_plans_without_internet_and_without_a_cluster(tmp_path: Path) -> None:
    talos = as_shipped("talos", tmp_path)
    planned = talos.plan()
    assert set(planned) == {"create"}
    assert {"cp-1-domain", "worker-1-domain", "talos-bootstrap", "talos-health"} <= planned["create"]
    said = talos.printed[-1]
    assert "WEAKER" not in said
    assert "python -m layer1 image pin talos --version v1.13.4 --arch amd64" in said
