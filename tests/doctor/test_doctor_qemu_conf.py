"""qemu.conf as libvirt reads it; the file that Debian ships is read too."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from layer1.doctor.qemu_conf import Value, parse
from layer1.errors import HostError


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("", {}),
        ("# security_driver = 'none'\n#seccomp_sandbox=0", {}),
        ('security_driver = "apparmor"', {"security_driver": "apparmor"}),
        ("security_driver='none' # off", {"security_driver": "none"}),
        ('user = "a # b"\n\tgroup\t=\t"c"', {"user": "a # b", "group": "c"}),
        ("seccomp_sandbox = -1\nmax_core=0", {"seccomp_sandbox": -1, "max_core": 0}),
        (
            'security_driver = [ "selinux", # first\n  "apparmor",\n]',
            {"security_driver": ["selinux", "apparmor"]},
        ),
        ("namespaces = []", {"namespaces": []}),
        ('note = """two\nlines"""', {"note": "two\nlines"}),
        ("a = 1\na = 1", {"a": 1}),
    ],
)
def test_what_is_set_is_read_and_a_comment_is_not(text: str, settings: dict[str, Value]) -> None:
    assert parse(text) == settings


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a = 1\na = 0", "a is set twice"),
        ("a 1", "`name = value`"),
        ("a =", "a value should"),
        ('a = "open', "line 1: is not understood"),
        ("a = 1\n!", "line 2: is not understood"),
        ('a = ["x"', "not closed"),
        ("= 1", "`name = value`"),
        ("a = [[]]", "a value should"),
    ],
)
def test_what_libvirt_would_refuse_is_refused(text: str, said: str) -> None:
    with pytest.raises(HostError, match=r"qemu\.conf") as caught:
        parse(text)
    assert said in str(caught.value)


def _examples_switched_on(text: str) -> str:
    """The text with each commented example `#name = value` in force; a list goes on to its bracket."""
    lines, within = [], False
    for line in text.splitlines():
        example = within or re.match(r"#[a-z_0-9]+ ?=", line)
        lines.append(line.removeprefix("#") if example else line)
        within = bool(example) and "]" not in line and (within or "[" in line)
    return "\n".join(lines)


def test_debians_own_file_is_understood_with_every_example_of_it_switched_on() -> None:
    settings = parse(_examples_switched_on(Path("/etc/libvirt/qemu.conf").read_text()))
    assert settings["security_require_confined"] == 1
    assert settings["seccomp_sandbox"] == 1
    assert settings["security_driver"] == "selinux"
    devices = settings["cgroup_device_acl"]
    assert isinstance(devices, list)
    assert "/dev/urandom" in devices
    assert len(settings) > 60
