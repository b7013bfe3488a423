"""The disk's key in the vTPM: Secure Boot's firmware and swtpm, started by the real libvirtd."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_project import Project, virsh
from talos_project import (
    Nodes,
    own_addresses,
    provide_image,
    running_nodes,
    talos_node,
    talos_project,
)

from layer1 import identity

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

ADDRESSES = {"cp-1": "10.214.11.11"}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    folder = tmp_path_factory.mktemp("secure")
    nodes = [talos_node("cp-1", ADDRESSES)]
    project = talos_project(folder, "10.214.11.0/24", nodes, encryption="tpm")
    yield project
    if project.state()["deployment"].get("resources"):
        project.destroy()


@pytest.fixture(scope="module")
def nodes(cluster: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    plan = [talos_node("cp-1", ADDRESSES)]
    with (
        own_addresses(ADDRESSES),
        running_nodes(cluster, plan, tmp_path_factory.mktemp("secrets")) as running,
    ):
        provide_image(cluster, "v1.13.0", "nocloud-amd64-secureboot.qcow2")
        yield running


@pytest.fixture(scope="module")
def vtpm(cluster: Project) -> Path:
    """Where libvirt keeps the vTPM's state."""
    return Path("/var/lib/libvirt/swtpm") / identity.domain_uuid(cluster.stack, "cp-1")


def domain(cluster: Project) -> ET.Element:
    return ET.fromstring(virsh("dumpxml", f"{cluster.prefix}-cp-1"))  # noqa: S314 - libvirt's own answer


def test_the_domain_runs_with_secure_boot_and_a_vtpm(cluster: Project, nodes: Nodes, vtpm: Path) -> None:
    cluster.up()
    assert virsh("domstate", f"{cluster.prefix}-cp-1").strip() == "running"
    running = domain(cluster)
    loader = running.find("os/loader")
    assert loader is not None
    assert loader.get("secure") == "yes"
    assert [tpm.get("model") for tpm in running.findall("devices/tpm")] == ["tpm-crb"]
    base = [line.split()[0] for line in virsh("vol-list", cluster.prefix).splitlines() if "talos-" in line]
    assert [name for name in base if "nocloud-amd64-secureboot" in name] == base
    assert list(vtpm.rglob("*.permall")), "swtpm has made its state"
    assert cluster.plan() == {}


def test_another_domain_on_the_same_disk_keeps_the_vtpm(cluster: Project, nodes: Nodes, vtpm: Path) -> None:
    mark = vtpm / "tpm2" / "mark-of-the-test"
    mark.touch()
    cluster.config["defaults"]["memory_mib"] = 2304
    planned = cluster.plan()
    assert "cp-1-domain" in planned["replace"]
    assert not {"cp-1-root-secureboot", "cp-1-vtpm"} & planned["replace"]
    cluster.up()
    assert mark.exists()
    assert cluster.plan() == {}


def test_destroy_takes_the_vtpm_with_it(cluster: Project, nodes: Nodes, vtpm: Path) -> None:
    cluster.destroy()
    assert not vtpm.exists()
    assert identity.domain_uuid(cluster.stack, "cp-1") not in virsh("list", "--all", "--uuid")
