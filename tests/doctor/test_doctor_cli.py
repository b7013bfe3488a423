"""The command as a whole, on stacks written for it: exit codes, table, JSON, which rows there are."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from layer1 import sshkeys, stack_file
from layer1.doctor import boards, cli, examine
from layer1.doctor.check import findings
from layer1.errors import Layer1Error
from layer1.findings import Finding, Verdict
from layer1.model import Board, BoardNode, Os, Role
from layer1.pi.guard import Candidate

KEY = sshkeys.ed25519_public(b"\x01" * 32, "operator@example")
WEAK = {"accel": "tcg", "svirt": "none", "memory_hard_limit": False}
DISK = "/dev/disk/by-id/usb-Card_Reader_1-0:0"
CARD = Candidate(device=DISK, node="/dev/sda", size_bytes=32 << 30, model="Card", serial="1234", refusals=())


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Writes the file of the stack `unit`."""
    monkeypatch.setattr(stack_file, "REPOSITORY", tmp_path)
    monkeypatch.setenv("LAYER1_CACHE", str(tmp_path / "cache"))

    def write(**sections: Any) -> None:
        document = {"config": {f"layer1:{name}": value for name, value in sections.items()}}
        (tmp_path / "Pulumi.unit.yaml").write_text(yaml.safe_dump(document))

    return write


def doctor(*words: str) -> int:
    parser = argparse.ArgumentParser()
    cli.add_parser(parser.add_subparsers())
    arguments = parser.parse_args(["doctor", *words])
    return int(arguments.run(arguments))


def rows(capsys: pytest.CaptureFixture[str]) -> dict[tuple[str, str], dict[str, Any]]:
    document = json.loads(capsys.readouterr().out)
    assert (document["schema_version"], document["kind"]) == (1, "doctor")
    return {(row["subject"], row["id"]): row for row in document["findings"]}


def flatcar(**more: Any) -> dict[str, Any]:
    return {
        "nodes": [{"name": "k3s-1", "os": "flatcar"}],
        "defaults": {"ssh_authorized_keys": [KEY], "disk_gib": 13},
        "network": {"cidr": "10.213.99.0/24", "mode": "isolated"},
        "images": {"flatcar": {"source": "practice"}},
        **more,
    }


