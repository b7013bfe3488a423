"""The components and the program that wires them, by what they ask the engine for."""

from __future__ import annotations

import ast
import base64
import json
import shlex
from pathlib import Path
from typing import Any

import pulumi
import pytest
from component_support import (
    LAYER2,
    MARK,
    OPERATOR,
    REPOSITORY,
    STACK,
    Resource,
    Run,
    run_program,
    seed_of,
    task_of,
    write_manifest,
)

from layer1 import sshkeys, tasks
from layer1.contract import Layer1Outputs

WEAK = {"accel": "tcg", "svirt": "none", "memory_hard_limit": False}
DISKS = {"data_disks": [{"name": "longhorn", "size_gib": 5}], "passthrough_disks": ["/dev/disk/by-id/usb-a"]}


def _raw(*nodes: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "hosts": {"home": WEAK},
        "images": {"flatcar": {"source": "practice"}},
        "k3s": {"installer_url": "http://10.11.0.1:8011/install.sh"},
        "defaults": {"ssh_authorized_keys": [OPERATOR]},
        "nodes": [{"os": "flatcar"} | node for node in nodes],
    } | more


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    write_manifest(folder)
    return folder


@pytest.fixture(scope="module")
def patch() -> Any:
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield monkeypatch


@pytest.fixture(scope="module")
def one(patch: pytest.MonkeyPatch, cache: Path) -> Run:
    """One node with every kind of disk, and Ignition of Layer 2's."""
    secret = {"layer2_ignition": json.dumps({"k3s-1": LAYER2})}
    return run_program(_raw({"name": "k3s-1"} | DISKS), patch, cache, secret)


@pytest.fixture(scope="module")
def three(patch: pytest.MonkeyPatch, cache: Path) -> Run:
    return run_program(_raw({"name": "a"}, {"name": "b"} | DISKS, {"name": "c"}), patch, cache)


@pytest.fixture(params=["one", "three"])
def run(request: pytest.FixtureRequest) -> Run:
    return request.getfixturevalue(request.param)  # type: ignore[no-any-return]


def _parent(resource: Resource) -> str:
    return str(resource.request.parent).rpartition("::")[2]


def _urns(run: Run, *names: str) -> set[str]:
    return {run[name].urn for name in names}


# Shape.
def test_every_urn_is_unique(run: Run) -> None:
    urns = [resource.urn for resource in run.resources]
    assert len(urns) == len(set(urns))


def test_every_resource_has_its_component_as_parent(run: Run) -> None:
    components = {resource.name for resource in run.resources if resource.type.startswith("layer1:index:")}
    for resource in run.resources:
        if resource.type in ("layer1:index:Hypervisor", "layer1:index:FlatcarNode"):
            assert _parent(resource) == f"layer1-{STACK}", "the stack itself"
        else:
            assert _parent(resource) in components, resource.name
            assert resource.name.startswith(f"{_parent(resource)}-"), resource.name


def test_the_components_are_of_the_types_that_they_will_keep(one: Run) -> None:
    types = {resource.type for resource in one.resources if not resource.request.custom}
    assert types == {"layer1:index:Hypervisor", "layer1:index:FlatcarNode", "layer1:index:SeedIso"}


def test_every_component_registers_its_outputs(run: Run) -> None:
    for resource in run.resources:
        if not resource.request.custom:
            assert run.completed[resource.urn], resource.name


def test_what_one_node_is_made_of(one: Run) -> None:
    assert {resource.name for resource in one.resources} == {
        *("home", "home-libvirt", "home-claim", "home-pool", "home-network"),
        *("home-practice-amd64-image", "home-practice-amd64-base"),
        *("k3s-1", "k3s-1-host-key", "k3s-1-status-key", "k3s-1-ignition"),
        *("k3s-1-seed", "k3s-1-seed-iso", "k3s-1-seed-volume", "k3s-1-seed-unstage"),
        *("k3s-1-root", "k3s-1-data-longhorn", "k3s-1-address", "k3s-1-domain", "k3s-1-ready"),
    }


