"""The programs of the operator's machine: the real ones, none, and ones of another version."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from layer1 import config, sshkeys
from layer1.doctor import tools
from layer1.doctor.tools import Tool, find, judge
from layer1.findings import Verdict
from toolchain.programs import PROGRAMS

KEY = sshkeys.ed25519_public(b"\x01" * 32, "operator@example")
BUTANE = next(tool for tool in tools._IGNITION if tool.name == "butane")
ALL = (
    *tools._ENGINE,
    *tools._LIBVIRT,
    *tools._IMAGES,
    *tools._SIGNED,
    *tools._SSH,
    *tools._IGNITION,
    *tools._TALOS,
    *tools._BOARD_FILES,
)


def program(folder: Path, name: str, script: str) -> dict[str, str]:
    folder.mkdir(exist_ok=True)
    place = folder / name
    place.write_text(f"#!/bin/sh\n{script}\n")
    place.chmod(0o755)
    return {"PATH": str(folder)}


@pytest.mark.parametrize("tool", ALL, ids=lambda tool: tool.name)
def test_every_program_of_this_machine_is_found_and_right(tool: Tool) -> None:
    found = find(tool, os.environ)
    assert judge(tool, found).verdict == Verdict.HOLDS, found


def test_the_versions_are_those_that_setup_provides() -> None:
    provided = {program.name: program.version for program in PROGRAMS}
    wanted = {tool.name: tool.version for tool in ALL if tool.version}
    assert wanted == {name: provided[name] for name in wanted}
    assert len(wanted) >= 7


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    answer = judge(BUTANE, find(BUTANE, {"PATH": str(tmp_path)}))
    assert (answer.verdict, answer.evidence, answer.remedy) == (
        Verdict.BROKEN,
        "butane: not on PATH",
        "make setup",
    )
    debian = Tool(name="no-such-program", package="xsltproc", lost="x")
    assert "apt-get install xsltproc" in judge(debian, find(debian, {"PATH": str(tmp_path)})).remedy


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo Butane 0.24.0", "0.24.0; 0.25.0 is wanted"),
        ("echo Butane was not built properly", "does not say its version"),
        ("echo Butane 0.25.0; exit 1", "does not say its version"),
        ("kill -9 $$", "does not say its version"),
    ],
)
def test_a_program_of_another_version_or_one_that_does_not_run(
    script: str, said: str, tmp_path: Path
) -> None:
    answer = judge(BUTANE, find(BUTANE, program(tmp_path / "bin", "butane", script)))
    assert answer.verdict == Verdict.BROKEN
    assert said in answer.evidence


def test_a_plugin_in_pulumis_own_folder_counts(tmp_path: Path) -> None:
    plugin = next(tool for tool in tools._LIBVIRT if tool.name == "pulumi-resource-libvirt")
    folder = tmp_path / "plugins" / "resource-libvirt-v0.5.4"
    folder.parent.mkdir()
    program(folder, plugin.name, "echo 0.5.4")
    environment = {"PATH": "/nonexistent", "PULUMI_HOME": str(tmp_path)}
    assert judge(plugin, find(plugin, environment)).verdict == Verdict.HOLDS
    assert judge(plugin, find(plugin, {"PATH": "/nonexistent"})).verdict == Verdict.BROKEN


def test_a_stack_asks_for_what_it_needs_alone() -> None:
    def names(*nodes: dict[str, object], **more: object) -> set[str]:
        raw = {"nodes": list(nodes), "defaults": {"ssh_authorized_keys": [KEY]}, **more}
        return {tool.name for tool in tools.tools(config.load("unit", raw, {}))}

    flatcar = names({"name": "a", "os": "flatcar"})
    talos = names({"name": "a", "os": "talos", "role": "controlplane"})
    board = names(
        {"name": "a", "os": "k3s-pios", "board": "rpi4", "ip": "192.168.1.31"},
        pi={"cidr": "192.168.1.0/24"},
    )
    assert {"virsh", "butane", "gpgv", "ssh"} <= flatcar
    assert "talosctl" not in flatcar
    assert {"virsh", "talosctl"} <= talos
    assert not {"butane", "gpgv", "ssh", "mcopy"} & talos
    assert {"mcopy", "debugfs", "gpgv", "ssh", "pulumi"} <= board
    assert not {"virsh", "pulumi-resource-libvirt", "xsltproc", "mkisofs", "talosctl"} & board
    practice = names({"name": "a", "os": "flatcar"}, images={"flatcar": {"source": "practice"}})
    assert "gpgv" not in practice


def test_what_is_lost_is_said(tmp_path: Path) -> None:
    rows = tools.findings("this machine", None, {"PATH": str(tmp_path)})
    assert {row.verdict for row in rows if row.id.startswith("tools.pulumi")} == {Verdict.BROKEN}
    assert all(row.means and row.remedy for row in rows if row.verdict == Verdict.BROKEN)
