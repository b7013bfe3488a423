"""One lab-like stack of the audit's own, on the real engine: made once, broken and mended, then removed."""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from engine_project import SERVER_PORT, Node, Project

from lab import build as lab_image
from layer1 import audit, config
from layer1.findings import Finding
from layer1.paths import REPOSITORY

NETWORK, GATEWAY = "10.215.3.0/24", "10.215.3.1"


@pytest.fixture(scope="session")
def audit_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="layer1-audit-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def audited_key(audit_folder: Path) -> Path:
    private = audit_folder / "operator"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(private)], check=True)
    return private


@pytest.fixture(scope="session")
def audited(audit_folder: Path, audited_key: Path) -> Iterator[Project]:
    lab_image.build()
    server = f"http://{GATEWAY}:{SERVER_PORT}"
    stack = {
        "environment": "lab",
        "hosts": {"home": {"accel": "tcg", "svirt": "none", "memory_hard_limit": False}},
        "network": {"cidr": NETWORK, "mode": "isolated"},
        "images": {"flatcar": {"source": "practice"}},
        "k3s": {"installer_url": f"{server}/install.sh", "releases_url": server},
        "defaults": {
            "memory_mib": 512,
            "vcpus": 1,
            "disk_gib": 2,
            "ready_timeout_s": 600,
            "ssh_authorized_keys": [audited_key.with_suffix(".pub").read_text().strip()],
        },
        "nodes": [{"name": "k3s-1", "os": "flatcar"}],
    }
    command = [sys.executable, "-m", "lab", "serve", "--address", GATEWAY, "--port", str(SERVER_PORT)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL) as running:
        made = Project(audit_folder / "project", f"a{secrets.token_hex(3)}", stack)
        try:
            made.up()
            yield made
        finally:
            if made.state()["deployment"].get("resources"):
                made.remove_all()
            running.terminate()


@pytest.fixture
def audited_node(audited: Project, audited_key: Path, tmp_path: Path) -> Node:
    return Node(audited.outputs()["nodes"]["k3s-1"], audited_key, tmp_path)


@pytest.fixture(scope="session")
def look(audited: Project) -> Callable[[], list[Finding]]:
    """Audits the stack, by the interface that other programs take."""
    stack = config.load(audited.stack, audited.config, {})
    raw = audited.pulumi("stack", "output", "--json", "--show-secrets")
    audited.printed.pop()  # it holds secrets
    outputs = audit.Outputs.of(json.loads(raw))
    return lambda: audit.run(stack, outputs)
