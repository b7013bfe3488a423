"""How a host on another machine is reached: what OpenSSH and virsh themselves make of our words."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from layer1 import host_ssh, ssh, virsh

URI = "qemu+ssh://operator@attic:2222/system?keyfile=/keys/own&knownhosts=/keys/attic&sshauth=privkey"


def _effective(uri: str) -> dict[str, str]:
    """Return ssh's own account of the settings that it would use to jump through a host."""
    words = shlex.split(host_ssh.proxy_command(uri))
    at = words.index("-W")
    command = [words[0], "-G", "-F", "none", *words[1:at], words[-1]]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return dict(line.split(" ", 1) for line in said.splitlines() if " " in line)


def test_the_jump_takes_the_key_and_the_known_hosts_of_the_uri() -> None:
    settings = _effective(URI)
    assert settings["hostname"] == "attic"
    assert settings["port"] == "2222"
    assert settings["user"] == "operator"
    assert settings["identityfile"] == "/keys/own"
    assert settings["identitiesonly"] == "yes"
    assert settings["userknownhostsfile"] == "/keys/attic"
    assert settings["globalknownhostsfile"] == "/dev/null"
    assert settings["stricthostkeychecking"] == "true"
    assert settings["batchmode"] == "yes"


def test_what_the_uri_leaves_open_is_the_users_own_but_never_the_check_of_the_host() -> None:
    settings = _effective("qemu+ssh://attic/system")
    assert settings["port"] == "22"
    assert settings["identitiesonly"] == "no"
    assert settings["userknownhostsfile"].startswith(("~/.ssh/known_hosts", str(Path.home())))
    assert settings["stricthostkeychecking"] == "true"


def test_a_host_behind_tls_is_jumped_through_on_the_port_of_ssh() -> None:
    assert _effective("qemu+tls://attic:16514/system")["port"] == "22"


def test_only_another_machine_is_remote() -> None:
    assert not host_ssh.is_remote("qemu:///system")
    assert host_ssh.is_remote("qemu+ssh://attic/system")
    assert host_ssh.is_remote("qemu+tls://attic/system")


@pytest.fixture
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An ssh that writes down its arguments and refuses."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "ssh"
    program.write_text(f"#!/bin/sh\nprintf '%s\\n' \"$@\" >{tmp_path}/seen\nexit 255\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    return tmp_path / "seen"


def test_virsh_reaches_the_host_with_the_same_settings(seen: Path) -> None:
    assert virsh.virsh(URI, "version").returncode != 0
    words = seen.read_text().splitlines()
    for option in ("IdentityFile=/keys/own", "UserKnownHostsFile=/keys/attic", "StrictHostKeyChecking=yes"):
        assert option in words
    assert words[words.index("-p") + 1] == "2222"
    assert words[words.index("-l") + 1] == "operator"
    assert "StrictHostKeyChecking=no" not in words
    assert "sshauth" not in " ".join(words), "an option of the provider's is nothing to the host's libvirt"


def test_a_node_is_reached_through_its_host(seen: Path) -> None:
    login = ssh.Login(user="core", address="10.11.0.20", host_key="ssh-ed25519 AAAA", key="k", jump=URI)
    with ssh.session(login) as ask:
        ask("status")
    assert f"ProxyCommand={host_ssh.proxy_command(URI)}" in seen.read_text().splitlines()


def test_a_node_on_this_machine_is_reached_straight(seen: Path) -> None:
    login = ssh.Login(user="core", address="10.11.0.20", host_key="k", key="k", jump="qemu:///system")
    with ssh.session(login) as ask:
        ask("status")
    assert "ProxyCommand" not in seen.read_text()
