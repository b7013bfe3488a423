"""Waiting for a node: what is read from it, and what is said when it does not come.

Stand-ins: an `ssh` and a `virsh` on PATH that answer what a test wrote; everything between them is ours.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit_support import KEYS

from layer1 import guest_log, host_ssh, node_ready, node_status, tasks
from layer1.errors import NodeError, ToolTimeoutError
from layer1.node_ready import Target

SECRET = KEYS.host_private
TARGET = Target(
    uri="qemu:///system",
    domain="layer1-unit-k3s-1",
    hostname="k3s-1",
    address="127.0.0.9",
    host_key=KEYS.host_public,
    status_key=SECRET,
    network="layer1-unit",
    pool="layer1-unit",
    root_volume="k3s-1-root.qcow2",
    timeout_s=1,
)
BRIEF = dataclasses.replace(TARGET, timeout_s=0.3)  # type: ignore[arg-type]  # whole seconds take long
READY = """schema=1
hostname=k3s-1
os=flatcar
k3s_installed=v1.36.4+k3s1
unit.usr-local-bin.mount=active/mounted/success
unit.k3s-install.service=active/exited/success
unit.k3s-config.path=active/waiting/success
unit.k3s.service=inactive/dead/success
system=running
"""

Put = Callable[..., Path]


@pytest.fixture
def edge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Put:
    """Put stand-ins on PATH; each call of `ssh` leaves its arguments and the files they name."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setattr(node_ready, "_POLL_S", 0.01)
    monkeypatch.setattr(guest_log, "read", lambda *_: [])

    def put(
        *, said: str = "", error: str = "", code: int = 0, state: str = "running (booted)", leases: str = ""
    ) -> Path:
        seen = tmp_path / "seen"
        seen.mkdir(exist_ok=True)
        for name, text in (("said", said), ("error", error), ("state", state), ("leases", leases)):
            (tmp_path / name).write_text(text)
        (folder / "ssh").write_text(
            f"""#!/bin/sh
printf '%s\\n' "$@" >{seen}/arguments
while [ $# -gt 0 ]; do
    case $1 in
    -i)
        cp "$2" {seen}/key
        stat -c %a "$2" >{seen}/key_mode
        stat -c %a "$(dirname "$2")" >{seen}/folder_mode
        ;;
    UserKnownHostsFile=*) cp "${{1#*=}}" {seen}/known_hosts ;;
    esac
    shift
done
cat {tmp_path}/said; cat {tmp_path}/error >&2; exit {code}
"""
        )
        (folder / "virsh").write_text(
            f"""#!/bin/sh
case "$*" in
*domstate*) [ -s {tmp_path}/state ] || exit 1; cat {tmp_path}/state ;;
*net-dhcp-leases*) cat {tmp_path}/leases ;;
*hostname*) [ ! -e {tmp_path}/unreachable ] ;;
*) exit 1 ;;
esac
"""
        )
        for program in folder.iterdir():
            program.chmod(0o755)
        return seen

    return put


def _refusal(target: Target = BRIEF) -> str:
    with pytest.raises(NodeError) as caught:
        node_ready.wait(target)
    said = str(caught.value)
    assert not any(line in said for line in SECRET.splitlines()[1:-1]), "the key that asks is a secret"
    return said


def test_a_node_that_is_ready_gives_its_status(edge: Put) -> None:
    edge(said=READY)
    status = node_ready.wait(TARGET)
    assert status["hostname"] == ["k3s-1"]
    request = json.dumps(dataclasses.asdict(TARGET))
    assert json.loads(tasks.run("node-ready", request)) == status


def test_a_failed_unit_elsewhere_does_not_hold_the_node_back(edge: Put) -> None:
    edge(said=READY.replace("system=running", "system=degraded") + "failed=foo.service\n")
    assert node_ready.wait(TARGET)["failed"] == ["foo.service"]


