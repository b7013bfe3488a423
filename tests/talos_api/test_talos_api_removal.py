"""A control plane leaves etcd before its machine goes, unless the rest would stop."""

from __future__ import annotations

import time

from talos_api_support import Refusal, Standin, Start, node

from layer1.talos import api
from toolchain.programs import PROGRAMS, TEST_PROGRAMS, by_name


def three(start: Start) -> Standin:
    return start(*(node(name, etcd="running") for name in ("cp-1", "cp-2", "cp-3")))


def remove(cluster: Standin, name: str, *others: str, **limits: float) -> api.Removal:
    return api.remove_control_plane(
        cluster.talosconfig, cluster.address[name], cluster.addresses(*others), **limits
    )


def test_a_healthy_member_leaves_by_itself(start: Start) -> None:
    cluster = three(start)
    removal = remove(cluster, "cp-3", "cp-1", "cp-2")
    assert removal.done
    assert removal.said.endswith("left etcd; 2 members stay")
    assert cluster.calls("EtcdLeaveCluster", "EtcdRemoveMemberByID") == [("EtcdLeaveCluster", "cp-3")]
    assert remove(cluster, "cp-3", "cp-1", "cp-2").said.endswith("etcd does not have it as a member")


def test_a_dead_member_is_struck_off_by_the_others(start: Start) -> None:
    cluster = three(start)
    cluster.set("cp-3", face="absent")
    assert "struck off" in remove(cluster, "cp-3", "cp-1", "cp-2").said
    assert cluster.calls("EtcdRemoveMemberByID") == [("EtcdRemoveMemberByID", "cp-1")]


def test_the_members_are_asked_of_whoever_answers(start: Start) -> None:
    cluster = start(*(node(f"cp-{number}", etcd="running") for number in range(1, 6)))
    cluster.set("cp-1", face="absent")
    assert remove(cluster, "cp-5", "cp-1", "cp-2", "cp-3", "cp-4").done
    assert cluster.node("cp-5")["etcd"] == ""


def test_the_majority_of_the_rest_is_kept(start: Start, refusal: Refusal) -> None:
    cluster = three(start)
    cluster.set("cp-2", etcd="sick")
    error = refusal(remove, cluster, "cp-3", "cp-1", "cp-2")
    assert "of the 2 etcd members that stay, 2 must be healthy" in error
    assert f"{cluster.address['cp-2']} is not" in error
    assert cluster.node("cp-3")["etcd"] == "running"
    assert remove(cluster, "cp-2", "cp-1", "cp-3").done, "the sick one may go"


def test_a_learner_is_no_vote(start: Start, refusal: Refusal) -> None:
    cluster = start(node("cp-1", etcd="running"), node("cp-2", etcd="learner"))
    assert "no other etcd member has a vote yet" in refusal(remove, cluster, "cp-1", "cp-2")


def test_etcd_without_a_majority_refuses(start: Start, refusal: Refusal) -> None:
    cluster = three(start)
    for name in ("cp-1", "cp-2"):
        cluster.set(name, etcd="sick")
    error = refusal(remove, cluster, "cp-3", "cp-1", "cp-2", dead_after_s=1)
    assert "etcd has no majority" in error
    assert cluster.address["cp-1"] in error


def test_a_dead_cluster_is_given_up_with_a_warning(start: Start) -> None:
    cluster = three(start)
    for name in ("cp-1", "cp-2", "cp-3"):
        cluster.set(name, face="absent")
    began = time.monotonic()
    removal = remove(cluster, "cp-3", "cp-1", "cp-2", dead_after_s=1)
    assert time.monotonic() - began < 5
    assert not removal.done
    assert removal.said.startswith("warning: ")


def test_the_last_one_has_nothing_to_leave(start: Start) -> None:
    cluster = start(node("cp-1", etcd="running"))
    assert remove(cluster, "cp-1").done
    assert cluster.calls() == []


def test_the_stand_in_is_not_part_of_a_users_setup() -> None:
    assert {program.name for program in TEST_PROGRAMS} == {"talos-standin"}
    assert by_name([]) == list(PROGRAMS)