def test_dropping_the_first_of_three_nodes_touches_no_other(
    three: Run, patch: pytest.MonkeyPatch, cache: Path
) -> None:
    two = run_program(_raw({"name": "b"} | DISKS, {"name": "c"}), patch, cache)
    left = {r.urn: r for r in three.resources if r.name != "a" and not r.name.startswith("a-")}
    assert left.keys() == {r.urn for r in two.resources}
    for resource in two.resources:
        before = left[resource.urn]
        assert resource.real == before.real, resource.name
        assert sorted(resource.request.dependencies) == sorted(before.request.dependencies)


def test_two_nodes_share_one_base_volume(three: Run) -> None:
    assert len([r for r in three.resources if r.name.endswith("-base")]) == 1
    bases = {three[f"{name}-root"].real["baseVolumeId"] for name in "abc"}
    assert bases == {"id-of-home-practice-amd64-base"}


# Options.
def test_libvirt_resources_use_the_hosts_connection(run: Run) -> None:
    provider = run["home-libvirt"]
    ours = [resource for resource in run.resources if resource.type.startswith("libvirt:")]
    assert ours
    for resource in ours:
        assert resource.request.provider == f"{provider.urn}::id-of-home-libvirt", resource.name


def test_the_old_goes_before_the_new_where_names_or_addresses_are_shared(run: Run) -> None:
    for resource in run.resources:
        if resource.type.startswith("libvirt:") and "-data-" not in resource.name:
            assert resource.request.deleteBeforeReplace, resource.name


def test_another_seed_takes_the_root_and_the_domain_with_it(one: Run) -> None:
    assert set(one["k3s-1-root"].request.replace_with) == _urns(one, "k3s-1-seed-volume")
    assert set(one["k3s-1-domain"].request.replace_with) >= _urns(one, "k3s-1-root", "k3s-1-seed-volume")
    for name in ("k3s-1-seed-volume", "k3s-1-data-longhorn", "home-pool", "home-practice-amd64-base"):
        assert not one[name].request.replace_with, name


def test_data_is_protected_and_outlives_the_node(one: Run) -> None:
    data = one["k3s-1-data-longhorn"].request
    assert data.protect
    assert data.retainOnDelete
    others = [r for r in one.resources if r.request.protect or r.request.retainOnDelete]
    assert [r.name for r in others] == ["k3s-1-data-longhorn"]
    assert one["k3s-1-data-longhorn"].real["name"] == "k3s-1-data-longhorn.qcow2", "no seed in its name"
    assert "baseVolumeId" not in one["k3s-1-data-longhorn"].real


def test_nothing_is_ignored(run: Run) -> None:
    for resource in run.resources:
        assert not resource.request.ignoreChanges, resource.name
        assert not resource.request.aliases, resource.name


def test_what_waits_for_what(one: Run) -> None:
    for later, earlier in (
        ("home-pool", "home-claim"),
        ("k3s-1-seed-unstage", "k3s-1-seed-volume"),
        ("k3s-1-domain", "k3s-1-address"),
        ("k3s-1-domain", "k3s-1-root"),
        ("k3s-1-domain", "k3s-1-seed-volume"),
        ("k3s-1-ready", "k3s-1-domain"),
    ):
        assert _urns(one, earlier) <= set(one[later].request.dependencies), (later, earlier)


def test_what_makes_a_task_run_anew(one: Run) -> None:
    seed = one["k3s-1-seed-volume"].real["name"]
    for name in ("k3s-1-seed-iso", "k3s-1-seed-unstage"):
        assert one[name].real["triggers"] == [seed]
    assert "id-of-home-network" in one["k3s-1-address"].real["triggers"]
    undone = {r.name: task_of({"create": r.real["delete"]}) for r in one.commands if "delete" in r.real}
    assert undone["k3s-1-address"] == "release-address"
    assert undone["k3s-1-seed-iso"] == "seed-discard"
    assert set(undone.values()) <= tasks.TASKS.keys()