def test_how_the_node_is_asked(edge: Put) -> None:
    seen = edge(said=READY)
    node_ready.wait(TARGET)
    arguments = (seen / "arguments").read_text().splitlines()
    assert arguments[-2:] == [f"layer1-status@{TARGET.address}", "status"]
    for option in (
        "StrictHostKeyChecking=yes",
        "BatchMode=yes",
        "IdentitiesOnly=yes",
        "GlobalKnownHostsFile=/dev/null",
        "PreferredAuthentications=publickey",
    ):
        assert option in arguments
    assert arguments[arguments.index("-F") + 1] == "none", "no configuration of the user's interferes"
    assert not any(argument.startswith("Proxy") for argument in arguments)
    assert (seen / "known_hosts").read_text() == f"{TARGET.address} {TARGET.host_key}\n"
    assert (seen / "key").read_text() == SECRET
    assert ((seen / "key_mode").read_text(), (seen / "folder_mode").read_text()) == ("600\n", "700\n")
    assert not any(line in "\n".join(arguments) for line in SECRET.splitlines())
    key = arguments[arguments.index("-i") + 1]
    assert not Path(key).exists()


def test_a_node_on_another_host_is_asked_through_it(edge: Put) -> None:
    uri = "qemu+ssh://operator@attic:2222/system?keyfile=/k"
    seen = edge(said=READY)
    node_ready.wait(dataclasses.replace(TARGET, uri=uri))
    assert f"ProxyCommand={host_ssh.proxy_command(uri)}" in (seen / "arguments").read_text().splitlines()


def test_a_node_on_another_host_that_is_late_says_nothing_of_a_port_that_only_the_host_sees(
    edge: Put,
) -> None:
    edge(error="no route\n", code=255)
    said = _refusal(dataclasses.replace(BRIEF, uri="qemu+ssh://operator@attic/system"))
    assert "port 22" not in said
    assert "port 22" in _refusal(BRIEF)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (("schema=1", "schema=2"), "its status script speaks another version"),
        (("hostname=k3s-1", "hostname=other"), f"the machine at {TARGET.address} calls itself other"),
        (
            ("active/exited/success", "failed/failed/exit-code"),
            "the k3s installer failed on the node; its log ends:\n  line one\n  line = two",
        ),
    ],
)
def test_what_will_not_mend_ends_the_wait_at_once(changed: tuple[str, str], said: str, edge: Put) -> None:
    edge(said=READY.replace(*changed) + "install_log=line one\ninstall_log=line = two\n")
    assert f"k3s-1: {said}" in _refusal(dataclasses.replace(TARGET, timeout_s=600))


def test_a_host_that_does_not_answer_is_no_node_that_stopped(edge: Put, tmp_path: Path) -> None:
    edge(state="")
    (tmp_path / "unreachable").touch()
    said = _refusal(dataclasses.replace(BRIEF, uri="qemu+ssh://operator@attic/system"))
    assert "not provisioned within" in said
    assert "the host itself does not answer" in said


def test_another_key_of_the_host_on_the_way_says_nothing_of_the_node(edge: Put) -> None:
    jumped = "Host key verification failed.\nkex_exchange_identification: Connection closed by remote host\n"
    edge(error=jumped, code=255)
    said = _refusal(dataclasses.replace(BRIEF, uri="qemu+ssh://operator@attic/system"))
    assert "another machine has the address" not in said


def test_another_host_key_ends_the_wait_at_once(edge: Put) -> None:
    edge(error="Host key verification failed.\n", code=255)
    said = _refusal(dataclasses.replace(TARGET, timeout_s=600))
    assert "has another SSH host key than the stack's; another machine has the address" in said


