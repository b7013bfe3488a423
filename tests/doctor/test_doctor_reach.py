"""How a host is examined that is another machine, and what is said when it is not let in."""

from __future__ import annotations

import os
import socket
import subprocess
from dataclasses import asdict
from pathlib import Path

import pytest

from layer1.doctor import host_probe, reach
from layer1.doctor.check import Unlearned
from layer1.doctor.host_probe import Facts, Wish
from layer1.doctor.view import Libvirt, Needs, read_capabilities, wish
from layer1.model import HostConfig

WISH = Wish("/var/lib/libvirt/images", "/var/lib/libvirt/images/none", ["/etc/hostname"])


@pytest.fixture
def transport(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for ssh: runs the last argument in a shell, as sshd does, and writes all of them down."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "ssh"
    program.write_text(
        f'#!/bin/bash\nprintf \'%s\\n\' "$@" >{tmp_path}/seen\ncd / && exec sh -c "${{@: -1}}"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    return tmp_path / "seen"


def test_another_machine_is_examined_by_the_same_file(transport: Path) -> None:
    facts = reach.ask_host("qemu+ssh://operator@attic:2222/system?keyfile=/keys/own", WISH)
    assert isinstance(facts, Facts)
    here = host_probe.examine(WISH)
    assert (facts.arch, facts.files, facts.vulnerabilities) == (here.arch, here.files, here.vulnerabilities)
    assert facts.daemon == here.daemon
    assert [asdict(step) for step in facts.pool.steps] == [asdict(step) for step in here.pool.steps]
    words = transport.read_text().splitlines()
    assert words[words.index("-p") + 1] == "2222"
    assert words[words.index("-l") + 1] == "operator"
    assert {"BatchMode=yes", "StrictHostKeyChecking=yes", "IdentityFile=/keys/own"} <= set(words)


def test_a_host_that_no_ssh_reaches_is_not_learned(tmp_path: Path) -> None:
    """The real ssh, to a port of this machine that nobody listens on."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        uri = f"qemu+ssh://127.0.0.1:{port}/system?knownhosts={tmp_path}/none"
        facts, libvirt = reach.ask_host(uri, WISH), reach.ask_libvirt(uri)
    assert isinstance(facts, Unlearned)
    assert "Connection refused" in facts.evidence
    assert f"ssh -p {port} 127.0.0.1 true" in facts.remedy
    assert isinstance(libvirt, Unlearned)
    assert f"virsh -c qemu+ssh://127.0.0.1:{port}/system version" in libvirt.remedy


@pytest.mark.parametrize(
    ("python", "said", "remedy"),
    [
        ("exit 127", "ended with 127", "apt-get install python3"),
        ("echo Traceback >&2; exit 1", "Traceback", "without a question"),
        ("echo '{}'", "not understood", "Python 3.10"),
    ],
)
def test_a_host_without_a_python_that_will_do_is_not_learned(
    python: str, said: str, remedy: str, transport: Path
) -> None:
    program = transport.parent / "bin" / "python3"
    program.write_text(f"#!/bin/sh\n{python}\n")
    program.chmod(0o755)
    facts = reach.ask_host("qemu+ssh://attic/system", WISH)
    assert isinstance(facts, Unlearned)
    assert said in facts.evidence
    assert remedy in facts.remedy


def test_a_host_behind_tls_shows_its_libvirt_alone() -> None:
    facts = reach.ask_host("qemu+tls://attic/system", WISH)
    assert isinstance(facts, Unlearned)
    assert "qemu+ssh://" in facts.remedy


def _virsh(*words: str) -> str:
    done = subprocess.run(
        ["virsh", "-q", "-c", "qemu:///system", *words], capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.mark.engine
def test_libvirt_of_this_machine_is_understood() -> None:
    found = reach.ask_libvirt("qemu:///system")
    assert isinstance(found, Libvirt)
    assert ".".join(map(str, found.version)) in _virsh("version", "--daemon")
    assert found.hypervisor.startswith("QEMU ")
    assert "dac" in found.secmodels
    assert found.qemu_user.isdigit()
    assert "qemu" in found.guests["x86_64"]
    assert wish(HostConfig(), Needs(), found).qemu_user == found.qemu_user


def test_what_is_not_libvirts_answer_is_not_understood() -> None:
    good = "Running against daemon: 9.0.0\nRunning hypervisor: QEMU 7.2.22\n"
    assert read_capabilities(good, "<capabilities><host/></capabilities>").secmodels == ()
    for versions, capabilities in (("", "<capabilities/>"), (good, "no XML")):
        with pytest.raises(ValueError, match="not understood"):
            read_capabilities(versions, capabilities)
