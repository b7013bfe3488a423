"""One lab-like stack for all engine tests: made once, changed step by step, removed at the end."""

from __future__ import annotations

import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_project import SERVER_PORT, Node, Project

from lab import build as lab_image
from layer1.paths import REPOSITORY

NETWORK = "10.213.7.0/24"
GATEWAY = "10.213.7.1"


@pytest.fixture(scope="session")
def engine_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="layer1-engine-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def operator_key(engine_folder: Path) -> Path:
    private = engine_folder / "operator"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(private)], check=True)
    return private


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The stand-in k3s release, on the address that the network's bridge will have."""
    lab_image.build()
    command = [sys.executable, "-m", "lab", "serve", "--address", GATEWAY, "--port", str(SERVER_PORT)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL) as running:
        yield f"http://{GATEWAY}:{SERVER_PORT}"
        running.terminate()


def lab_config(server: str, public_key: str) -> dict[str, Any]:
    return {
        "environment": "lab",
        "hosts": {"home": {"accel": "tcg", "svirt": "none", "memory_hard_limit": False}},
        "network": {"cidr": NETWORK, "mode": "isolated"},
        "images": {"flatcar": {"source": "practice"}},
        "k3s": {"installer_url": f"{server}/install.sh", "releases_url": server},
        "defaults": {
            "memory_mib": 512,
            "vcpus": 1,
            "disk_gib": 2,
            "ready_timeout_s": 300,
            "ssh_authorized_keys": [public_key],
        },
        "nodes": [{"name": "k3s-1", "os": "flatcar"}],
    }


@pytest.fixture(scope="session")
def project(engine_folder: Path, server: str, operator_key: Path) -> Iterator[Project]:
    public_key = operator_key.with_suffix(".pub").read_text().strip()
    made = Project(engine_folder / "project", f"t{secrets.token_hex(3)}", lab_config(server, public_key))
    yield made
    if made.state()["deployment"].get("resources"):
        made.remove_all()


@pytest.fixture
def node(project: Project, operator_key: Path, tmp_path: Path) -> Node:
    return Node(project.outputs()["nodes"]["k3s-1"], operator_key, tmp_path)