@pytest.mark.parametrize("state", ["shut off (destroyed)", "crashed (panicked)", "pmsuspended (unknown)", ""])
def test_a_domain_that_stopped_ends_the_wait_at_once(state: str, edge: Put) -> None:
    edge(state=state, code=255)
    said = _refusal(dataclasses.replace(TARGET, timeout_s=600))
    assert f"k3s-1: the domain layer1-unit-k3s-1 is {state or 'gone'} after " in said
    assert "nothing that could be read from its disk; look at the log of its QEMU" in said
    assert "/var/log/libvirt/qemu/layer1-unit-k3s-1.log" in said


def test_what_the_guest_left_on_its_disk_is_told(edge: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest_log, "read", lambda *where: [f"CRITICAL: {where}"])
    edge(state="shut off (shutdown)")
    assert "The guest said:\n  CRITICAL: ('qemu:///system', 'layer1-unit', 'k3s-1-root.qcow2')" in _refusal()


def test_too_late_tells_all_that_is_known(edge: Put) -> None:
    edge(
        said=READY.replace("active/exited", "activating/start").replace(
            "k3s_installed=v1.36.4+k3s1", "k3s_installed="
        )
        + "failed=foo.service\ninstall_log=curl: (7) refused\n",
        leases=f"{TARGET.address}/24 k3s-1",
    )
    lines = _refusal().splitlines()
    assert lines[0] == (
        "k3s-1: not provisioned within 0.3 s (layer1:defaults.ready_timeout_s). What is known:"
    )
    for line in (
        "  the domain is running (booted)",
        "  its address is leased",
        "  port 22 is closed",
        "  it answers, but is not provisioned yet",
        "  the system is running",
        "  unit.k3s-install.service=activating/start/success",
        "  failed unit: foo.service",
        "  curl: (7) refused",
    ):
        assert line in lines


def test_too_late_without_any_answer(edge: Put) -> None:
    edge(error="ssh: connect to host 127.0.0.9 port 22: Connection refused\n", code=255)
    said = _refusal()
    assert "its address is not leased: the guest never asked for one" in said
    assert "ssh: connect to host 127.0.0.9 port 22: Connection refused" in said


@pytest.mark.parametrize("missing", ["k3s_installed", "unit.k3s-config.path", "system"])
def test_a_status_without_one_of_its_lines_is_not_ready(missing: str, edge: Put) -> None:
    edge(said="".join(line for line in READY.splitlines(keepends=True) if not line.startswith(missing)))
    assert "it answers, but is not provisioned yet" in _refusal()


def test_a_status_is_lines_of_names_and_values() -> None:
    text = "a=1\nb=\nnoise\na=2 = 3\n\n=x\n"
    assert node_status.parse_status(text) == {"a": ["1", "2 = 3"], "b": [""], "": ["x"]}


@given(st.text(max_size=200))
def test_no_answer_of_a_guest_is_too_odd_to_be_read(text: str) -> None:
    status = node_status.parse_status(text)
    problem = node_status.wrong(status, TARGET.hostname, TARGET.address)
    assert problem is not None or status["schema"][0] == "1"
    assert isinstance(node_status.provisioned(status), bool)


@given(
    st.dictionaries(
        st.from_regex(r"[a-z_.]{1,8}", fullmatch=True),
        st.lists(st.from_regex(r"[ -~]{0,9}", fullmatch=True), min_size=1),
    )
)
def test_every_value_of_a_status_is_kept(values: dict[str, list[str]]) -> None:
    text = "\n".join(f"{name}={value}" for name in values for value in values[name])
    assert node_status.parse_status(text) == values


def test_an_answer_that_takes_too_long_is_asked_for_again(edge: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    edge()
    answers = [ToolTimeoutError("ssh: no answer within 45 s; it was ended"), READY]

    def ask(command: str) -> subprocess.CompletedProcess[str]:
        answer = answers.pop(0)
        if isinstance(answer, ToolTimeoutError):
            raise answer
        return subprocess.CompletedProcess([command], 0, answer, "")

    monkeypatch.setattr(node_ready.ssh, "session", lambda login: contextlib.nullcontext(ask))
    assert node_status.provisioned(node_ready.wait(TARGET))
    assert answers == []
