"""Health, kubeconfig and Kubernetes' list: talosctl's own checks against the stand-in."""

from __future__ import annotations

import time

import pytest
import yaml
from talos_api_support import Refusal, Standin, Start, node

from layer1.talos import api
from layer1.talos.talosctl_api_kubernetes import forget_node

CONTROL_PLANES = ("cp-1", "cp-2", "cp-3")


@pytest.fixture
def cluster(start: Start) -> Standin:
    """Three control planes and a worker, bootstrapped."""
    return start(*(node(name, etcd="running") for name in CONTROL_PLANES), node("w-1"))


def health(cluster: Standin) -> tuple[str, list[str], list[str]]:
    return cluster.talosconfig, cluster.addresses(*CONTROL_PLANES), cluster.addresses("w-1")


def test_a_healthy_cluster_passes_every_check_of_talosctl(cluster: Standin) -> None:
    api.wait_healthy(*health(cluster), 20)
    played = {method for method, _ in cluster.calls()}
    assert {"ServiceList", "EtcdMemberList", "Version", "Kubeconfig", "GET /api/v1/nodes"} <= played


def test_a_cluster_that_gets_healthy_is_waited_for(cluster: Standin) -> None:
    cluster.set("cp-2", etcd="sick")
    cluster.later(3, "cp-2", etcd="running")  # in the second round
    api.wait_healthy(*health(cluster), 30)


@pytest.mark.parametrize(
    ("name", "fields", "told"),
    [
        ("cp-3", {"etcd": "sick"}, ['service "etcd" not in expected state "Running"', "logs etcd"]),
        ("cp-2", {"face": "absent"}, ["connection refused", "service etcd"]),
        ("w-1", {"face": "absent"}, ["apid to be ready: ", "dmesg"]),
        ("w-1", {"not_ready": True}, ["some nodes are not ready: [w-1]", "kubectl get nodes"]),
        ("w-1", {"cordoned": True}, ["some nodes are not schedulable: [w-1]", "kubectl uncordon"]),
    ],
)
def test_the_sick_one_is_named(
    cluster: Standin, refusal: Refusal, name: str, fields: dict[str, object], told: list[str]
) -> None:
    cluster.set(name, **fields)
    error = refusal(api.wait_healthy, *health(cluster), 2)
    assert error.startswith("the cluster is not healthy within 2 s. talosctl waits for ")
    assert all(words in error for words in told)
    assert cluster.address[name] in error or f"[{name}]" in error
    others = [other for other in (*CONTROL_PLANES, "w-1") if other != name]
    assert not any(address in error for address in cluster.addresses(*others))


def test_a_cluster_of_which_nobody_answers_ends_in_time(cluster: Standin, refusal: Refusal) -> None:
    for name in CONTROL_PLANES:
        cluster.set(name, face="silent")
    began = time.monotonic()
    assert "not healthy within 2 s" in refusal(api.wait_healthy, *health(cluster), 2)
    assert time.monotonic() - began < 25


@pytest.mark.parametrize("strangers", [("cp-2",), CONTROL_PLANES])
def test_another_clusters_node_fails_before_the_time_is_over(
    cluster: Standin, refusal: Refusal, strangers: tuple[str, ...]
) -> None:
    for name in strangers:
        cluster.set(name, face="stranger")
    began = time.monotonic()
    error = refusal(api.wait_healthy, *health(cluster), 600)
    assert error.startswith(f"{cluster.address[strangers[0]]}: its certificate is of another cluster")
    assert time.monotonic() - began < 15


def test_a_node_that_is_gone_is_taken_off_kubernetes_list(cluster: Standin, refusal: Refusal) -> None:
    shrunk = (cluster.talosconfig, cluster.addresses(*CONTROL_PLANES), [])
    error = refusal(api.wait_healthy, *shrunk, 2)
    assert f'unexpected nodes with IPs ["{cluster.address["w-1"]}"]' in error
    assert "kubectl delete node" in error
    kubeconfig = api.kubeconfig(cluster.talosconfig, cluster.address["cp-1"])
    assert forget_node(kubeconfig, cluster.address["w-1"]) == ["w-1"]
    assert forget_node(kubeconfig, cluster.address["w-1"]) == []
    api.wait_healthy(*shrunk, 20)


def test_kubernetes_that_does_not_answer_is_told_apart(cluster: Standin, refusal: Refusal) -> None:
    kubeconfig = api.kubeconfig(cluster.talosconfig, cluster.address["cp-1"])
    cluster.set("cp-1", face="absent")
    error = refusal(forget_node, kubeconfig, cluster.address["w-1"], 2)
    assert "Kubernetes still lists it" in error
    assert "the kubeconfig is not one" in refusal(forget_node, "kind: Config", cluster.address["w-1"])


def test_kubeconfig_comes_from_a_control_plane(cluster: Standin, refusal: Refusal) -> None:
    text = api.kubeconfig(cluster.talosconfig, cluster.address["cp-2"])
    assert yaml.safe_load(text)["clusters"][0]["cluster"]["server"].startswith("https://127.")
    assert "it is a worker" in refusal(api.kubeconfig, cluster.talosconfig, cluster.address["w-1"])
    cluster.set("cp-2", face="absent")
    error = refusal(api.kubeconfig, cluster.talosconfig, cluster.address["cp-2"], 1)
    assert "no kubeconfig within 1 s" in error
