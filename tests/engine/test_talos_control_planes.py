"""Three control planes on the real engine and libvirtd: how they come, change and go, one at a time."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Iterator

import pytest
from engine_project import Project, virsh
from talos_project import Nodes, own_addresses, running_nodes, talos_node, talos_project

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

VIRTUAL_IP = "10.214.10.5"
PLANES = ("cp-1", "cp-2", "cp-3")
ADDRESSES = {
    "cp-1": "10.214.10.11",
    "cp-2": "10.214.10.12",
    "cp-3": "10.214.10.13",
    "worker-1": "10.214.10.21",
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    nodes = [talos_node(name, ADDRESSES) for name in ADDRESSES]
    folder = tmp_path_factory.mktemp("planes")
    project = talos_project(folder, "10.214.10.0/24", nodes, virtual_ip=VIRTUAL_IP)
    yield project
    if project.state()["deployment"].get("resources"):
        project.destroy()


@pytest.fixture(scope="module")
def nodes(cluster: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    plan = [talos_node(name, ADDRESSES) for name in ADDRESSES]
    here = ADDRESSES | {"the virtual address": VIRTUAL_IP}
    with own_addresses(here), running_nodes(cluster, plan, tmp_path_factory.mktemp("secrets")) as running:
        yield running


def made_at(cluster: Project, name: str) -> str:
    resources = cluster.state()["deployment"]["resources"]
    return str(next(r["created"] for r in resources if r["urn"].endswith(f"::{name}")))


def memory_kib(cluster: Project, name: str) -> int:
    xml = ET.fromstring(virsh("dumpxml", f"{cluster.prefix}-{name}"))  # noqa: S314 - libvirt's own answer
    return int(xml.findtext("memory", ""))


def root_bytes(cluster: Project, name: str) -> int:
    (volume,) = [
        line.split()[0]
        for line in virsh("vol-list", cluster.prefix).splitlines()
        if line.strip().startswith(f"{name}-root")
    ]
    xml = ET.fromstring(virsh("vol-dumpxml", "--pool", cluster.prefix, volume))  # noqa: S314 - libvirt's own answer
    return int(xml.findtext("capacity", ""))


def test_three_control_planes_come_one_after_the_other(cluster: Project, nodes: Nodes) -> None:
    cluster.up()
    assert set(nodes.calls("Bootstrap")) == {"cp-1"}
    for before, after in (("cp-1", "cp-2"), ("cp-2", "cp-3")):
        assert made_at(cluster, f"{before}-member") < made_at(cluster, f"{after}-root")
    assert cluster.plan() == {}


def test_the_virtual_address_passes_the_control_planes_filters_alone(cluster: Project, nodes: Nodes) -> None:
    for name, address in ADDRESSES.items():
        xml = ET.fromstring(virsh("dumpxml", f"{cluster.prefix}-{name}"))  # noqa: S314 - libvirt's own answer
        passed = {each.get("value") for each in xml.iter("parameter") if each.get("name") == "IP"}
        assert passed == {address} | ({VIRTUAL_IP} if name in PLANES else set()), name


def test_a_sick_one_stops_the_change_before_the_next_is_restarted(cluster: Project, nodes: Nodes) -> None:
    cluster.config["defaults"]["memory_mib"] = 2304
    cluster.config["talos"]["bootstrap_timeout_s"] = 30
    planned = cluster.plan()
    assert {f"{name}-domain" for name in ADDRESSES} <= planned["replace"]
    assert not [name for name in planned["replace"] if name.endswith("-root")]
    nodes.set("cp-1", etcd="sick")
    said = cluster.up(ok=False)
    assert f"{ADDRESSES['cp-1']}: is no healthy member of etcd within 30 s" in said
    assert [memory_kib(cluster, name) // 1024 for name in PLANES] == [2304, 2048, 2048]
    nodes.set("cp-1", etcd="running")
    cluster.config["talos"]["bootstrap_timeout_s"] = 60
    cluster.up()
    assert {memory_kib(cluster, name) // 1024 for name in PLANES} == {2304}
    assert nodes.calls("EtcdLeaveCluster") == [], "their disks stay, so they stay members"
    assert cluster.plan() == {}


def test_new_disks_come_one_at_a_time_each_out_of_etcd_first(cluster: Project, nodes: Nodes) -> None:
    cluster.config["defaults"]["disk_gib"] = 11
    planned = cluster.plan()
    assert {f"{name}-root" for name in ADDRESSES} <= planned["replace"]
    seen = len(nodes.log("EtcdLeaveCluster", "ApplyConfiguration"))
    cluster.up()
    log = nodes.log("EtcdLeaveCluster", "ApplyConfiguration")[seen:]
    planes = [entry for entry in log if entry[1] in PLANES]
    assert planes == [
        (method, name) for name in PLANES for method in ("EtcdLeaveCluster", "ApplyConfiguration")
    ]
    assert {root_bytes(cluster, name) for name in ADDRESSES} == {11 * 1024**3}
    assert cluster.plan() == {}


def test_the_talosconfig_is_made_anew_on_demand(cluster: Project, nodes: Nodes) -> None:
    cluster.config["talos"]["talosconfig_serial"] = 2
    planned = cluster.plan()
    assert "talos-talosconfig" in planned["update"]
    assert set(planned) == {"update"}
    cluster.up()
    assert cluster.plan() == {}


def test_control_planes_that_go_leave_before_the_others_shut_them_out(cluster: Project, nodes: Nodes) -> None:
    cluster.config["nodes"] = [talos_node(name, ADDRESSES) for name in ("cp-1", "worker-1")]
    planned = cluster.plan()
    assert {"cp-2-domain", "cp-2-root", "cp-3-domain", "cp-3-root"} <= planned["delete"]
    assert not planned.get("replace", set()) - {
        f"{n}-seed-{w}" for n in ADDRESSES for w in ("iso", "volume", "unstage")
    }
    seen = len(nodes.log("EtcdLeaveCluster", "ApplyConfiguration"))
    cluster.up()
    log = nodes.log("EtcdLeaveCluster", "ApplyConfiguration")[seen:]
    assert log[:2] == [("EtcdLeaveCluster", "cp-2"), ("EtcdLeaveCluster", "cp-3")]
    assert {name for method, name in log[2:]} == {"cp-1", "worker-1"}
    state = {each["hostname"]: each for each in nodes.say({"state": True})["nodes"]}
    assert [state[name]["deleted"] for name in PLANES] == [False, True, True]
    assert f"{cluster.prefix}-cp-2" not in virsh("list", "--all", "--name")
    assert cluster.plan() == {}


def test_the_only_control_planes_disk_is_not_replaced(cluster: Project, nodes: Nodes) -> None:
    cluster.config["nodes"][0]["disk_gib"] = 12
    said = cluster.up(ok=False)
    assert "it is the only control plane, and its disk holds etcd, the whole cluster" in said
    assert root_bytes(cluster, "cp-1") == 11 * 1024**3
    assert virsh("domstate", f"{cluster.prefix}-cp-1").strip() == "running"
    del cluster.config["nodes"][0]["disk_gib"]
    cluster.up()
    assert cluster.plan() == {}


def test_a_worker_that_goes_is_drained_and_forgotten(cluster: Project, nodes: Nodes) -> None:
    cluster.config["talos"]["schedule_on_control_planes"] = True
    cluster.up()
    cluster.config["nodes"] = [talos_node("cp-1", ADDRESSES)]
    cluster.up()
    assert nodes.calls("Shutdown") == ["worker-1"]
    assert nodes.calls("DELETE /api/v1/nodes/worker-1") != []
    assert cluster.plan() == {}
    assert json.loads(cluster.pulumi("stack", "output", "layer1", "--json"))["nodes"].keys() == {"cp-1"}


def test_destroy_asks_nobody_for_leave(cluster: Project, nodes: Nodes) -> None:
    seen = nodes.calls("EtcdLeaveCluster")
    cluster.destroy()
    assert nodes.calls("EtcdLeaveCluster") == seen
    assert cluster.prefix not in virsh("list", "--all", "--name")
    assert cluster.prefix not in virsh("pool-list", "--all", "--name")
