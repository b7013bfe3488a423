"""The Talos components, by what they ask the engine for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from component_support import MARK, OPERATOR, STACK, Resource, Run, run_program, task_of, write_manifest

from layer1.contract import Layer1Outputs
from layer1.images.lockfile import LockFile
from layer1.supply import LOCK_FILE
from layer1.talos import seed

WEAK = {"accel": "tcg", "svirt": "none", "memory_hard_limit": False}
ADDRESS = {f"cp-{at}": f"10.11.0.1{at}" for at in range(1, 6)} | {
    f"worker-{at}": f"10.11.0.2{at}" for at in (1, 2)
}
VIRTUAL_IP = "10.11.0.5"


def _node(name: str, **more: Any) -> dict[str, Any]:
    role = "worker" if name.startswith("w") else "controlplane"
    return {"name": name, "os": "talos", "role": role, "ip": ADDRESS[name]} | more


def _raw(*names: str, **more: Any) -> dict[str, Any]:
    several = sum(name.startswith("cp") for name in names) > 1
    return {
        "hosts": {"home": WEAK},
        "talos": {"virtual_ip": VIRTUAL_IP} if several else {},
        "nodes": [_node(name) for name in names],
    } | more


@pytest.fixture(scope="module")
def patch() -> Any:
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield monkeypatch


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    write_manifest(folder)
    return folder


@pytest.fixture(scope="module")
def pair(patch: pytest.MonkeyPatch, cache: Path) -> Run:
    return run_program(_raw("cp-1", "worker-1"), patch, cache)


@pytest.fixture(scope="module")
def three(patch: pytest.MonkeyPatch, cache: Path) -> Run:
    return run_program(_raw("cp-1", "cp-2", "cp-3", "worker-1"), patch, cache)


@pytest.fixture(params=["pair", "three"])
def run(request: pytest.FixtureRequest) -> Run:
    return request.getfixturevalue(request.param)  # type: ignore[no-any-return]


def _behind(run: Run, name: str) -> set[str]:
    """The names of all that a resource waits for, directly or not."""
    by_urn = {resource.urn: resource for resource in run.resources}
    found: set[str] = set()
    open_urns = list(run[name].request.dependencies)
    while open_urns:
        urn = open_urns.pop()
        if urn in by_urn and by_urn[urn].name not in found:
            found.add(by_urn[urn].name)
            open_urns += by_urn[urn].request.dependencies
    return found


def _planes(run: Run) -> list[str]:
    return [r.name for r in run.resources if r.type.endswith(":TalosNode") and r.name.startswith("cp")]


def test_what_a_pair_is_made_of(pair: Run) -> None:
    names = {resource.name for resource in pair.resources}
    cluster = ("secrets", "talosconfig", "members", "bootstrap", "health", "upgrade", "kubeconfig")
    node = (
        "config",
        "seed",
        "seed-iso",
        "seed-volume",
        "seed-unstage",
        "root",
        "address",
        "domain",
        "applied",
    )
    assert names == {
        *("home", "home-libvirt", "home-claim", "home-pool", "home-network", "home-bases"),
        *("home-talos-v1.13.4-amd64-image", "home-talos-v1.13.4-amd64-base"),
        *("talos", *(f"talos-{part}" for part in cluster)),
        *("cp-1", "cp-1-member", *(f"cp-1-{part}" for part in node)),
        *("worker-1", *(f"worker-1-{part}" for part in node)),
    }


def test_nodes_belong_to_their_cluster(run: Run) -> None:
    for resource in run.resources:
        if resource.type == "layer1:index:TalosNode":
            assert resource.request.parent.endswith("::talos")
        if resource.type == "layer1:index:TalosCluster":
            assert resource.request.parent.endswith(f"::layer1-{STACK}")


# Once, and never again.
@pytest.mark.parametrize("name", ["talos-secrets", "talos-bootstrap"])
def test_what_runs_once_is_changed_by_nothing(run: Run, name: str) -> None:
    assert list(run[name].request.ignoreChanges) == ["*"]
    assert "triggers" not in run[name].real


def test_exactly_one_control_plane_is_bootstrapped_the_first(run: Run) -> None:
    (bootstrap,) = [r for r in run.commands if task_of(r.real) == "talos-bootstrap"]
    assert bootstrap.task_request["node"] == ADDRESS["cp-1"]
    assert "cp-1-applied" in _behind(run, "talos-bootstrap")


def test_nothing_of_the_cluster_is_asked_when_it_goes(run: Run) -> None:
    for command in run.commands:
        undo = str(command.real.get("delete", "")).rpartition(" ")[2]
        if undo == "talos-leave":
            assert command.request.deletedWith == run["talos-secrets"].urn, command.name
        else:
            assert not undo.startswith("talos-"), command.name


# Secrets.
def test_no_secret_is_a_plain_input(run: Run) -> None:
    for resource in run.resources:
        assert MARK not in json.dumps(resource.shown), resource.name


def test_the_secrets_do_reach_the_tasks_that_need_them(run: Run) -> None:
    """Else the test above would hold for a program without secrets."""
    assert run["cp-1-config"].task_request["secrets"] == f"{MARK} talos-secrets"
    assert run["cp-1-applied"].task_request["config"] == f"# {MARK} cp-1-config\n"
    assert run["cp-1-seed-iso"].task_request["files"]["user-data"] == f"# {MARK} cp-1-config\n"
    assert run["talos-health"].task_request["talosconfig"] == f"{MARK} talos-talosconfig"


def test_access_is_an_output_of_its_own_and_secret(run: Run) -> None:
    assert run.secret_exports == {"talosconfig", "kubeconfig"}
    assert run.exports["kubeconfig"] == f"{MARK} talos-kubeconfig"
    assert MARK not in json.dumps(run.exports["layer1"])


def test_the_output_keeps_the_contract(pair: Run) -> None:
    nodes = Layer1Outputs.model_validate(pair.exports["layer1"]).nodes
    assert {name: (node.os, node.role) for name, node in nodes.items()} == {
        "cp-1": ("talos", "controlplane"),
        "worker-1": ("talos", "worker"),
    }
    assert all(
        node.ssh_user is None and node.paths is None and node.k3s_version is None for node in nodes.values()
    )


# The seed.
def test_the_seed_is_what_nocloud_reads(run: Run) -> None:
    for name in ("cp-1", "worker-1"):
        request = run[f"{name}-seed-iso"].task_request
        assert request["label"] == "cidata"
        assert set(request["files"]) == set(seed.FILES)
        assert json.loads(request["files"]["network-config"])["ethernets"]["eth0"]["addresses"]
        assert run[f"{name}-domain"].real["cloudinit"].endswith(f"/{name}-seed.iso;seed")


# One at a time.
def test_a_control_plane_waits_until_the_one_before_is_a_member(three: Run) -> None:
    assert "cp-1-member" in _behind(three, "cp-2-root")
    assert "cp-2-member" in _behind(three, "cp-3-root")
    assert not {"cp-2-member", "cp-3-member"} & _behind(three, "cp-1-root")
    assert not {"cp-1-member", "cp-2-member", "cp-3-member"} & _behind(three, "worker-1-root")


def test_who_goes_is_taken_out_before_any_node_is_touched(run: Run) -> None:
    for name in (*_planes(run), "worker-1"):
        for part in ("root", "domain", "applied"):
            assert "talos-members" in _behind(run, f"{name}-{part}")
    assert run["talos-members"].real["addPreviousOutputInEnv"] is True
    assert [each["name"] for each in run["talos-members"].task_request["members"]] == [
        *_planes(run),
        "worker-1",
    ]


def test_a_member_leaves_with_its_disk_and_stays_through_a_restart(three: Run) -> None:
    member = three["cp-2-member"]
    assert member.real["triggers"] == ["id-of-cp-2-root"]
    assert member.request.deleteBeforeReplace
    assert member.task_request["others"] == [ADDRESS["cp-1"], ADDRESS["cp-3"]]
    assert "cp-2-domain" in _behind(three, "cp-2-member")
    # Else the engine would delete the domain on its own, before the member has left.
    assert three["cp-2-root"].urn not in three["cp-2-domain"].request.replace_with


def test_health_waits_for_everybody(three: Run) -> None:
    behind = _behind(three, "talos-health")
    assert {"cp-1-member", "cp-2-member", "cp-3-member", "worker-1-applied"} <= behind
    assert "talos-health" in _behind(three, "talos-upgrade")
    assert "talos-upgrade" in _behind(three, "talos-kubeconfig")


def _same(before: Resource, after: Resource) -> bool:
    return before.real == after.real


def test_another_worker_changes_no_other_node(three: Run, patch: pytest.MonkeyPatch, cache: Path) -> None:
    more = run_program(_raw("cp-1", "cp-2", "cp-3", "worker-1", "worker-2"), patch, cache)
    before = {resource.urn: resource for resource in three.resources}
    changed = {r.name for r in more.resources if r.urn in before and not _same(before[r.urn], r)}
    assert changed == {"talos-members", "talos-health", "talos-upgrade"}


def test_a_pinned_choice_keeps_the_first_worker_from_the_control_plane(
    patch: pytest.MonkeyPatch, cache: Path
) -> None:
    """Where nothing is said, the first worker takes workloads off the control planes."""
    pinned = {"talos": {"schedule_on_control_planes": True}}
    alone = run_program(_raw("cp-1", **pinned), patch, cache)
    both = run_program(_raw("cp-1", "worker-1", **pinned), patch, cache)
    assert alone["cp-1-config"].task_request["cluster"]["schedule_on_control_planes"] is True
    assert both["cp-1-config"].task_request["cluster"]["schedule_on_control_planes"] is True
    free = run_program(_raw("cp-1", "worker-1"), patch, cache)
    assert free["cp-1-config"].task_request["cluster"]["schedule_on_control_planes"] is False


# Disks.
def test_a_root_stays_on_the_image_it_began_with(run: Run) -> None:
    assert list(run["cp-1-root"].request.ignoreChanges) == ["baseVolumeId"]
    assert run["home-talos-v1.13.4-amd64-base"].request.retainOnDelete
    assert str(run["home-bases"].real["delete"]).endswith("drop-bases")
    assert run["home-pool"].urn in run["home-bases"].request.dependencies


@pytest.mark.parametrize(
    ("change", "another"),
    [
        ({"images": {"talos": {"version": "v1.13.5"}}}, False),
        ({"talos": {"operator_networks": ["10.11.0.0/24"]}}, False),
        ({"talos": {"encryption": "none"}}, True),
        ({"network": {"cidr": "10.11.0.0/23"}}, True),
    ],
)
def test_a_disk_is_another_when_it_cannot_take_the_change(
    change: dict[str, Any], another: bool, pair: Run, patch: pytest.MonkeyPatch, cache: Path
) -> None:
    changed = run_program(_raw("cp-1", "worker-1", **change), patch, cache)
    for name in ("cp-1-root", "worker-1-root"):
        assert (changed[name].real["name"] != pair[name].real["name"]) == another


def test_data_disks_are_protected_and_kept(patch: pytest.MonkeyPatch, cache: Path) -> None:
    raw = _raw("cp-1", nodes=[_node("cp-1", data_disks=[{"name": "data", "size_gib": 5}])])
    disk = run_program(raw, patch, cache)["cp-1-data-data"]
    assert disk.request.protect
    assert disk.request.retainOnDelete


# Beside Flatcar.
def test_flatcar_and_talos_share_a_host(patch: pytest.MonkeyPatch, cache: Path) -> None:
    mixed = run_program(
        _raw(
            nodes=[{"name": "k3s-1", "os": "flatcar"}, _node("cp-1")],
            images={"flatcar": {"source": "practice"}},
            k3s={"installer_url": "http://10.11.0.1:8011/install.sh"},
            defaults={"ssh_authorized_keys": [OPERATOR]},
        ),
        patch,
        cache,
    )
    assert Layer1Outputs.model_validate(mixed.exports["layer1"]).nodes.keys() == {"k3s-1", "cp-1"}
    assert {r.name for r in mixed.resources if r.name.endswith("-base")} == {
        "home-practice-amd64-base",
        "home-talos-v1.13.4-amd64-base",
    }
    assert len(mixed.of_type("libvirt:index/pool:Pool")) == 1
    alone = run_program(
        _raw(
            nodes=[{"name": "k3s-1", "os": "flatcar"}],
            images={"flatcar": {"source": "practice"}},
            k3s={"installer_url": "http://10.11.0.1:8011/install.sh"},
            defaults={"ssh_authorized_keys": [OPERATOR]},
        ),
        patch,
        cache,
    )
    assert "home-bases" not in {resource.name for resource in alone.resources}
    assert "talosconfig" not in alone.exports


def test_an_unpinned_image_is_told_before_up_stops_at_it(pair: Run) -> None:
    assert not any(name.startswith("talos/") for name in LockFile.load(LOCK_FILE).entries)
    assert any("image pin talos --version v1.13.4" in line for line in pair.log)