@pytest.mark.parametrize(
    "change", [{"memory_mib": 1024}, {"vcpus": 1}, {"updates": "reboot"}, {"disk_gib": 30, "ip": "10.11.0.9"}]
)
def test_a_changed_machine_or_seed_is_waited_for_again(
    change: dict[str, Any], patch: pytest.MonkeyPatch, cache: Path
) -> None:
    before, same = (run_program(_raw({"name": "a"}), patch, cache)["a-ready"] for _ in range(2))
    after = run_program(_raw({"name": "a"} | change), patch, cache)["a-ready"]
    assert before.real["triggers"] == same.real["triggers"] != after.real["triggers"]


# Secrets.
def test_every_command_hides_its_outputs_and_its_request(run: Run) -> None:
    assert run.commands
    for command in run.commands:
        assert set(command.request.additionalSecretOutputs) == {"stdout", "stderr"}, command.name
        assert command.shown["stdin"] == "[secret]", command.name
        assert command.shown["logging"] == "none", command.name
        assert command.shown["addPreviousOutputInEnv"] is False, command.name
        assert "environment" not in command.shown, command.name
        for line in (command.shown["create"], command.shown.get("delete", "python3 -m layer1 task image")):
            words = shlex.split(line)
            assert words[:-1] == ["python3", "-m", "layer1", "task"], "no value in a command line"
            assert words[-1] in tasks.TASKS


def _secret_texts(node: str) -> list[str]:
    texts = [MARK, base64.b64encode(json.dumps(LAYER2, sort_keys=True).encode()).decode()[:40]]
    for key, comment in (("host-key", node), ("status-key", "layer1-status")):
        seed = seed_of(f"{node}-{key}")
        texts += [base64.b64encode(seed).decode(), seed.hex()]
        texts += sshkeys.ed25519_private(seed, comment).splitlines()[3:-1]
    return texts


def test_no_secret_is_in_a_plain_input_an_output_or_a_line_of_the_log(one: Run) -> None:
    secrets = _secret_texts("k3s-1")
    assert len(secrets) > 8
    shown = {resource.name: json.dumps(resource.shown) for resource in one.resources}
    shown |= {f"names of {resource.name}": resource.urn for resource in one.resources}
    shown |= {urn: json.dumps(outputs) for urn, outputs in one.completed.items()}
    shown["log"] = "\n".join(one.log)
    shown["layer1"] = json.dumps(one.exports["layer1"])
    for where, text in shown.items():
        for secret in secrets:
            assert secret not in text, where


def test_the_secrets_do_reach_the_tasks_that_need_them(one: Run) -> None:
    """Else the test above would hold for a program without secrets."""
    butane = json.loads(one["k3s-1-ignition"].task_request["butane"])
    files = {entry["path"]: entry["contents"]["inline"] for entry in butane["storage"]["files"]}
    private = sshkeys.ed25519_private(seed_of("k3s-1-host-key"), "k3s-1")
    assert files["/etc/ssh/ssh_host_ed25519_key"] == private
    (merged,) = butane["ignition"]["config"]["merge"]
    assert json.loads(base64.b64decode(merged["source"].partition(",")[2])) == LAYER2
    seed = one["k3s-1-seed-iso"].task_request
    assert MARK in seed["files"]["openstack/latest/user_data"]
    ready = one["k3s-1-ready"].task_request
    assert ready["status_key"] == sshkeys.ed25519_private(seed_of("k3s-1-status-key"), "layer1-status")
    assert ready["host_key"] == sshkeys.ed25519_public(seed_of("k3s-1-host-key"), "k3s-1")


def test_layer2s_ignition_goes_to_its_node_alone(patch: pytest.MonkeyPatch, cache: Path) -> None:
    secret = {"layer2_ignition": json.dumps({"b": LAYER2})}
    both = run_program(_raw({"name": "a"}, {"name": "b"}), patch, cache, secret)
    merged = {
        name: json.loads(both[f"{name}-ignition"].task_request["butane"])["ignition"]["config"]["merge"]
        for name in "ab"
    }
    assert merged["a"] == []
    assert len(merged["b"]) == 1


