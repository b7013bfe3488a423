"""A Talos cluster's life on the real engine and libvirtd; a stand-in speaks the nodes' real API."""

from __future__ import annotations

import json
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_project import ProcessListWatch, Project, virsh
from talos_project import (
    Nodes,
    cluster_secrets,
    own_addresses,
    provide_image,
    running_nodes,
    talos_node,
    talos_project,
)

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

ADDRESSES = {"cp-1": "10.214.9.11", "worker-1": "10.214.9.21", "worker-2": "10.214.9.22"}


@pytest.fixture(scope="module")
def addresses() -> Iterator[None]:
    with own_addresses(ADDRESSES):
        yield


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    nodes = [talos_node("cp-1", ADDRESSES), talos_node("worker-1", ADDRESSES)]
    project = talos_project(tmp_path_factory.mktemp("talos"), "10.214.9.0/24", nodes)
    yield project
    if project.state()["deployment"].get("resources"):
        project.destroy()


@pytest.fixture(scope="module")
def nodes(cluster: Project, addresses: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    # Not ready at first: bootstrap is to be tried again.
    refusals = [{"code": "FailedPrecondition", "message": "time is not in sync yet", "times": 2}]
    plan = [
        talos_node("cp-1", ADDRESSES) | {"standin": {"bootstrap": refusals}},
        talos_node("worker-1", ADDRESSES),
        talos_node("worker-2", ADDRESSES) | {"standin": {"deleted": True}},
    ]
    with running_nodes(cluster, plan, tmp_path_factory.mktemp("secrets")) as running:
        yield running


def test_preview_needs_no_cluster_and_names_the_command_that_pins(cluster: Project) -> None:
    planned = cluster.plan()
    assert set(planned) == {"create"}
    assert {"talos-secrets", "cp-1-domain", "worker-1-domain", "talos-bootstrap"} <= planned["create"]
    said = cluster.pulumi("preview", "--stack", cluster.stack)
    assert "python -m layer1 image pin talos --version v1.13.0" in said


def test_up_bootstraps_once_and_waits_for_health(cluster: Project, nodes: Nodes) -> None:
    words = [word for word in cluster_secrets(cluster).split() if len(word) > 40]
    with ProcessListWatch(tuple(words)) as watch:
        cluster.up()
    assert watch.looks > 20
    assert watch.seen == set()
    assert set(nodes.calls("Bootstrap")) == {"cp-1"}
    assert len(nodes.calls("Bootstrap")) == 3, "refused twice, then done"
    assert nodes.calls("Upgrade") == []
    outputs = cluster.outputs()["nodes"]
    assert [outputs[name]["role"] for name in ("cp-1", "worker-1")] == ["controlplane", "worker"]
    assert outputs["cp-1"]["ssh_user"] is None
    assert virsh("domstate", f"{cluster.prefix}-cp-1").strip() == "running"


def test_nothing_changes_by_itself(cluster: Project, nodes: Nodes) -> None:
    arguments = ("--stack", cluster.stack, "--yes", "--skip-preview", "--expect-no-changes")
    cluster.pulumi("up", *arguments)
    cluster.pulumi("refresh", *arguments)
    assert cluster.plan() == {}


def test_access_is_secret_and_works(cluster: Project, nodes: Nodes, tmp_path: Path) -> None:
    plain = json.loads(cluster.pulumi("stack", "output", "--json"))
    assert plain["talosconfig"] == "[secret]"
    assert plain["kubeconfig"] == "[secret]"
    shown = subprocess.run(
        ["pulumi", "stack", "output", "talosconfig", "--show-secrets"],
        cwd=cluster.program, env=cluster.environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    config = tmp_path / "talosconfig"
    config.touch(mode=0o600)
    config.write_text(shown.stdout)
    version = subprocess.run(
        ["talosctl", "--talosconfig", config, "version", "--short"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "v1.13.0" in version.stdout


def test_a_second_worker_touches_no_other_node(cluster: Project, nodes: Nodes) -> None:
    cluster.config["nodes"].append(talos_node("worker-2", ADDRESSES))
    planned = cluster.plan()
    assert planned["update"] == {"talos-members", "talos-health", "talos-upgrade"}
    assert set(planned) == {"create", "update"}
    assert {name.split("-")[0] + "-" + name.split("-")[1] for name in planned["create"]} == {"worker-2"}
    nodes.set("worker-2", deleted=False)
    cluster.up()
    assert cluster.plan() == {}
    assert len(nodes.calls("Bootstrap")) == 3


def test_a_changed_patch_goes_to_running_nodes_and_replaces_no_disk(cluster: Project, nodes: Nodes) -> None:
    patch = cluster.program / "assets/talos/common.yaml"
    patch.write_text("# a remark\n" + patch.read_text())
    assert cluster.plan() == {}
    patch.write_text(patch.read_text().replace("podPidsLimit: 4096", "podPidsLimit: 2048"))
    planned = cluster.plan()
    every = ADDRESSES
    assert planned["update"] == {f"{n}-config" for n in every} | {f"{n}-applied" for n in every} | {
        "cp-1-member"
    }
    assert planned["replace"] == {f"{n}-seed-{what}" for n in every for what in ("iso", "volume", "unstage")}
    assert set(planned) == {"update", "replace"}
    before = nodes.calls("ApplyConfiguration")
    cluster.up()
    assert sorted(nodes.calls("ApplyConfiguration")[len(before) :]) == sorted(ADDRESSES)
    assert cluster.plan() == {}


def test_a_new_version_upgrades_in_place_control_plane_first(cluster: Project, nodes: Nodes) -> None:
    provide_image(cluster, "v1.13.4")
    cluster.config["images"]["talos"]["version"] = "v1.13.4"
    planned = cluster.plan()
    touched = planned.get("replace", set()) | planned.get("delete", set())
    assert not [name for name in touched if name.endswith(("-root", "-domain"))], touched
    cluster.up()
    assert nodes.calls("Upgrade") == ["cp-1", "worker-1", "worker-2"]
    versions = {each["version"] for each in nodes.say({"state": True})["nodes"]}
    assert versions == {"v1.13.4"}
    assert cluster.plan() == {}


def test_no_secret_is_in_plain_text_anywhere(cluster: Project, nodes: Nodes) -> None:
    words = {word for word in cluster_secrets(cluster).split() if len(word) > 40}
    assert len(words) > 5
    places = {"the exported state": json.dumps(cluster.state())}
    places |= {f"output {index}": text for index, text in enumerate(cluster.printed)}
    for path in cluster.folder.rglob("*"):
        if path.is_file() and stat.S_IMODE(path.stat().st_mode) & 0o077 and path.stat().st_size < 2**24:
            places[str(path)] = path.read_bytes().decode(errors="replace")
    for name, text in places.items():
        assert not [word for word in words if word in text], f"{name} holds a secret"


def test_destroy_works_when_the_cluster_is_dead_and_leaves_nothing(cluster: Project, nodes: Nodes) -> None:
    for name in ADDRESSES:
        nodes.set(name, face="absent")
    cluster.destroy()
    assert cluster.state()["deployment"].get("resources") in (None, [])
    assert cluster.prefix not in virsh("list", "--all", "--name")
    assert cluster.prefix not in virsh("pool-list", "--all", "--name") + virsh("net-list", "--all", "--name")
    assert not (Path("/var/lib/libvirt/images") / cluster.prefix).exists()
    assert list((cluster.folder / "work/seeds").iterdir()) == []
