"""The environment, the state folder, the virtual environment and whole runs."""

from __future__ import annotations

import os
import shlex
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from toolchain_support import BIN, FakeMachine

from layer1.paths import REPOSITORY
from toolchain import hypervisor
from toolchain.defaults import provide_passphrase, provide_state
from toolchain.env import variables
from toolchain.report import SetupError
from toolchain.venv import STAMP, is_current, wanted_stamp

SETUP = [sys.executable, str(REPOSITORY / "toolchain" / "setup.py")]


def test_environment_puts_our_programs_first_and_embeds_state(tmp_path: Path) -> None:
    found = variables({"PATH": "/usr/bin:/bin"}, Path("/repo"), tmp_path)
    assert found["PATH"] == f"{tmp_path}/bin:/repo/.venv/bin:/usr/bin:/bin"
    assert found["VIRTUAL_ENV"] == "/repo/.venv"
    assert found["PULUMI_BACKEND_URL"] == f"file://{tmp_path}/state"
    assert found["PULUMI_CONFIG_PASSPHRASE_FILE"] == f"{tmp_path}/passphrase"
    assert found["PULUMI_SKIP_UPDATE_CHECK"] == "true"
    assert found["PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION"] == "true"
    assert found["LIBVIRT_DEFAULT_URI"] == "qemu:///system"


def test_environment_is_the_same_when_taken_twice(tmp_path: Path) -> None:
    first = variables({"PATH": "/usr/bin"}, Path("/repo"), tmp_path)
    again = variables(first, Path("/repo"), tmp_path)
    assert again["PATH"] == first["PATH"]
    assert {**first, **again} == first


@pytest.mark.parametrize(
    ("own", "absent"),
    [
        ("PULUMI_BACKEND_URL", {"PULUMI_BACKEND_URL", "PULUMI_CONFIG_PASSPHRASE_FILE"}),
        ("PULUMI_ACCESS_TOKEN", {"PULUMI_BACKEND_URL", "PULUMI_CONFIG_PASSPHRASE_FILE"}),
        ("PULUMI_CONFIG_PASSPHRASE", {"PULUMI_CONFIG_PASSPHRASE_FILE"}),
        ("PULUMI_CONFIG_PASSPHRASE_FILE", {"PULUMI_CONFIG_PASSPHRASE_FILE"}),
    ],
)
def test_the_users_own_settings_win(tmp_path: Path, own: str, absent: set[str]) -> None:
    ours = {"PULUMI_BACKEND_URL", "PULUMI_CONFIG_PASSPHRASE_FILE"}
    found = variables({"PATH": "/bin", own: "theirs"}, Path("/repo"), tmp_path)
    assert ours - set(found) == absent
    assert "theirs" not in found.values()


def test_empty_passphrase_is_the_users_choice_too(tmp_path: Path) -> None:
    found = variables({"PULUMI_CONFIG_PASSPHRASE": ""}, Path("/repo"), tmp_path)
    assert "PULUMI_CONFIG_PASSPHRASE_FILE" not in found


def test_a_shell_can_read_it(tmp_path: Path) -> None:
    work = tmp_path / "a folder; echo $HOME"
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "toolchain" / "env.py")],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "/usr/bin:/bin", "LAYER1_WORK": str(work)},
    )
    shown = subprocess.run(
        ["sh", "-c", f'eval {shlex.quote(done.stdout)}; echo "$PULUMI_BACKEND_URL"'],
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout == f"file://{work}/state\n"


def test_passphrase_is_made_once_and_is_the_owners_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = provide_passphrase(tmp_path / "work")
    first = path.read_text()
    assert len(first.strip()) >= 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    assert provide_passphrase(tmp_path / "work").read_text() == first
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [item.name for item in path.parent.iterdir()] == ["passphrase"]
    assert first.strip() not in "".join(capsys.readouterr())


def test_state_folder_is_the_owners_only(tmp_path: Path) -> None:
    assert stat.S_IMODE(provide_state(tmp_path).stat().st_mode) == 0o700


def test_virtual_environment_is_redone_when_the_lock_changes(tmp_path: Path) -> None:
    lock, python = tmp_path / "requirements.lock", tmp_path / "bin" / "python"
    lock.write_text("a==1\n")
    python.parent.mkdir()
    python.touch()
    assert not is_current(tmp_path, wanted_stamp(lock))
    (tmp_path / STAMP).write_text(wanted_stamp(lock))
    assert is_current(tmp_path, wanted_stamp(lock))
    lock.write_text("a==2\n")
    assert not is_current(tmp_path, wanted_stamp(lock))


def test_libvirtd_that_answers_is_left_alone(machine: FakeMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.script("virsh", "exit 0")
    monkeypatch.setattr(hypervisor, "_start", lambda log: pytest.fail("started"))
    hypervisor.provide_libvirtd(machine.work / "libvirtd.log")


def test_libvirtd_that_does_not_answer_names_its_log(
    machine: FakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.script("virsh", "echo 'error: Failed to connect socket' >&2; exit 1")
    monkeypatch.setattr(hypervisor, "_start", lambda log: None)
    monkeypatch.setattr(hypervisor, "has_systemd", lambda: False)
    monkeypatch.setattr(hypervisor, "TIME_LIMIT_S", 0)
    with pytest.raises(SetupError, match="Failed to connect socket") as caught:
        hypervisor.provide_libvirtd(machine.work / "libvirtd.log")
    assert str(machine.work / "libvirtd.log") in str(caught.value)


def test_libvirtd_that_lets_us_not_in_is_not_waited_for(
    machine: FakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.script("virsh", "echo 'Failed to connect socket: Permission denied' >&2; exit 1")
    monkeypatch.setattr(hypervisor, "_start", lambda log: None)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(hypervisor, "_in_group", lambda: False)
    start = time.monotonic()
    with pytest.raises(SetupError, match="usermod -aG libvirt"):
        hypervisor.provide_libvirtd(machine.work / "libvirtd.log")
    assert time.monotonic() - start < 10


def test_failure_is_a_plain_message(machine: FakeMachine) -> None:
    machine.go("echo 'dial tcp: i/o timeout' >&2; exit 1")
    done = subprocess.run(
        [*SETUP, "butane"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LAYER1_CACHE": str(machine.cache), "LAYER1_WORK": str(machine.work)},
    )
    assert done.returncode == 1
    assert done.stderr.startswith("setup: butane 0.25.0: the build failed:")
    assert "Traceback" not in done.stderr


def test_unknown_name_is_refused() -> None:
    done = subprocess.run([*SETUP, "nonsense"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.splitlines()[0][:32]) == (2, "setup: unknown program nonsense;")


def test_second_run_takes_under_two_seconds() -> None:
    assert (BIN / "pulumi").exists(), "run `python3 toolchain/setup.py` first"
    start = time.monotonic()
    done = subprocess.run(SETUP, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "building" not in done.stdout
    assert time.monotonic() - start < 2
