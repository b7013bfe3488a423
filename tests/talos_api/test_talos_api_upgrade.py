"""Upgrades by the real talosctl: pull, install, drain, reboot, uncordon."""

from __future__ import annotations

import pytest
from talos_api_support import NEW, OLD, Refusal, Standin, Start, node

from layer1.errors import NodeError
from layer1.talos import api

NAMES = ("cp-1", "cp-2", "w-1")


@pytest.fixture
def cluster(start: Start) -> Standin:
    return start(node("cp-1", etcd="running"), node("cp-2", etcd="running"), node("w-1"))


def upgrade_all(cluster: Standin, timeout_s: float = 12) -> list[str]:
    control_planes, workers = cluster.addresses("cp-1", "cp-2"), cluster.addresses("w-1")
    images = dict.fromkeys([*control_planes, *workers], NEW)
    return api.upgrade_all(cluster.talosconfig, control_planes, workers, images, timeout_s)


def test_one_node_is_upgraded_and_left_schedulable(cluster: Standin) -> None:
    before = api.upgrade(cluster.talosconfig, cluster.address["cp-1"], NEW, 20)
    assert before == api.Running("v1.13.0", "a" * 64)
    after = cluster.node("cp-1")
    assert (after["version"], after["schematic"], after["cordoned"]) == ("v1.13.4", "b" * 64, False)
    assert cluster.calls("Pull", "Upgrade", "Reboot", "PATCH /api/v1/nodes/cp-1") == [
        ("Pull", "cp-1"),
        ("Upgrade", "cp-1"),
        ("PATCH /api/v1/nodes/cp-1", "cp-1"),
        ("Reboot", "cp-1"),
        ("PATCH /api/v1/nodes/cp-1", "cp-1"),
    ]


@pytest.mark.parametrize("image", [OLD, "ghcr.io/siderolabs/installer:v1.13.0", f"{OLD}@sha256:{'0' * 64}"])
def test_a_node_that_runs_its_image_is_left_alone(cluster: Standin, image: str) -> None:
    assert api.upgrade(cluster.talosconfig, cluster.address["cp-1"], image, 20) is None
    assert cluster.calls("Pull", "Upgrade", "Reboot") == []


def test_another_schematic_of_the_same_version_is_an_upgrade(cluster: Standin) -> None:
    image = NEW.replace("v1.13.4", "v1.13.0")
    assert api.upgrade(cluster.talosconfig, cluster.address["cp-1"], image, 20)
    assert cluster.node("cp-1")["schematic"] == "b" * 64


def test_an_image_without_a_version_is_refused(cluster: Standin, refusal: Refusal) -> None:
    error = refusal(api.upgrade, cluster.talosconfig, cluster.address["cp-1"], "registry:5000/installer", 20)
    assert "not an installer image with a version" in error


@pytest.mark.parametrize(
    ("way", "said"),
    [
        ("pull fails", "before the node was touched. talosctl's last words:"),
        ("install fails", "upgrade failed with exit code 1"),
        ("rolls back", "rebooted into v1.13.0, schematic aaaaaaaaaaaa…, not v1.13.4"),
        ("lost", "the node was told to reboot, and did not come back in time"),
    ],
)
def test_a_failed_upgrade_says_what_happened(cluster: Standin, refusal: Refusal, way: str, said: str) -> None:
    cluster.set("cp-1", upgrade=way)
    error = refusal(api.upgrade, cluster.talosconfig, cluster.address["cp-1"], NEW, 4)
    assert said in error
    assert "Its disk was not replaced." in error


def test_an_upgrade_that_talosctl_lost_sight_of_is_looked_at_again(cluster: Standin) -> None:
    cluster.set("w-1", upgrade="unheard")
    via = cluster.addresses("cp-1", "cp-2")
    assert api.upgrade(cluster.talosconfig, cluster.address["w-1"], NEW, 4, via=via)
    assert cluster.node("w-1")["version"] == "v1.13.4"


def test_all_go_one_at_a_time_with_health_between(cluster: Standin) -> None:
    assert upgrade_all(cluster) == cluster.addresses(*NAMES)
    order = [
        name if method == "Upgrade" else "health" for method, name in cluster.calls("Upgrade", "Memory")
    ]  # only `talosctl health` asks for the memory
    assert order == ["health", "cp-1", "health", "cp-2", "health", "w-1", "health"]
    assert {cluster.node(name)["version"] for name in NAMES} == {"v1.13.4"}
    assert upgrade_all(cluster) == []
    assert len(cluster.calls("Upgrade")) == 3


def test_the_first_failure_stops_and_a_second_run_goes_on(cluster: Standin, refusal: Refusal) -> None:
    cluster.set("cp-2", upgrade="install fails")
    error = refusal(upgrade_all, cluster)
    first, second, worker = cluster.addresses(*NAMES)
    assert error.startswith(f"the upgrade stopped at {second}. ")
    assert f"On the wanted version: {first}. Not yet: {second}, {worker}." in error
    assert "run the same command" in error
    assert cluster.node("w-1")["version"] == "v1.13.0"
    cluster.set("cp-2", upgrade="", cordoned=False)
    assert upgrade_all(cluster) == [second, worker]


def test_a_sick_cluster_is_not_upgraded(cluster: Standin, refusal: Refusal) -> None:
    cluster.set("w-1", not_ready=True)
    error = refusal(upgrade_all, cluster, 3)
    assert "not healthy within 3 s" in error
    assert cluster.calls("Pull", "Upgrade", "Reboot") == []


def test_a_node_that_does_not_answer_is_named_before_anything_is_touched(
    cluster: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "CALL_S", 1.0)
    cluster.set("w-1", face="absent")
    with pytest.raises(NodeError, match="it does not say which version it runs within 1 s"):
        upgrade_all(cluster, 3)
    assert cluster.calls("Pull", "Upgrade", "Reboot") == []