@pytest.mark.engine
def test_a_weak_stack_and_a_strong_one_on_this_machine(
    write: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    write(**flatcar(hosts={"home": WEAK}))
    started = time.monotonic()
    assert doctor("--stack", "unit", "--json") == 1  # the practice image of this cache was not built
    assert time.monotonic() - started < 10
    weak = rows(capsys)
    assert [row for row, found in weak.items() if found["verdict"] == "broken"] == [
        ("this machine", "source.image")
    ]
    assert weak["home", "libvirt.reachable"]["verdict"] == "holds"
    assert weak["home", "kvm.level"]["key"] == "layer1:hosts.home.accel"

    write(**flatcar(hosts={"home": {}}))
    assert doctor("--stack", "unit", "--json") == 1
    strong = rows(capsys)
    assert weak.keys() == strong.keys()
    for row, found in weak.items():
        if found["verdict"] == "weaker by choice" and row != ("home", "clock.synchronised"):
            assert strong[row]["verdict"] in ("broken", "holds"), row
            assert strong[row]["key"] is None
    # What is not chosen is the same for both.
    assert strong["home", "memory.ksm"] == weak["home", "memory.ksm"]


@pytest.mark.engine
def test_the_table_is_for_people_and_hosts_can_be_chosen(
    write: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    second = {"name": "k3s-2", "os": "flatcar", "host": "attic"}
    nodes = [{"name": "k3s-1", "os": "flatcar", "host": "home"}, second]
    write(
        **flatcar(hosts={"home": WEAK, "attic": {**WEAK, "uri": "qemu+ssh://a@127.0.0.1:1/system"}})
        | {"nodes": nodes}
    )
    assert doctor("--stack", "unit", "--host", "attic") == 1
    said = capsys.readouterr().out
    assert "\nattic\n" in said
    assert "\nhome\n" not in said
    assert "Connection refused" in said
    assert said.count("\n  unknown") == len(examine.HOST_CHECKS) - 2  # no firmware, no vTPM is wanted
    assert doctor("--stack", "unit", "--host", "cellar") == 2
    assert "--host cellar: no node is on such a host; hosts: attic, home" in capsys.readouterr().err


@pytest.mark.engine
def test_without_a_stack_this_machines_libvirt_is_examined(capsys: pytest.CaptureFixture[str]) -> None:
    doctor("--json")
    found = rows(capsys)
    assert ("home", "kvm.runs") in found
    assert ("home", "network.overlap") not in found
    assert not [identity for _, identity in found if identity.startswith("source.")]


def test_boards_alone_need_no_libvirt(write: Any, capsys: pytest.CaptureFixture[str]) -> None:
    board = {"name": "pi-1", "os": "k3s-pios", "board": "rpi4", "ip": "192.168.1.31"}
    write(
        pi={"cidr": "192.168.1.0/24"},
        defaults={"ssh_authorized_keys": [KEY]},
        images={"raspios": {"base_url": "http://127.0.0.1:1"}},
        k3s={"installer_url": "http://127.0.0.1:1/i", "releases_url": "http://127.0.0.1:1"},
        nodes=[{**board, "device": DISK, "confirm_erase": "1234"}],
    )
    assert doctor("--stack", "unit", "--json") == 1
    found = rows(capsys)
    assert {subject for subject, _ in found} == {"this machine", "pi-1"}
    assert ("this machine", "tools.virsh") not in found
    assert found["this machine", "source.image"]["verdict"] == "broken"
    assert found["pi-1", "pi.device"]["evidence"] == f"{DISK} is not there"
    assert ("this machine", "clock.synchronised") in found


def test_a_stack_that_is_not_there_is_one_message(write: Any) -> None:
    with pytest.raises(Layer1Error, match="no such stack file"):
        doctor("--stack", "unit")


def test_wrong_usage_is_2() -> None:
    with pytest.raises(SystemExit) as caught:
        doctor("--stacks")
    assert caught.value.code == 2


def board(**changes: Any) -> BoardNode:
    values: dict[str, Any] = {
        "key": "layer1:nodes[0]",
        "name": "pi-1",
        "os": Os.TALOS,
        "role": Role.CONTROLPLANE,
        "board": Board.RPI4,
        "ip": "192.168.1.31",
        "uuid": "00000000-0000-5000-8000-000000000000",
        "ssh_authorized_keys": (),
        "device": DISK,
        "confirm_erase": "1234",
        "booted": False,
        "maintenance_fingerprint": None,
        "install_disk": "/dev/mmcblk0",
        "ready_timeout_s": 600,
    }
    return BoardNode(**values | changes)


def _row(node: BoardNode, *candidates: Candidate) -> list[Finding]:
    return findings(node.name, (boards.DEVICE,), (node, candidates))


def test_a_card_that_may_be_written_holds_and_any_other_does_not() -> None:
    (good,) = _row(board(), CARD)
    assert (good.verdict, good.evidence) == (Verdict.HOLDS, "/dev/sda, 32 GiB, serial as confirmed")
    (gone,) = _row(board())
    assert (gone.verdict, gone.evidence) == (Verdict.BROKEN, f"{DISK} is not there")
    (other,) = _row(board(confirm_erase="9999"), CARD)
    assert other.verdict == Verdict.BROKEN
    assert "layer1:nodes[0].confirm_erase is not the serial" in other.evidence
    used = Candidate(**{**{name: getattr(CARD, name) for name in CARD.__slots__}, "refusals": ("in use",)})
    (busy,) = _row(board(), used)
    assert (busy.verdict, busy.evidence) == (Verdict.BROKEN, "in use")
    assert _row(board(booted=True), CARD) == []
    assert _row(board(device=None, confirm_erase=None), CARD) == []
