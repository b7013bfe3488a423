"""The build around the recipe: its key, what it leaves, how it fails."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from lab import build, steps
from lab.arm64 import build as board
from lab.arm64.firmware import kernel_arguments
from layer1.errors import ImageError, ToolError


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe of one step that makes an empty image, and a cache of its own."""
    step = tmp_path / "recipe" / "steps" / "10-only.sh"
    step.parent.mkdir(parents=True)
    step.write_text('#!/bin/bash\n# Makes it.\nqemu-img create -q -f qcow2 "$OUT/guest.qcow2" 1M\n')
    ignition = tmp_path / "ignition"
    ignition.touch()
    monkeypatch.setattr(build, "RECIPE", tmp_path / "recipe")
    monkeypatch.setattr(build, "STEPS", [step])
    monkeypatch.setattr(steps, "as_root", list)
    monkeypatch.setenv("LAB_IGNITION", str(ignition))
    monkeypatch.setenv("LAYER1_CACHE", str(tmp_path / "cache"))
    return step


def test_image_and_manifest(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = build.build()
    folder = tmp_path / "cache" / "lab" / build.recipe_key()
    assert path == folder / "image.json"
    assert sorted(p.name for p in folder.iterdir()) == ["guest.qcow2", "image.json"]
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "guest.qcow2").stat().st_mode & 0o777 == 0o444
    assert (folder.parent / "current").resolve() == folder
    assert not list(folder.parent.glob(f".{folder.name}*")), "no scratch folder stays"
    data = build.manifest()
    assert data["path"] == str(folder / "guest.qcow2")
    assert data["virtual_size_bytes"] == 1 << 20
    assert data["version"] == build.recipe_key()
    assert len(data["sha512"]) == 128
    assert "10-only: Makes it" in capsys.readouterr().out


def test_a_second_build_does_nothing(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = build.build()
    monkeypatch.setattr(build, "_build", pytest.fail)
    assert build.build() == first


def test_a_changed_recipe_is_another_image(recipe: Path) -> None:
    first = build.build()
    recipe.write_text(recipe.read_text() + "# and more\n")
    second = build.build()
    assert first != second
    assert first.exists()
    assert second.parent == (second.parent.parent / "current").resolve()


def test_a_changed_installer_changes_the_manifest_alone(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = build.build()
    before = json.loads(path.read_text())
    (tmp_path / "k3s").mkdir()
    (tmp_path / "k3s" / "install.sh").write_text("#!/bin/sh\n")
    monkeypatch.setattr(build, "K3S", tmp_path / "k3s")
    assert build.build() == path
    after = json.loads(path.read_text())
    assert before.pop("k3s_installer") != after.pop("k3s_installer")
    assert before == after


def test_a_failing_step_is_named_with_its_last_words(recipe: Path, tmp_path: Path) -> None:
    recipe.write_text("#!/bin/bash\n# Fails.\necho no such luck >&2\nexit 7\n")
    with pytest.raises(ImageError, match=r"step 10-only.sh .* status 7:\n  no such luck\n.*build-failed.log"):
        build.build()
    left = sorted(p.name for p in (tmp_path / "cache" / "lab").iterdir())
    assert left == ["build-failed.log", "build.lock"]


def test_a_recipe_that_changes_meanwhile_is_not_kept(recipe: Path, tmp_path: Path) -> None:
    recipe.write_text(recipe.read_text() + f"echo '# changed' >>{recipe}\n")
    with pytest.raises(ImageError, match="changed while the image was being built"):
        build.build()
    assert not list((tmp_path / "cache" / "lab").glob("*/image.json"))


def test_missing_tools_are_named_by_their_packages(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(build.PROGRAMS, "no-such-program", "no-such-package")
    with pytest.raises(ToolError, match="apt-get install no-such-package"):
        build.build()


def test_missing_ignition_says_how_to_get_it(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_IGNITION", "/nowhere/ignition")
    with pytest.raises(ToolError, match="no Ignition at /nowhere/ignition: run `make toolchain`"):
        build.build()


def test_manifest_before_the_build_says_what_to_do(recipe: Path) -> None:
    with pytest.raises(ImageError, match="run `python -m lab build`"):
        build.manifest()


_SCRIPTS = sorted([*build.RECIPE.rglob("*.sh"), *board.RECIPE.rglob("*.sh")])


@pytest.mark.parametrize("script", _SCRIPTS, ids=lambda path: f"{path.parents[2].name}-{path.name}")
def test_steps_are_valid_bash(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)


@pytest.mark.parametrize("name", ["init", "ignition-kargs-helper", "udhcpc-script"])
def test_initramfs_scripts_are_valid_sh(name: str) -> None:
    subprocess.run(["sh", "-n", build.RECIPE / "initramfs" / name], check=True)


@pytest.mark.parametrize("name", ["initramfs/init", "guest/usr/lib/raspberrypi-sys-mods/firstboot"])
def test_the_boards_scripts_are_valid_sh(name: str) -> None:
    subprocess.run(["sh", "-n", board.RECIPE / name], check=True)


def test_the_boards_firmware_reads_one_line_and_leaves_off_what_it_does_not_ask_for() -> None:
    plain = kernel_arguments("console=serial0,115200 root=x\ncgroup_enable=memory apparmor=1\n")
    assert plain == "console=ttyAMA0,115200 root=x cgroup_disable=memory apparmor=0"
    assert kernel_arguments("root=x cgroup_enable=memory apparmor=1") == (
        "root=x cgroup_enable=memory apparmor=1"
    )


def test_what_stays_of_the_log_holds_no_config() -> None:
    log = "\n".join(
        [
            "INFO     : Stage: files",
            'INFO     : files: op(1): [finished] writing file "/sysroot/etc/token"',
            'CRITICAL : files: op(2): [failed]   getting "data:,needle": bad',
            'CRITICAL : [failed]   user: exit 1: Cmd: "useradd" "--password" "needle" "bob"',
            "INFO     : GET http://10.0.0.1/user_data: attempt #1",
            "files failed",
            "Full config:",
            "{",
            '  "source": "data:,needle",',
            "CRITICAL : Ignition failed: failed to create files",
        ]
    )
    kept = subprocess.run(
        ["sed", "-f", build.RECIPE / "initramfs" / "keep-log.sed"],
        input=log,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert "needle" not in "".join(kept)
    assert kept[0] == "INFO     : Stage: files"
    assert kept[-1] == "CRITICAL : Ignition failed: failed to create files"
    assert "INFO     : GET http://10.0.0.1/user_data: attempt #1" in kept
    assert len(kept) == 6
