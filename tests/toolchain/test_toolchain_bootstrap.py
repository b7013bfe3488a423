"""The script that a fresh machine runs first."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from toolchain_support import FakeMachine

from layer1.paths import REPOSITORY


@pytest.fixture
def script(machine: FakeMachine, tmp_path: Path) -> Path:
    """The script beside a short list and a setup that only says so; root, and packages of our making."""
    place = tmp_path / "toolchain"
    place.mkdir()
    (place / "debian-packages.txt").write_text("# a comment\nthere\n\nmissing # why\nleft-behind\nmissing\n")
    (place / "setup.py").write_text("")
    shutil.copy(REPOSITORY / "toolchain" / "bootstrap.sh", place)
    machine.script("id", "echo 0")
    machine.script("python3", 'echo "setup $*"')
    machine.script("dpkg-query", "echo 'there installed'; echo 'left-behind config-files'")
    machine.script("apt-get", f'echo "$*" >> {tmp_path / "apt"}')
    return place / "bootstrap.sh"


def run(script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", str(script), *arguments], capture_output=True, text=True, check=False)


def test_missing_packages_are_installed_then_setup_runs(script: Path, tmp_path: Path) -> None:
    done = run(script, "butane")
    assert done.returncode == 0, done.stderr
    update, install = (tmp_path / "apt").read_text().splitlines()
    assert update.endswith(" update")
    assert install.endswith(" install --no-install-recommends missing left-behind")
    assert done.stdout.splitlines()[-1] == f"setup {script.parent / 'setup.py'} butane"


def test_apt_is_not_asked_when_all_is_there(script: Path, tmp_path: Path, machine: FakeMachine) -> None:
    machine.script("dpkg-query", "for p in there missing left-behind; do echo $p installed; done")
    assert run(script).returncode == 0
    assert not (tmp_path / "apt").exists()


def test_failed_install_names_the_way_out(script: Path, machine: FakeMachine) -> None:
    machine.script("apt-get", 'case "$*" in *install*) exit 100;; esac')
    done = run(script)
    assert done.returncode == 1
    assert "apt-get install failed" in done.stderr
    assert "setup" not in done.stdout


def test_neither_root_nor_sudo_names_the_command(script: Path, machine: FakeMachine) -> None:
    machine.script("id", "echo 1000")
    machine.script("sudo", "exit 1")
    done = run(script)
    assert done.returncode == 1
    assert "apt-get install --no-install-recommends missing left-behind" in done.stderr


def test_the_list_of_packages_is_sound() -> None:
    lines = (REPOSITORY / "toolchain" / "debian-packages.txt").read_text().splitlines()
    names = [name for line in lines if (name := line.split("#")[0].strip())]
    assert len(names) == len(set(names)), "twice on the list"
    assert {"python3-venv", "libvirt-daemon-system", "gcc", "libblkid-dev", "swtpm", "xsltproc"} <= set(names)