def test_the_output_is_not_secret_and_what_is_has_an_output_of_its_own(one: Run) -> None:
    assert "layer1" not in one.secret_exports
    for name, value in one.exports.items():
        if any(secret in json.dumps(value) for secret in _secret_texts("k3s-1")):
            assert name != "layer1"
            assert name in one.secret_exports, name


def test_the_output_keeps_the_contract(one: Run) -> None:
    read = Layer1Outputs.model_validate(one.exports["layer1"])
    node = read.nodes["k3s-1"]
    assert node.address == one["k3s-1-ready"].task_request["address"]
    assert node.ssh_host_key == sshkeys.ed25519_public(seed_of("k3s-1-host-key"), "k3s-1")
    assert {name for name, wall in node.walls.items() if not wall.on} == {
        *("hypervisor", "svirt", "memory_hard_limit", "image_signature"),
    }


def test_the_plan_says_what_is_weaker(one: Run) -> None:
    assert sum("WEAKER" in line for line in one.log) == 4


# What goes to libvirt.
def test_the_pool_is_claimed_before_it_is_made(one: Run) -> None:
    directory = f"/var/lib/libvirt/images/layer1-{STACK}"
    assert one["home-claim"].task_request == {
        "uri": "qemu:///system",
        "name": f"layer1-{STACK}",
        "directory": directory,
    }
    assert one["home-pool"].real["target"] == {"path": directory}
    assert one["home-pool"].real["name"] == f"layer1-{STACK}"


def test_only_a_verified_or_own_file_becomes_a_volume(run: Run) -> None:
    sources = {r.name: r.real["source"] for r in run.resources if "source" in r.real}
    for name, source in sources.items():
        kind = "/cache/images/" if name.endswith("-base") else "/work/seeds/"
        assert source.startswith(kind), name
    assert all("format" in r.real for r in run.of_type("libvirt:index/volume:Volume")), "never probed"


def test_volumes_carry_the_sheet_that_closes_them(run: Run) -> None:
    for volume in run.of_type("libvirt:index/volume:Volume"):
        assert "0600" in volume.real["xml"]["xslt"], volume.name


def test_the_domain_is_put_together_from_its_parts(one: Run) -> None:
    domain = one["k3s-1-domain"].real
    assert domain["disks"] == [
        {"volumeId": "id-of-k3s-1-root"},
        {"volumeId": "id-of-k3s-1-data-longhorn"},
        {"blockDevice": "/dev/disk/by-id/usb-a"},
    ]
    assert domain["cloudinit"] == "id-of-k3s-1-seed-volume;seed"
    (card,) = domain["networkInterfaces"]
    assert card["networkId"] == "id-of-home-network"
    assert card["mac"] == one["k3s-1-address"].task_request["mac"].upper()
    assert (domain["type"], domain["machine"], domain["autostart"]) == ("qemu", "q35", True)
    assert not {"consoles", "graphics", "video", "qemuAgent", "filesystems"} & domain.keys()
    assert one["k3s-1-root"].real["size"] == 20 * 1024**3
    assert one["k3s-1-root"].real["format"] == "qcow2"
    assert one["k3s-1-seed-volume"].real["format"] == "iso"


def test_the_network_is_ours_and_its_dhcp_serves_reservations(one: Run) -> None:
    network = one["home-network"].real
    assert (network["name"], network["mode"]) == (f"layer1-{STACK}", "nat")
    assert network["addresses"] == ["10.11.0.0/24"]
    assert len(network["bridge"]) <= 15
    assert one["k3s-1-address"].task_request["network"] == f"layer1-{STACK}"


