"""Reading a host: the script that runs there, for real on files of this machine, and how it gets there."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest
from audit_support import STACK, load

from layer1 import audit
from layer1.audit import collect, host_facts
from layer1.errors import HostError
from layer1.findings import Verdict


def request(folder: Path, *files: Path) -> dict[str, object]:
    return {"domains": [], "uuids": [], "directory": str(folder), "files": [str(file) for file in files]}


def image(path: Path, *options: str) -> Path:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *options, str(path)], check=True)
    return path


def test_an_overlay_and_its_base_are_read_without_a_program_that_opens_them(tmp_path: Path) -> None:
    base = image(tmp_path / "base.qcow2", "-o", "size=1M")
    top = image(tmp_path / "top.qcow2", "-b", str(base), "-F", "qcow2")
    top.chmod(0o640)
    host = collect.read_host("qemu:///system", request(tmp_path, top))
    seen = host.files[str(top)]
    assert seen is not None
    assert (seen.mode, seen.format, seen.backing, seen.external_data) == ("0640", "qcow2", str(base), False)
    assert seen.sha512 is None, "an overlay changes all the time: nothing to compare"
    below = host.files[str(base)]
    assert below is not None
    assert below.sha512 == hashlib.sha512(base.read_bytes()).hexdigest()
    assert (below.backing, below.uid) == (None, base.stat().st_uid)


def test_what_lies_below_outside_the_pool_is_named_but_not_hashed(tmp_path: Path) -> None:
    pool = tmp_path / "pool"
    pool.mkdir()
    elsewhere = image(tmp_path / "base.qcow2", "-o", "size=1M")
    top = image(pool / "top.qcow2", "-b", str(elsewhere), "-F", "qcow2")
    found = collect.read_host("qemu:///system", request(pool, top)).files[str(elsewhere)]
    assert found is not None
    assert found.sha512 is None


def test_data_in_another_file_and_raw_are_seen(tmp_path: Path) -> None:
    apart = image(tmp_path / "a.qcow2", "-o", f"size=1M,data_file={tmp_path}/a.raw,data_file_raw=on")
    raw = tmp_path / "b.iso"
    raw.write_bytes(b"\0" * 4096)
    host = collect.read_host("qemu:///system", request(tmp_path, apart, raw, tmp_path / "gone"))
    assert [file and file.external_data for file in (host.files[str(apart)], host.files[str(raw)])] == [
        True,
        False,
    ]
    assert host.files[str(raw)].format == "raw"  # type: ignore[union-attr]
    assert host.files[str(tmp_path / "gone")] is None
    assert host.directory is not None
    assert host.directory.mode == "0700"


def test_a_request_cannot_become_code(tmp_path: Path) -> None:
    odd = tmp_path / "it's \"odd\" '); print(1); #\\.iso"
    odd.write_bytes(b"x")
    assert collect.read_host("qemu:///system", request(tmp_path, odd)).files[str(odd)] is not None


def test_the_script_needs_nothing_of_ours() -> None:
    source = Path(host_facts.__file__).read_text()
    assert "layer1" not in "".join(line for line in source.splitlines() if "import" in line)


@pytest.mark.parametrize(
    ("groups", "files", "limits"),
    [
        (
            "0::/machine.slice/machine-a.scope/libvirt/emulator\n",
            {
                "machine.slice/machine-a.scope/libvirt/memory.max": "1024\n",
                "machine.slice/memory.max": "max\n",
            },
            {"/machine.slice/machine-a.scope/libvirt": "1024", "/machine.slice": "max"},
        ),
        (
            "4:memory:/machine/a\n0::/machine/a/emulator\n",
            {"memory/machine/a/memory.limit_in_bytes": "2048\n"},
            {"/machine/a": "2048"},
        ),
        ("0::/\n", {}, None),
    ],
)
def test_the_memory_limit_is_found_where_libvirt_puts_it(
    groups: str,
    files: dict[str, str],
    limits: dict[str, str] | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    real = host_facts._text
    monkeypatch.setattr(host_facts, "_text", lambda path: real(path.replace("/sys/fs/cgroup", str(tmp_path))))
    assert host_facts._memory_max(groups) == limits


def test_a_remote_host_is_read_by_ssh_on_the_terms_of_its_uri() -> None:
    command = collect._command("qemu+ssh://ops@attic.example:2222/system?keyfile=/k&knownhosts=/h")
    assert command[0] == "ssh"
    assert command[-2] == "attic.example"
    assert command[command.index("-p") : command.index("-p") + 2] == ["-p", "2222"]
    assert command[command.index("-l") : command.index("-l") + 2] == ["-l", "ops"]
    assert "StrictHostKeyChecking=yes" in command
    assert "UserKnownHostsFile=/h" in command
    assert "IdentityFile=/k" in command
    with pytest.raises(HostError, match=r"only by qemu\+ssh"):
        collect._command("qemu+tls://attic.example/system")


def test_a_host_that_cannot_be_reached_makes_every_row_unknown_and_none_hold() -> None:
    # A port of this machine where nobody listens.
    stack = load(hosts={"home": {"uri": "qemu+ssh://nobody@127.0.0.1:1/system"}}, images={})
    found = audit.run(stack, audit.Outputs())
    assert {each.subject for each in found} == {f"stack {STACK}", "k3s-1"}
    assert {each.verdict for each in found} == {Verdict.UNKNOWN}
