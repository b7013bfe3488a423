"""The guard on plans of the real engine for Flatcar nodes in real domains, with a policy pack and without.

The nodes are never waited for: in this project's copy of the code `node-ready` answers at once.
"""

from __future__ import annotations

import json
import re
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_project import POLICY, Project
from plan_guard_support import guard, secrets_of

from lab import build as lab_image

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

SERVER = "http://10.218.4.1:8019"  # nobody answers there, and nobody is waited for
OLD, NEW = "layer2-mark-4f0c1a77d2", "layer2-mark-99be50ad31"
SAID: list[str] = []


def layer2(mark: str) -> str:
    file = {"path": "/etc/layer2", "mode": 0o600, "contents": {"source": f"data:,{mark}"}}
    return json.dumps({"k3s-1": {"ignition": {"version": "3.4.0"}, "storage": {"files": [file]}}})


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    lab_image.build()
    folder = tmp_path_factory.mktemp("guarded-flatcar")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "key")], check=True)
    project = Project(
        folder / "project",
        f"g{secrets.token_hex(3)}",
        {
            "environment": "lab",
            "hosts": {"home": {"accel": "tcg", "svirt": "none", "memory_hard_limit": False}},
            "network": {"cidr": "10.218.4.0/24", "mode": "isolated"},
            "images": {"flatcar": {"source": "practice"}},
            "k3s": {"installer_url": f"{SERVER}/install.sh", "releases_url": SERVER},
            "defaults": {
                "memory_mib": 512,
                "vcpus": 1,
                "disk_gib": 2,
                "ssh_authorized_keys": [(folder / "key.pub").read_text().strip()],
            },
            "nodes": [{"name": "k3s-1", "os": "flatcar"}, {"name": "k3s-2", "os": "flatcar"}],
        },
    )
    project.config["layer2_ignition"] = layer2(OLD)
    ready = project.program / "layer1" / "node_ready.py"
    ready.write_text(ready.read_text() + "\n\ndef wait(target):\n    return {}\n")
    yield project
    if project.state()["deployment"].get("resources"):
        project.remove_all()


def said(stack: Project, *arguments: str, allow: str = "", code: int = 0) -> str:
    stack.write()
    done = guard(stack, *arguments, allow=allow)
    SAID.append(done.stdout + done.stderr)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def test_a_stack_that_is_made_for_the_first_time_needs_no_leave(stack: Project) -> None:
    text = said(stack, "--enforce", *POLICY)
    assert "2 created" in text
    assert "nothing is lost" in text


def test_a_policy_that_stops_the_plan_is_said_in_its_own_words(stack: Project) -> None:
    with stack.changed() as config:
        config["environment"] = "production"
        text = said(stack, *POLICY, code=1)
    assert "[mandatory]" in text
    assert "asks for no AppArmor profile" in text


def test_layer2s_change_reprovisions_its_node_and_shows_no_content(stack: Project, tmp_path: Path) -> None:
    stack.up()
    assert "2 unchanged" in said(stack, "--enforce", *POLICY)
    summary = tmp_path / "summary.md"
    with stack.changed() as config:
        config["layer2_ignition"] = layer2(NEW)
        text = said(stack, "--enforce", "--markdown", str(summary), code=1)
        said(stack, "--enforce", allow="k3s-1")
    assert "k3s-1  re-provisioned, step 1" in text
    (line,) = [each.strip() for each in text.splitlines() if "[/etc/layer2]" in each]
    assert re.fullmatch(
        r"~ ignition\.config\.merge\[0\]\.storage\.files\[/etc/layer2\]\.contents\.source: "
        r"secret:[0-9a-f]{12} -> secret:[0-9a-f]{12}",
        line,
    )
    SAID.append(summary.read_text())


def test_a_key_that_is_taken_away_is_seen_in_the_config(stack: Project) -> None:
    with stack.changed() as config:
        config["nodes"][1]["updates"] = "stage"
        text = said(stack)
    assert "k3s-2  re-provisioned" in text
    assert re.search(r"systemd\.units\[update-engine\.service\]|storage\.files\[", text), text


def test_a_node_that_is_removed_is_refused(stack: Project) -> None:
    with stack.changed() as config:
        config["nodes"].pop()
        text = said(stack, "--enforce", code=1)
        assert "refused: k3s-2: the node is removed" in text
        said(stack, "--enforce", allow="k3s-2")


def test_no_secret_was_ever_said(stack: Project) -> None:
    words = secrets_of(stack) | {OLD, NEW}
    assert len(words) == 6
    text = "\n".join(SAID)
    assert len(SAID) > 8
    assert not [word for word in words if word in text]
    assert "PRIVATE KEY" not in text