def test_two_hosts_have_a_connection_each(patch: pytest.MonkeyPatch, cache: Path) -> None:
    hosts = {"home": WEAK, "attic": WEAK | {"uri": "qemu+ssh://operator@attic/system"}}
    nodes = [{"name": "a", "host": "home"}, {"name": "b", "host": "attic"}]
    both = run_program(_raw(*nodes, hosts=hosts), patch, cache)
    assert both["attic-libvirt"].real["uri"] == "qemu+ssh://operator@attic/system"
    for node, host in (("a", "home"), ("b", "attic")):
        for name in (f"{node}-root", f"{node}-domain", f"{node}-seed-volume"):
            assert both[name].request.provider.startswith(both[f"{host}-libvirt"].urn)
        assert both[f"{node}-ready"].task_request["uri"] == both[f"{host}-libvirt"].real["uri"]
    assert both["home-network"].real["bridge"] != both["attic-network"].real["bridge"]


# What the program says when it cannot.
def _refusal(raw: dict[str, Any], patch: pytest.MonkeyPatch, cache: Path, **secret: str) -> str:
    with pytest.raises(pulumi.RunError) as caught:
        run_program(raw, patch, cache, secret)
    assert caught.value.__cause__ is None, "one line, no traceback"
    return str(caught.value)


def test_a_bad_configuration_ends_the_program_in_one_message(patch: pytest.MonkeyPatch, cache: Path) -> None:
    said = _refusal(_raw({"name": "K3S"}, {"name": "a", "ip": "10.9.9.9"}), patch, cache)
    assert said.startswith("the stack's configuration has 2 problems:\n  layer1:nodes[0].name: must be")
    assert "layer1:nodes[1].ip: is outside" in said


@pytest.mark.parametrize("value", [f"{MARK} {{", MARK, f'["{MARK}"]', f'{{"token": "{MARK}"}}', ""])
@pytest.mark.parametrize("key", ["nodes", "network", "tokn"])
def test_a_value_of_the_wrong_kind_is_not_repeated(
    key: str, value: str, patch: pytest.MonkeyPatch, cache: Path
) -> None:
    said = _refusal(_raw({"name": "a"}) | {key: value}, patch, cache)
    assert f"layer1:{key}" in said
    assert MARK not in said


def test_layer2s_ignition_in_plain_text_is_refused(patch: pytest.MonkeyPatch, cache: Path) -> None:
    raw = _raw({"name": "a"}) | {"layer2_ignition": json.dumps({"a": LAYER2})}
    said = _refusal(raw, patch, cache)
    assert "layer1:layer2_ignition: is in plain text; set it with `pulumi config set --secret" in said
    assert MARK not in said


def test_a_bad_ignition_of_layer2s_is_not_repeated(patch: pytest.MonkeyPatch, cache: Path) -> None:
    said = _refusal(_raw({"name": "a"}), patch, cache, layer2_ignition=f"{{{MARK}")
    assert "layer1:layer2_ignition: must be a JSON mapping of node names to Ignition configs" in said
    assert MARK not in said


def test_a_missing_practice_image_is_told_with_the_way_out(patch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    said = _refusal(_raw({"name": "a"}), patch, tmp_path)
    assert said == "the practice image was not built on this machine; run `make lab`"


def test_an_official_stack_stops_at_an_installer_that_nobody_pinned(
    patch: pytest.MonkeyPatch, cache: Path
) -> None:
    said = _refusal(_raw({"name": "a"}, images={}, k3s={}), patch, cache)
    assert "has no pinned digest in assets/images.lock.yaml" in said
    assert "image pin" in said


# Who may import what.
def _imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return {name.partition(".")[0] for name in names}


def test_each_provider_has_one_importer() -> None:
    importers: dict[str, set[str]] = {}
    for path in [*(REPOSITORY / "components").rglob("*.py"), REPOSITORY / "__main__.py"]:
        for name in _imports(path):
            importers.setdefault(name, set()).add(path.name)
    assert importers["pulumi_libvirt"] == {"_libvirt.py"}
    assert importers["pulumi_command"] == {"_commands.py"}


def test_the_core_never_imports_pulumi() -> None:
    sources = list((REPOSITORY / "layer1").rglob("*.py"))
    assert len(sources) > 20
    for path in sources:
        assert not {name for name in _imports(path) if name.startswith("pulumi")}, path
        assert "components" not in _imports(path), path
