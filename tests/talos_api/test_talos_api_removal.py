"""A control plane leaves etcd before its machine goes, unless the rest would stop."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from typing import Any

import pytest
from talos_api_support import Refusal, Standin, Start, node

from layer1.talos import api, kubernetes, membership, retire
from layer1.talos.machine_config import Role
from toolchain.programs import PROGRAMS, TEST_PROGRAMS, by_name


def three(start: Start) -> Standin:
    return start(*(node(name, etcd="running") for name in ("cp-1", "cp-2", "cp-3")))


def remove(cluster: Standin, name: str, *others: str, timeout_s: float = 20) -> str:
    return membership.leave(cluster.talosconfig, cluster.address[name], cluster.addresses(*others), timeout_s)


def test_a_healthy_member_leaves_by_itself(start: Start) -> None:
    cluster = three(start)
    assert remove(cluster, "cp-3", "cp-1", "cp-2").endswith("left etcd; 2 members stay")
    assert cluster.calls("EtcdLeaveCluster", "EtcdRemoveMemberByID") == [("EtcdLeaveCluster", "cp-3")]
    assert remove(cluster, "cp-3", "cp-1", "cp-2").endswith("etcd does not have it as a member")


def test_a_dead_member_is_struck_off_by_the_others(start: Start) -> None:
    cluster = three(start)
    cluster.set("cp-3", face="absent")
    assert "struck off" in remove(cluster, "cp-3", "cp-1", "cp-2")
    assert cluster.calls("EtcdRemoveMemberByID") == [("EtcdRemoveMemberByID", "cp-1")]


def test_the_members_are_asked_of_whoever_answers(start: Start) -> None:
    cluster = start(*(node(f"cp-{number}", etcd="running") for number in range(1, 6)))
    cluster.set("cp-1", face="absent")
    assert "left etcd" in remove(cluster, "cp-5", "cp-1", "cp-2", "cp-3", "cp-4")
    assert cluster.node("cp-5")["etcd"] == ""


def test_the_majority_of_the_rest_is_kept(start: Start, refusal: Refusal) -> None:
    cluster = three(start)
    cluster.set("cp-2", etcd="sick")
    error = refusal(remove, cluster, "cp-3", "cp-1", "cp-2")
    assert "of the 2 etcd members that stay, 2 must be healthy" in error
    assert f"{cluster.address['cp-2']} is not" in error
    assert cluster.node("cp-3")["etcd"] == "running"
    assert "struck off" in remove(cluster, "cp-2", "cp-1", "cp-3"), "the sick one may go"


def test_a_learner_is_no_vote(start: Start, refusal: Refusal) -> None:
    cluster = start(node("cp-1", etcd="running"), node("cp-2", etcd="learner"))
    assert "no other etcd member has a vote yet" in refusal(remove, cluster, "cp-1", "cp-2")


def test_etcd_without_a_majority_refuses(
    start: Start, refusal: Refusal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(membership, "CALL_S", 2.0)
    cluster = three(start)
    for name in ("cp-1", "cp-2"):
        cluster.set(name, etcd="sick")
    error = refusal(remove, cluster, "cp-3", "cp-1", "cp-2")
    assert "etcd has no majority" in error
    assert cluster.address["cp-1"] in error


def test_a_cluster_of_which_nobody_answers_loses_no_copy(
    start: Start, refusal: Refusal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(membership, "CALL_S", 1.0)
    cluster = three(start)
    for name in ("cp-1", "cp-2", "cp-3"):
        cluster.set(name, face="absent")
    error = refusal(remove, cluster, "cp-3", "cp-1", "cp-2")
    assert "no other control plane's etcd answers" in error
    assert "connection refused" in error
    assert "destroy the stack" in error


def test_the_only_one_is_the_whole_cluster(start: Start, refusal: Refusal) -> None:
    cluster = start(node("cp-1", etcd="running"))
    assert "it is the only control plane" in refusal(remove, cluster, "cp-1")
    assert cluster.calls() == []


def test_a_member_is_waited_for_until_it_votes(start: Start) -> None:
    cluster = start(node("cp-1", etcd="running"), node("cp-2", etcd=""))
    cluster.later(0.5, "cp-2", etcd="learner")
    cluster.later(1.5, "cp-2", etcd="running")
    began = time.monotonic()
    membership.wait_member(cluster.talosconfig, cluster.address["cp-2"], 20)
    assert time.monotonic() - began > 1.4


def test_one_that_does_not_join_is_told_with_its_last_answer(start: Start, refusal: Refusal) -> None:
    cluster = start(node("cp-1", etcd="running"), node("cp-2", etcd=""), node("worker-1"))
    error = refusal(membership.wait_member, cluster.talosconfig, cluster.address["cp-2"], 1)
    assert "is no healthy member of etcd within 1 s" in error
    assert "its service etcd is not running" in error


# What the stack no longer names.
def member(cluster: Standin, name: str) -> retire.Member:
    role = Role.WORKER if name.startswith("w") else Role.CONTROLPLANE
    return retire.Member(name=name, address=cluster.address[name], role=role)


def run_retire(cluster: Standin, before: str, now: str) -> list[str]:
    gone = retire.retire(
        cluster.talosconfig,
        [member(cluster, name) for name in before.split()],
        [member(cluster, name) for name in now.split()],
        10,
    )
    return [each.name for each in gone]


def six(start: Start) -> Standin:
    planes = (node(f"cp-{number}", etcd="running") for number in range(1, 4))
    return start(*planes, *(node(f"worker-{number}") for number in range(1, 4)))


def test_who_stays_is_left_alone(start: Start) -> None:
    cluster = six(start)
    assert run_retire(cluster, "cp-1 cp-2 cp-3", "cp-1 cp-2 cp-3 worker-1") == []
    assert cluster.calls() == []


def test_two_control_planes_leave_one_after_the_other(start: Start) -> None:
    cluster = six(start)
    assert run_retire(cluster, "cp-1 cp-2 cp-3 worker-1", "cp-1 worker-1") == ["cp-2", "cp-3"]
    assert cluster.calls("EtcdLeaveCluster") == [("EtcdLeaveCluster", "cp-2"), ("EtcdLeaveCluster", "cp-3")]
    assert [cluster.node(name)["deleted"] for name in ("cp-1", "cp-2", "cp-3")] == [False, True, True]
    assert run_retire(cluster, "cp-1 cp-2 cp-3 worker-1", "cp-1 worker-1") == ["cp-2", "cp-3"], "again"


def test_a_worker_is_drained_before_kubernetes_forgets_it(start: Start) -> None:
    cluster = six(start)
    assert run_retire(cluster, "cp-1 worker-1 worker-2", "cp-1 worker-2") == ["worker-1"]
    order = [method for method, _ in cluster.calls("Shutdown", "DELETE /api/v1/nodes/worker-1")]
    assert order == ["Shutdown", "DELETE /api/v1/nodes/worker-1"]
    assert cluster.node("worker-1")["face"] == "absent"
    assert not cluster.node("worker-2")["deleted"]


@pytest.mark.parametrize("how", [{"face": "absent"}, {"stays": True}])
def test_a_worker_that_is_dead_or_does_not_go_is_forgotten_all_the_same(
    how: dict[str, Any], start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retire, "_DRAIN_S", 1.0)
    cluster = six(start)
    cluster.set("worker-1", **how)
    assert run_retire(cluster, "cp-1 worker-1", "cp-1") == ["worker-1"]
    assert cluster.node("worker-1")["deleted"]


def test_a_node_of_somebody_else_is_not_touched(start: Start) -> None:
    cluster = six(start)
    assert run_retire(cluster, "cp-1 worker-1", "cp-1") == ["worker-1"]
    assert not cluster.node("worker-3")["deleted"]


def test_a_whole_cluster_is_not_exchanged_at_once(start: Start, refusal: Refusal) -> None:
    cluster = six(start)
    error = refusal(run_retire, cluster, "cp-1 worker-1", "cp-2 worker-1")
    assert "no control plane of this cluster would stay" in error
    assert cluster.calls() == []


def test_a_control_plane_keeps_its_address(start: Start, refusal: Refusal) -> None:
    cluster = six(start)
    before = [member(cluster, name) for name in ("cp-1", "cp-2", "cp-3")]
    moved = [*before[:2], replace(before[2], address=cluster.address["worker-3"])]
    error = refusal(retire.retire, cluster.talosconfig, before, moved, 5)
    assert error.startswith("cp-3: a control plane keeps its address")
    assert cluster.calls() == []


def test_a_sick_rest_stops_the_removal(start: Start, refusal: Refusal) -> None:
    cluster = six(start)
    cluster.set("cp-2", etcd="sick")
    error = refusal(run_retire, cluster, "cp-1 cp-2 cp-3 worker-1", "cp-1 cp-2")
    assert "of the 2 etcd members that stay, 2 must be healthy" in error
    assert not cluster.node("cp-3")["deleted"]
    assert cluster.calls("Shutdown") == []


def test_a_kubernetes_that_does_not_answer_is_told(start: Start, refusal: Refusal) -> None:
    cluster = six(start)
    kubeconfig = api.kubeconfig(cluster.talosconfig, cluster.address["cp-1"])
    broken = re.sub(r"(server: https://[0-9.]+):\d+", r"\1:1", kubeconfig)
    error = refusal(kubernetes.delete_node, broken, "worker-1")
    assert "could not be asked to forget it (ConnectionError)" in error
    for name in ("cp-1", "cp-2"):
        cluster.set(name, etcd="sick")
    assert "did not forget it: 503, etcd has no leader" in refusal(
        kubernetes.delete_node, kubeconfig, "worker-1"
    )


def test_the_stand_in_is_not_part_of_a_users_setup() -> None:
    assert {program.name for program in TEST_PROGRAMS} == {"talos-standin"}
    assert by_name([]) == list(PROGRAMS)
