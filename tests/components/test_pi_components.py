"""Boards, by what they ask the engine for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from component_support import BOARD_FACTS, MARK, OPERATOR, Run, run_program, seed_of, task_of

from layer1 import sshkeys, supply
from layer1.contract import Layer1Outputs
from layer1.images.lockfile import Entry, LockFile

LAN = {"cidr": "192.168.1.0/24"}
K3S = {"name": "pi-k3s", "os": "k3s-pios", "board": "rpi4", "ip": "192.168.1.32"}
TALOS = {"name": "pi-cp", "os": "talos", "role": "controlplane", "board": "rpi5", "ip": "192.168.1.31"}
WORKER = {"name": "pi-worker", "os": "talos", "role": "worker", "board": "rpi4", "ip": "192.168.1.33"}
CARD = {"device": "/dev/disk/by-id/usb-Reader_1", "confirm_erase": "A1B2"}
BOOTED = {"booted": True}


@pytest.fixture(scope="module")
def patch(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A lock file of the test's own, in which the installer is pinned by a digest made up here."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        path = tmp_path_factory.mktemp("lock") / "images.lock.yaml"
        path.write_text("version: 1\nentries: {}\n")
        entry = {
            "url": "https://mirror.example/install.sh",
            "sha512": "0" * 128,
            "size_bytes": 1,
            "file_format": "script",
            "pinned_at": "2026-01-01T00:00:00Z",
        }
        lock = LockFile.load(path)
        lock.with_entry("k3s-installer/v1.36.4+k3s1", Entry.model_validate(entry)).save()
        monkeypatch.setattr(supply, "LOCK_FILE", path)
        yield monkeypatch


def _run(patch: pytest.MonkeyPatch, folder: Path, *nodes: dict[str, Any], **more: Any) -> Run:
    raw = {"pi": LAN, "defaults": {"ssh_authorized_keys": [OPERATOR]}, "nodes": list(nodes)} | more
    return run_program(raw, patch, folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def fresh(patch: pytest.MonkeyPatch, folder: Path) -> Run:
    """One board of each kind, image files alone."""
    return _run(patch, folder, TALOS, K3S)


@pytest.fixture(scope="module")
def booted(patch: pytest.MonkeyPatch, folder: Path) -> Run:
    return _run(patch, folder, TALOS | BOOTED, WORKER | BOOTED, K3S | BOOTED)


@pytest.fixture(params=["fresh", "booted"])
def run(request: pytest.FixtureRequest) -> Run:
    return request.getfixturevalue(request.param)  # type: ignore[no-any-return]


def test_a_board_that_is_not_booted_is_an_image_file_and_nothing_more(fresh: Run) -> None:
    assert {resource.name for resource in fresh.resources} == {
        *("pi-cp", "pi-cp-image"),
        *("pi-k3s", "pi-k3s-image", "pi-k3s-host-key", "pi-k3s-status-key", "pi-k3s-apply-key"),
    }
    assert "kubeconfig" not in fresh.exports


def test_a_stack_of_boards_needs_no_hypervisor(run: Run) -> None:
    assert not run.of_type("layer1:index:Hypervisor")
    assert not [resource for resource in run.resources if "libvirt" in resource.type]


def test_booted_boards_are_configured_and_become_one_cluster(booted: Run) -> None:
    names = {resource.name for resource in booted.resources}
    assert {"talos", "talos-secrets", "talos-bootstrap", "talos-health", "talos-kubeconfig"} <= names
    for board in ("pi-cp", "pi-worker"):
        assert task_of(booted[f"{board}-applied"].real) == "talos-first-config"
        assert booted[f"{board}-config"].task_request["machine"]["platform"] == "metal"
    assert task_of(booted["pi-k3s-applied"].real) == "pi-apply"
    assert booted["talos-bootstrap"].task_request["node"] == TALOS["ip"]
    assert booted["talos-upgrade"].task_request["installers"].keys() == {TALOS["ip"], WORKER["ip"]}


def test_a_worker_that_is_yet_to_boot_is_planned_for_and_not_waited_for(
    patch: pytest.MonkeyPatch, folder: Path, booted: Run
) -> None:
    alone = _run(patch, folder, TALOS | BOOTED, WORKER, K3S | BOOTED)
    assert alone["pi-cp-config"].task_request == booted["pi-cp-config"].task_request
    assert alone["talos-health"].task_request["workers"] == []


def test_nothing_secret_goes_into_a_talos_image(run: Run) -> None:
    request = run["pi-cp-image"].task_request
    assert request["settings"] is None
    assert request["image"]["platform"] == "metal"
    assert MARK not in json.dumps(request)


def _names(run: Run) -> set[str]:
    return {resource.name for resource in run.resources}


def test_the_board_with_k3s_gets_the_stacks_keys(run: Run) -> None:
    settings = run["pi-k3s-image"].task_request["settings"]
    assert settings["host_private"] == sshkeys.ed25519_private(seed_of("pi-k3s-host-key"), "pi-k3s")
    assert settings["apply_public"] == sshkeys.ed25519_public(seed_of("pi-k3s-apply-key"), "layer1-apply")
    assert settings["ssh_authorized_keys"] == [OPERATOR]
    assert (settings["address"], settings["gateway"]) == ("192.168.1.32/24", "192.168.1.1")


def test_the_running_board_gets_what_its_image_has(booted: Run) -> None:
    request = booted["pi-k3s-applied"].task_request
    assert request["settings"] == booted["pi-k3s-image"].task_request["settings"]
    assert request["apply_key"] == sshkeys.ed25519_private(seed_of("pi-k3s-apply-key"), "layer1-apply")
    assert request["host_key"] == sshkeys.ed25519_public(seed_of("pi-k3s-host-key"), "pi-k3s")


def test_every_command_hides_its_outputs_and_its_request(run: Run) -> None:
    for command in run.commands:
        assert set(command.request.additionalSecretOutputs) == {"stdout", "stderr"}, command.name
        assert command.shown["stdin"] == "[secret]", command.name


def test_no_private_key_is_in_an_output_or_a_line_of_the_log(run: Run) -> None:
    keys = [sshkeys.ed25519_private(seed_of(f"pi-k3s-{kind}-key"), "x") for kind in ("host", "apply")]
    middles = [key.splitlines()[2] for key in keys]
    shown = json.dumps([run.exports, run.log, [resource.shown for resource in run.resources]])
    assert not [middle for middle in middles if middle in shown]
    assert run.secret_exports >= {"layer1_status_keys"}
    assert {"layer1", "layer1_boards"} & run.secret_exports == set()


def test_the_output_keeps_the_contract(run: Run) -> None:
    nodes = Layer1Outputs.model_validate(run.exports["layer1"]).nodes
    k3s, talos = nodes["pi-k3s"], nodes["pi-cp"]
    assert (k3s.board, k3s.host, k3s.domain, k3s.ssh_user) == ("rpi4", None, None, "layer1")
    assert k3s.paths is not None
    assert k3s.ssh_host_key == sshkeys.ed25519_public(seed_of("pi-k3s-host-key"), "pi-k3s")
    assert (talos.board, talos.ssh_user, talos.paths) == ("rpi5", None, None)
    assert k3s.booted == talos.booted == ("talos" in _names(run))
    assert not k3s.walls["hypervisor"].on
    place = 2 if k3s.booted else 1
    assert k3s.walls["hypervisor"].key == f"layer1:nodes[{place}].board"


def test_what_to_do_next_is_an_output(fresh: Run) -> None:
    medium = fresh.exports["layer1_boards"]["pi-k3s"]
    assert medium["image_file"] == BOARD_FACTS["image_file"]
    assert medium["next"].startswith("write the image file to a card by hand")
    assert "set booted: true on layer1:nodes[1]" in medium["next"]


def test_a_named_card_is_written_until_the_board_is_booted(patch: pytest.MonkeyPatch, folder: Path) -> None:
    request = _run(patch, folder, K3S | CARD)["pi-k3s-flash"].task_request
    assert request == CARD | {"image_file": BOARD_FACTS["image_file"], "sha256": BOARD_FACTS["sha256"]}
    assert "pi-k3s-flash" not in _names(_run(patch, folder, K3S | CARD | BOOTED))


def test_destroy_removes_the_image_file_and_writes_no_card(patch: pytest.MonkeyPatch, folder: Path) -> None:
    with_card = _run(patch, folder, K3S | CARD)
    assert with_card["pi-k3s-image"].real["delete"] == "python3 -m layer1 task pi-image-discard"
    assert "delete" not in with_card["pi-k3s-flash"].real
    undone = [c.real["delete"] for c in with_card.commands if "delete" in c.real]
    assert undone == ["python3 -m layer1 task pi-image-discard"]


def test_boards_and_domains_share_a_stack(patch: pytest.MonkeyPatch, folder: Path) -> None:
    flatcar = {"name": "k3s-1", "os": "flatcar"}
    mixed = _run(patch, folder, flatcar, K3S)
    assert set(mixed.exports["layer1"]["nodes"]) == {"k3s-1", "pi-k3s"}
    assert set(mixed.exports["layer1_status_keys"]) == {"k3s-1", "pi-k3s"}


def test_an_unpinned_talos_image_is_told_with_the_command(fresh: Run) -> None:
    assert [line for line in fresh.log if "image pin talos --version v1.13.4 --board rpi5" in line]
