"""What Layer 1 asks libvirt itself, of the libvirtd on this machine; each test removes what it made."""

from __future__ import annotations

import secrets
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from layer1 import tasks, virsh
from layer1.errors import HostError

URI = "qemu:///system"
MAC, MAC2 = "52:54:00:aa:00:01", "52:54:00:aa:00:02"

pytestmark = pytest.mark.engine


def _virsh(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["virsh", "--quiet", "--connect", URI, *arguments], check=False, capture_output=True, text=True
    )


@dataclass(frozen=True, slots=True)
class Net:
    name: str
    prefix: str

    def hosts(self, *flags: str) -> list[tuple[str | None, ...]]:
        document = _virsh("net-dumpxml", self.name, *flags).stdout
        hosts = ET.fromstring(document).iter("host")  # noqa: S314 - libvirt's own
        return [(host.get("mac"), host.get("ip"), host.get("name")) for host in hosts]


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Net]:
    mark = secrets.token_hex(4)
    made = Net(f"layer1-test-{mark}", f"192.168.{128 + int(mark[:2], 16) % 64}")
    path = tmp_path / "network.xml"
    path.write_text(
        f"<network><name>{made.name}</name><bridge name='l1t-{mark}'/>"
        f"<ip address='{made.prefix}.1' netmask='255.255.255.0'>"
        f"<dhcp><range start='{made.prefix}.2' end='{made.prefix}.254'/></dhcp></ip></network>"
    )
    assert _virsh("net-define", str(path)).returncode == 0
    try:
        started = _virsh("net-start", made.name)
        assert started.returncode == 0, started.stderr
        yield made
    finally:
        _virsh("net-destroy", made.name)
        _virsh("net-undefine", made.name)
    assert made.name not in _virsh("net-list", "--all", "--name").stdout


def test_an_address_is_reserved_now_and_for_good_and_again_without_change(net: Net) -> None:
    wanted = [(MAC, f"{net.prefix}.20", "k3s-1")]
    for _ in range(2):
        virsh.reserve_address(URI, net.name, MAC, f"{net.prefix}.20", "k3s-1")
        assert net.hosts() == wanted
        assert net.hosts("--inactive") == wanted


def test_a_reservation_moves_with_its_mac_or_its_address(net: Net) -> None:
    virsh.reserve_address(URI, net.name, MAC, f"{net.prefix}.20", "k3s-1")
    virsh.reserve_address(URI, net.name, MAC.upper(), f"{net.prefix}.21", "k3s-1")
    assert [host[1] for host in net.hosts()] == [f"{net.prefix}.21"]
    virsh.reserve_address(URI, net.name, MAC2, f"{net.prefix}.21", "k3s-2")
    assert net.hosts() == [(MAC2, f"{net.prefix}.21", "k3s-2")]


def test_a_release_takes_its_own_alone_and_may_run_twice(net: Net) -> None:
    virsh.reserve_address(URI, net.name, MAC, f"{net.prefix}.20", "k3s-1")
    virsh.reserve_address(URI, net.name, MAC2, f"{net.prefix}.21", "k3s-2")
    for _ in range(2):
        virsh.release_address(URI, net.name, MAC)
        assert net.hosts() == [(MAC2, f"{net.prefix}.21", "k3s-2")]
    assert net.hosts("--inactive") == [(MAC2, f"{net.prefix}.21", "k3s-2")]


def test_a_release_leaves_an_address_that_another_node_has_taken(net: Net) -> None:
    """Two nodes swap addresses in one update: the old one may be released after the new one is bound."""
    virsh.reserve_address(URI, net.name, MAC, f"{net.prefix}.20", "k3s-1")
    virsh.reserve_address(URI, net.name, MAC2, f"{net.prefix}.20", "k3s-2")
    virsh.release_address(URI, net.name, MAC)
    assert net.hosts() == [(MAC2, f"{net.prefix}.20", "k3s-2")]


def test_a_release_on_a_network_that_is_gone_is_no_error() -> None:
    virsh.release_address(URI, "layer1-test-gone", MAC)


def test_what_libvirt_refuses_is_told_in_its_words(net: Net) -> None:
    with pytest.raises(HostError, match=r"refused `virsh net-update`: [^$]*unicast"):
        virsh.reserve_address(URI, net.name, "01:00:5e:00:00:01", f"{net.prefix}.20", "k3s-1")
    with pytest.raises(HostError, match="layer1-test-gone"):
        virsh.reserve_address(URI, "layer1-test-gone", MAC, "192.168.5.5", "k3s-1")


def test_the_tasks_do_the_same(net: Net) -> None:
    address = f"{net.prefix}.30"
    request = (
        f'{{"uri": "{URI}", "network": "{net.name}", "mac": "{MAC}", "ip": "{address}", "name": "k3s-1"}}'
    )
    tasks.run("reserve-address", request)
    assert net.hosts() == [(MAC, address, "k3s-1")]
    tasks.run("release-address", request)
    assert net.hosts() == []


@pytest.fixture
def pool_name() -> Iterator[str]:
    name = f"layer1-test-{secrets.token_hex(4)}"
    yield name
    _virsh("pool-destroy", name)
    _virsh("pool-undefine", name)
    left = _virsh("pool-list", "--all", "--name").stdout
    assert name not in left
    assert "layer1-probe-" not in left


def test_a_free_name_and_a_free_directory_are_claimed_and_left_free(pool_name: str, tmp_path: Path) -> None:
    directory = tmp_path / "pool"
    for _ in range(2):
        virsh.claim_pool(URI, pool_name, str(directory))
        assert not directory.exists()


@pytest.mark.parametrize(("files", "held"), [([], "nothing"), (["precious.img"], "precious.img")])
def test_a_directory_of_somebodys_is_not_taken(
    files: list[str], held: str, pool_name: str, tmp_path: Path
) -> None:
    for name in files:
        (tmp_path / name).write_bytes(b"precious")
    before = sorted((path.name, path.read_bytes()) for path in tmp_path.iterdir())
    mode = tmp_path.stat().st_mode
    with pytest.raises(HostError) as caught:
        virsh.claim_pool(URI, pool_name, str(tmp_path))
    assert f"the directory {tmp_path} exists on {URI} already and holds {held};" in str(caught.value)
    assert sorted((path.name, path.read_bytes()) for path in tmp_path.iterdir()) == before
    assert tmp_path.stat().st_mode == mode


def test_a_pool_of_that_name_is_told_with_the_way_out(pool_name: str, tmp_path: Path) -> None:
    directory = tmp_path / "pool"
    directory.mkdir()
    assert _virsh("pool-define-as", pool_name, "dir", "--target", str(directory)).returncode == 0
    with pytest.raises(HostError, match=f"the storage pool {pool_name} exists on .*pool-undefine"):
        virsh.claim_pool(URI, pool_name, str(directory))
    assert directory.exists()


def test_a_domain_that_is_not_there_is_gone() -> None:
    assert virsh.domain_state(URI, "layer1-test-gone") == "gone"


def test_a_host_that_does_not_answer_is_told(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="refused `virsh net-update`"):
        virsh.reserve_address(f"qemu+unix:///system?socket={tmp_path}/none", "n", MAC, "192.168.5.5", "k3s-1")
