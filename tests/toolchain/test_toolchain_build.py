"""Recipes, the cache, and programs that are already there."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from toolchain_support import FakeMachine

from toolchain.build import build, recipe_key
from toolchain.find import on_path, search_path
from toolchain.golang import Go
from toolchain.links import link
from toolchain.programs import PROGRAMS, ModuleFile, Program, by_name
from toolchain.report import SetupError


def search(machine: FakeMachine) -> str:
    return search_path(machine.work / "bin")


def test_key_changes_with_whatever_shapes_the_program(machine: FakeMachine) -> None:
    base = recipe_key(machine.program(), "1.26.9")
    assert recipe_key(machine.program(), "1.26.9") == base
    others = [
        recipe_key(machine.program(), "1.26.10"),
        recipe_key(machine.program(version="1.2.4"), "1.26.9"),
        recipe_key(machine.program(ldflags=("-X a=b",)), "1.26.9"),
        recipe_key(machine.program(cgo=True), "1.26.9"),
        recipe_key(machine.program(package="./other"), "1.26.9"),
    ]
    recipe = machine.recipes / "tool"
    for name, content in {"go.sum": "sum", "main.go": "package main", "deep/x.go": "package deep"}.items():
        (recipe / name).parent.mkdir(exist_ok=True)
        (recipe / name).write_text(content)
        others.append(recipe_key(machine.program(), "1.26.9"))
    (recipe / "main_test.go").write_text("package main")
    assert recipe_key(machine.program(), "1.26.9") == others[-1], "tests do not shape the program"
    assert len({base, *others}) == len(others) + 1


def test_program_of_the_right_version_on_path_is_used(machine: FakeMachine) -> None:
    tool = machine.script("tool", "echo Tool v1.2.3")
    assert on_path(machine.program(), search(machine), None) == tool


@pytest.mark.parametrize(
    "body",
    ["echo v1.2.4", "echo v1.2.30", "echo v1.2.3-rc1", "echo none", "echo v1.2.3; exit 1", "echo v1.2.3 >&2"],
)
def test_program_of_another_version_is_not_used(machine: FakeMachine, body: str) -> None:
    machine.script("tool", body)
    assert on_path(machine.program(), search(machine), None) is None


def test_program_that_must_be_ours_is_not_taken_from_path(machine: FakeMachine) -> None:
    machine.script("tool", "echo v1.2.3")
    assert on_path(machine.program(from_path=False), search(machine), None) is None


def test_our_own_links_are_no_find(machine: FakeMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    link(machine.program(), machine.script("tool", "echo v1.2.3").parent, machine.work / "bin")
    monkeypatch.setenv("PATH", f"{machine.work / 'bin'}:/usr/bin:/bin")
    assert on_path(machine.program(), search(machine), None) is None


def test_plugin_that_pulumi_installed_is_used(machine: FakeMachine) -> None:
    plugin = machine.program(name="pulumi-resource-command", version_arguments=("-version",))
    place = Path.home() / ".pulumi" / "plugins" / "resource-command-v1.2.3" / plugin.name
    place.parent.mkdir(parents=True)
    place.write_text("")
    assert on_path(plugin, search(machine), None) is None, "not executable"
    place.chmod(0o755)
    assert on_path(plugin, search(machine), None) == place
    assert on_path(machine.program(name=plugin.name, version="9.9.9"), search(machine), None) is None


def test_language_host_is_used_only_from_beside_the_right_engine(machine: FakeMachine) -> None:
    extra = ModuleFile(folder="tool", module="m", path="cmd/host-exec")
    host = machine.program(name="host", version_arguments=None, extra=extra)
    machine.script("host", "")
    engine = machine.script("pulumi", "")
    assert on_path(host, search(machine), None) is None
    assert on_path(host, search(machine), engine) is None, "its launcher is missing"
    machine.script("host-exec", "")
    assert on_path(host, search(machine), engine) == machine.tools / "host"


def test_built_once_then_cached(machine: FakeMachine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.go("echo '#!/bin/sh' > $out; echo built >> $CALLS", "go1.26.9")
    os.environ["CALLS"] = str(machine.cache.parent / "calls")
    try:
        folders = {
            build(machine.program(), Go(machine.cache), machine.cache, machine.work / "log") for _ in "12"
        }
    finally:
        calls = Path(os.environ.pop("CALLS")).read_text()
    (folder,) = folders
    assert calls == "built\n"
    assert (folder / "tool").exists()
    assert folder.name.startswith("tool-1.2.3-")
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "tool 1.2.3: building ..."
    assert said[1].startswith("tool 1.2.3: built (")
    assert said[2] == "tool 1.2.3: cached"


def test_two_setups_at_once_build_once(machine: FakeMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = machine.cache.parent / "calls"
    monkeypatch.setenv("CALLS", str(calls))
    machine.go("echo built >> $CALLS; sleep 0.5; echo x > $out")

    def once() -> None:
        build(machine.program(), Go(machine.cache), machine.cache, machine.work / "log")

    threads = [threading.Thread(target=once) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls.read_text() == "built\n"


@pytest.mark.parametrize(
    ("said", "way_out"),
    [
        ("go: example.org/m@v1: dial tcp: lookup proxy: no such host", "GOPROXY"),
        ("verifying m@v1: checksum mismatch", "Do not go on"),
        ("fatal error: blkid/blkid.h: No such file or directory", "bootstrap.sh"),
        ("write /x: no space left on device", "Free disk space"),
        ("./main.go:3: undefined: nonsense", "Read the log"),
    ],
)
def test_failed_build_names_program_cause_and_way_out(machine: FakeMachine, said: str, way_out: str) -> None:
    machine.go(f"echo 'go: downloading example.org/m v1.0.0' >&2; echo '{said}' >&2; exit 1")
    with pytest.raises(SetupError) as caught:
        build(machine.program(), Go(machine.cache), machine.cache, machine.work / "log")
    message = str(caught.value)
    log = machine.work / "log" / "build-tool.log"
    assert "tool 1.2.3" in message
    assert said in message
    assert way_out in message
    assert str(log) in message
    assert "downloading" not in message
    assert "downloading" in log.read_text()
    assert not [item for item in (machine.cache / "toolchain").iterdir() if item.is_dir()], "no half result"


def test_old_go_is_not_used(machine: FakeMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.go("exit 1", "go1.19.8")
    asked: list[list[str]] = []

    def refuse(command: list[str]) -> None:
        asked.append(command)
        raise SetupError("no package index here")

    monkeypatch.setattr(Go, "_run", staticmethod(refuse))
    with pytest.raises(SetupError, match="no package index here"):
        _ = Go(machine.cache).version
    assert asked


def test_go_is_not_asked_for_when_nothing_is_built(machine: FakeMachine) -> None:
    go = Go(machine.cache)
    machine.script("tool", "echo v1.2.3")
    assert on_path(machine.program(), search(machine), None)
    assert "_found" not in vars(go)


def test_link_is_replaced_and_brings_what_belongs_beside(machine: FakeMachine, tmp_path: Path) -> None:
    program = machine.program(extra=ModuleFile(folder="tool", module="m", path="cmd/tool-exec"))
    for folder in (tmp_path / "old", tmp_path / "new"):
        folder.mkdir()
        for name in ("tool", "tool-exec"):
            (folder / name).write_text(folder.name)
        link(program, folder, tmp_path / "bin")
    assert {item.name: item.read_text() for item in (tmp_path / "bin").iterdir()} == {
        "tool": "new",
        "tool-exec": "new",
    }


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_recipe_is_complete_and_pins_the_version(program: Program) -> None:
    assert (program.recipe / "go.mod").is_file()
    assert (program.recipe / "go.sum").is_file()
    pinned = (program.recipe / "go.mod").read_text() + "".join(
        path.read_text() for path in program.recipe.glob("*.go")
    )
    assert program.version in pinned


def test_unknown_program_is_named() -> None:
    with pytest.raises(ValueError, match="unknown program nonsense; known: butane, "):
        by_name(["butane", "nonsense"])
