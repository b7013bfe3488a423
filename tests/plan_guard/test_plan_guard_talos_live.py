"""The guard on plans of the real engine for a Talos cluster in real domains; a stand-in plays the nodes."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_project import Project, virsh
from plan_guard_support import guard, secrets_of
from talos_project import own_addresses, provide_image, running_nodes, talos_node, talos_project

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

PLANES = {"cp-1": "10.218.3.11", "cp-2": "10.218.3.12", "cp-3": "10.218.3.13"}
ADDRESSES = {**PLANES, "worker-1": "10.218.3.21"}
VIRTUAL_IP = "10.218.3.5"
SAID: list[str] = []
"""Everything that the guard said."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """The cluster, made once; no test changes it."""
    folder = tmp_path_factory.mktemp("guarded")
    nodes = [talos_node(name, ADDRESSES) for name in ADDRESSES]
    nodes[3]["data_disks"] = [{"name": "db", "size_gib": 1}]
    project = talos_project(folder, "10.218.3.0/24", nodes, virtual_ip=VIRTUAL_IP)
    project.config["images"]["talos"]["version"] = "v1.13.4"
    provide_image(project, "v1.13.4")
    try:
        here = ADDRESSES | {"the virtual address": VIRTUAL_IP}
        plan = [talos_node(name, ADDRESSES) for name in ADDRESSES]
        with own_addresses(here), running_nodes(project, plan, tmp_path_factory.mktemp("secrets")):
            project.up()
        yield project
    finally:
        if project.state()["deployment"].get("resources"):
            project.remove_all()


def said(cluster: Project, *arguments: str, allow: str = "", code: int = 0) -> str:
    cluster.write()
    done = guard(cluster, *arguments, allow=allow)
    SAID.append(done.stdout + done.stderr)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def impacts(text: str) -> dict[str, tuple[str, int | None]]:
    return {node["name"]: (node["impact"], node["step"]) for node in json.loads(text)["nodes"]}


def test_nothing_changes(cluster: Project) -> None:
    text = said(cluster, "--enforce")
    assert "4 unchanged" in text
    assert "nothing is lost" in text


def test_memory_restarts_the_control_planes_one_after_the_other(cluster: Project) -> None:
    with cluster.changed() as config:
        config["defaults"]["memory_mib"] = 2304
        document = said(cluster, "--json", "--enforce")
        text = said(cluster)
    assert impacts(document) == {
        "home": ("unchanged", None),
        "cp-1": ("restarted", 1),
        "cp-2": ("restarted", 2),
        "cp-3": ("restarted", 3),
        "worker-1": ("restarted", 1),
    }
    assert "memory in MiB 2048 to 2304 (layer1:defaults.memory_mib)" in text
    assert "etcd is without this member until it is back" in text


def test_one_control_plane_may_get_a_new_disk_and_all_of_them_may_not(cluster: Project) -> None:
    with cluster.changed() as config:
        config["nodes"][1]["disk_gib"] = 11
        document = said(cluster, "--json", "--enforce")
    assert impacts(document)["cp-2"] == ("re-provisioned", 1)
    with cluster.changed() as config:
        config["defaults"]["disk_gib"] = 11
        refused = said(cluster, "--enforce", code=1)
        assert "3 of 3 control planes lose their root disk" in refused
        assert f"make up STACK={cluster.stack} ALLOW=cp-1,cp-2,cp-3" in refused
        said(cluster, "--enforce", allow="cp-1,cp-2", code=1)
        said(cluster, "--enforce", allow="cp-1, cp-2, cp-3")
        said(cluster, "--enforce", "--allow", "cp-1,cp-2,cp-3,cp-9", code=2)
        said(cluster)


def test_another_network_names_every_node_on_it(cluster: Project) -> None:
    with cluster.changed() as config:
        config["network"]["mode"] = "nat"
        refused = said(cluster, "--enforce", code=1)
    assert "the network on home is replaced under running nodes" in refused
    assert "mode none to nat (layer1:network.mode)" in refused
    assert refused.rstrip().endswith("ALLOW=cp-1,cp-2,cp-3,worker-1")


def test_an_older_version_is_refused(cluster: Project) -> None:
    with cluster.changed() as config:
        config["images"]["talos"]["version"] = "v1.13.0"
        refused = said(cluster, "--enforce", code=1)
        said(cluster, "--enforce", allow=",".join(ADDRESSES))
    assert "v1.13.4 to v1.13.0" in refused
    assert refused.rstrip().endswith("ALLOW=cp-1,cp-2,cp-3,worker-1")
    assert re.search(r"machine\.install\.image: \S+:v1\.13\.4 -> \S+:v1\.13\.0", refused)
    assert "re-provisioned" not in refused


def test_a_changed_machine_config_shows_its_keys_alone(cluster: Project, tmp_path: Path) -> None:
    summary = tmp_path / "summary.md"
    with cluster.changed() as config:
        config["talos"]["time_servers"] = ["192.0.2.77"]
        text = said(cluster, "--enforce", "--markdown", str(summary))
        again = tmp_path / "again.md"
        said(cluster, "--markdown", str(again))
    assert "updated in place" in text
    lines = [line for line in text.splitlines() if "servers" in line]
    assert lines
    assert all(re.search(r"secret:[0-9a-f]{12}$", line) for line in lines), lines
    assert "192.0.2.77" not in text
    assert "secret #1" in summary.read_text()
    assert again.read_text() == summary.read_text(), "the same plan, the same summary"


def test_a_data_disk_that_goes_is_said_with_the_engines_own_refusal(cluster: Project) -> None:
    with cluster.changed() as config:
        del config["nodes"][3]["data_disks"]
        text = said(cluster, "--enforce", code=1)
    assert "cannot be deleted" in text
    assert "refused: worker-1: data disks go" in text
    assert "worker-1-data-db.qcow2" in text
    assert "worker-1-data-db.qcow2" in virsh("vol-list", cluster.prefix)


def test_a_wrong_key_is_the_engines_error_and_no_plan(cluster: Project) -> None:
    with cluster.changed() as config:
        config["talos"]["version"] = "v1.13.0"
        text = said(cluster, code=1)
    assert "layer1:talos.version" in text
    assert "refused:" not in text


def test_without_an_engine_that_answers_its_words_are_passed_on(cluster: Project) -> None:
    with cluster.changed(PULUMI_CONFIG_PASSPHRASE="wrong"):
        done = guard(cluster)
    assert done.returncode == 1
    assert "incorrect passphrase" in done.stderr


def test_make_asks_the_guard_before_the_engine() -> None:
    recipe = subprocess.run(
        ["make", "--dry-run", "up", "STACK=lab", "ALLOW=k3s-1"], capture_output=True, text=True, check=True
    ).stdout
    assert 0 < recipe.index("layer1 guard --stack lab") < recipe.index("pulumi up --stack lab")
    assert "--enforce" in recipe[recipe.index("layer1 guard") : recipe.index("pulumi up")]


def test_no_secret_was_ever_said(cluster: Project) -> None:
    words = secrets_of(cluster)
    assert len(words) > 10
    text = "\n".join(SAID)
    assert len(SAID) > 10
    assert not [word for word in words if word in text]
