"""Configurations as fixtures: what is refused and with which words, what is taken and what becomes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from unit_support import HERE, MINIMAL, OPERATOR, STACK, assert_golden, load, minimal, problems

from layer1 import config, identity
from layer1.errors import ConfigError
from layer1.plan import plan_lines
from layer1.walls import walls, weaker

INVALID = sorted((HERE / "config_invalid").glob("*.yaml"))
VALID = sorted((HERE / "config_valid").glob("*.yaml"))


def _read(path: Path) -> dict[str, Any]:
    document = yaml.safe_load(path.read_text())
    assert path.read_text().startswith("# "), "a fixture says first what it is about"
    assert set(document) <= {"config", "environment", "layer2_ignition", "expect"}
    return dict(document)


def _load_all(document: dict[str, Any]) -> tuple[Any, dict[str, str]]:
    stack = config.load(STACK, document["config"], document.get("environment", {}))
    layer2 = config.parse_layer2_ignition(
        document.get("layer2_ignition"), (node.name for node in stack.nodes)
    )
    return stack, layer2


def test_there_are_enough_invalid_configurations() -> None:
    assert len(INVALID) >= 65


@pytest.mark.parametrize("path", INVALID, ids=lambda path: path.stem)
def test_an_invalid_configuration_is_refused_in_these_words(path: Path) -> None:
    document = _read(path)
    with pytest.raises(ConfigError) as caught:
        _load_all(document)
    assert [f"{key}: {text}" for key, text in caught.value.problems] == document["expect"]
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("the stack's configuration has ")
    assert lines[1:] == [f"  {line}" for line in document["expect"]]


@pytest.mark.parametrize("path", VALID, ids=lambda path: path.stem)
def test_a_valid_configuration_becomes_this_stack(path: Path) -> None:
    stack, layer2 = _load_all(_read(path))
    resolved = stack.model_dump(mode="json") | {"layer2": layer2, "plan": plan_lines(stack)}
    assert_golden(f"config/{path.stem}.json", json.dumps(resolved, indent=1, ensure_ascii=False) + "\n")


_NAME = "must be a-z, 0-9 and inner hyphens, at most 32 characters"


@pytest.mark.parametrize("stack", ["", "Lab", "lab_1", "-lab", "lab-", "l" * 33, "lab\n", "../lab", "läb"])
def test_a_stack_whose_name_fits_no_libvirt_name_is_refused(stack: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.load(stack, minimal(), {})
    assert caught.value.problems == (("the stack's name", _NAME),)


def test_arm64_under_kvm_needs_an_arm64_host(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = minimal(arch="aarch64")
    monkeypatch.setattr(config, "_host_is_arm", lambda: False)
    assert problems(raw) == [
        "layer1:nodes[0].arch: cannot run under KVM on this host's processor; use x86_64 or an arm64 host"
    ]
    monkeypatch.setattr(config, "_host_is_arm", lambda: True)
    assert load(raw).nodes[0].firmware == "uefi"


def test_two_names_that_meet_on_one_address_are_told() -> None:
    network = {"cidr": "192.168.7.0/29"}  # room for five: among eight names two meet
    nodes = [MINIMAL["nodes"][0] | {"name": f"n{i}"} for i in range(8)]
    found = problems({"network": network, "nodes": nodes})
    assert found
    assert all("is also the address of layer1:nodes[" in line for line in found)


def test_a_mac_that_two_names_share_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "mac_address", lambda _stack, _node: "52:54:00:00:00:01")
    raw = {"nodes": [MINIMAL["nodes"][0] | {"name": name} for name in ("a", "b")]}
    assert problems(raw) == [
        "layer1:nodes[1].name: gives the same MAC as layer1:nodes[0]; choose another name"
    ]


# FK_VM_RAM_MB and FK_VM_VCPUS: the node's own value, else the environment's, else the stack's, else ours.
_PRECEDENCE = [
    ({}, {}, {}, (4096, "built-in default")),
    ({}, {"memory_mib": 2048}, {}, (2048, "layer1:defaults.memory_mib")),
    ({"FK_VM_RAM_MB": "3000"}, {}, {}, (3000, "FK_VM_RAM_MB")),
    ({"FK_VM_RAM_MB": "3000"}, {"memory_mib": 2048}, {}, (3000, "FK_VM_RAM_MB")),
    (
        {"FK_VM_RAM_MB": "3000"},
        {"memory_mib": 2048},
        {"memory_mib": 1024},
        (1024, "layer1:nodes[0].memory_mib"),
    ),
    ({}, {"memory_mib": 2048}, {"memory_mib": 1024}, (1024, "layer1:nodes[0].memory_mib")),
    ({"FK_VM_RAM_MB": ""}, {"memory_mib": 2048}, {}, (2048, "layer1:defaults.memory_mib")),
]


@pytest.mark.parametrize(("environment", "defaults", "own", "expected"), _PRECEDENCE)
def test_where_the_memory_comes_from(
    environment: dict[str, str], defaults: dict[str, int], own: dict[str, int], expected: tuple[int, str]
) -> None:
    stack = load(minimal(**own) | {"defaults": defaults}, environment)
    found = stack.nodes[0].memory_mib
    assert (found.value, found.origin) == expected
    assert f"{expected[0]} MiB ({expected[1]})" in plan_lines(stack)[0]


@pytest.mark.parametrize(
    ("environment", "defaults", "own", "expected"),
    [
        ({k.replace("RAM_MB", "VCPUS"): v and "6" for k, v in e.items()}, {"vcpus": 4} if d else {}, o, w)
        for (e, d, _, _), o, w in zip(
            _PRECEDENCE,
            [{}, {}, {}, {}, {"vcpus": 3}, {"vcpus": 3}, {}],
            [
                (2, "built-in default"),
                (4, "layer1:defaults.vcpus"),
                (6, "FK_VM_VCPUS"),
                (6, "FK_VM_VCPUS"),
                (3, "layer1:nodes[0].vcpus"),
                (3, "layer1:nodes[0].vcpus"),
                (4, "layer1:defaults.vcpus"),
            ],
            strict=True,
        )
    ],
)
def test_where_the_processors_come_from(
    environment: dict[str, str], defaults: dict[str, int], own: dict[str, int], expected: tuple[int, str]
) -> None:
    found = load(minimal(**own) | {"defaults": defaults}, environment).nodes[0].vcpus
    assert (found.value, found.origin) == expected


def test_the_disk_has_no_environment_variable() -> None:
    assert load(environment={"FK_VM_DISK_GB": "99"}).nodes[0].disk_gib.value == 20


# What would break out of XML, YAML, a unit file or a shell, at every key that takes a text.
_BREAKOUTS = [
    "<x/>",
    "a'b",
    'a"b',
    "a&b",
    "]]>",
    "a\nb",
    "a\r\nb",
    "a\tb",
    "a\0b",
    "a\u2028b",
    "a\x1bb",
    "$(reboot)",
    "`reboot`",
    "a;b",
    "a|b",
    "a b",
    "a\\b",
    "${HOME}",
    "%n{b}",
    "{{b}}",
    "@HOSTNAME@ b",
    "*b: [c",
    "ä\u202eb",
]
_NODE = "layer1:nodes[0]"
_TEXT_KEYS: dict[str, tuple[str, Any]] = {
    "host-uri": ("qemu+ssh://host", lambda v: minimal() | {"hosts": {"home": {"uri": v}}}),
    "pool-path": ("/srv/a", lambda v: minimal() | {"hosts": {"home": {"pool_path": v}}}),
    "accel": ("kvm", lambda v: minimal() | {"hosts": {"home": {"accel": v}}}),
    "svirt": ("none", lambda v: minimal() | {"hosts": {"home": {"svirt": v}}}),
    "cidr": ("10.11.0.0/24", lambda v: minimal() | {"network": {"cidr": v}}),
    "mode": ("nat", lambda v: minimal() | {"network": {"mode": v}}),
    "source": ("official", lambda v: minimal() | {"images": {"flatcar": {"source": v}}}),
    "version": ("4593.2.5", lambda v: minimal() | {"images": {"flatcar": {"version": v}}}),
    "flavour": ("openstack", lambda v: minimal() | {"images": {"flatcar": {"flavour": v}}}),
    "base-url": ("https://host/a", lambda v: minimal() | {"images": {"flatcar": {"base_url": v}}}),
    "base-url-file": ("file:///a", lambda v: minimal() | {"images": {"flatcar": {"base_url": v}}}),
    "k3s-version": ("v1.36.4+k3s1", lambda v: minimal() | {"k3s": {"version": v}}),
    "installer-url": ("https://host/a", lambda v: minimal() | {"k3s": {"installer_url": v}}),
    "installer-host": ("https://host", lambda v: minimal() | {"k3s": {"installer_url": v}}),
    "releases-url": ("https://host/a", lambda v: minimal() | {"k3s": {"releases_url": v}}),
    "key-file": ("a.pub", lambda v: minimal() | {"defaults": {"ssh_authorized_key_files": [v]}}),
    "name": ("k3s-1", lambda v: minimal(name=v)),
    "os": ("flatcar", lambda v: minimal(os=v)),
    "host": ("home", lambda v: minimal(host=v)),
    "arch": ("x86_64", lambda v: minimal(arch=v)),
    "firmware": ("bios", lambda v: minimal(firmware=v)),
    "ip": ("10.11.0.20", lambda v: minimal(ip=v)),
    "updates": ("off", lambda v: minimal(updates=v)),
    "data-disk": ("data", lambda v: minimal(data_disks=[{"name": v, "size_gib": 1}])),
    "passthrough": ("/dev/disk/by-id/a", lambda v: minimal(passthrough_disks=[v])),
}


@pytest.mark.parametrize("key", _TEXT_KEYS)
def test_no_text_can_break_out_of_what_it_is_written_into(key: str) -> None:
    good, put = _TEXT_KEYS[key]
    values = [form for text in _BREAKOUTS for form in (f"{good}{text}zq7", f"zq7{text}{good}", f"zq7{text}")]
    values += [form for control in "\n\r\t\0 " for form in (good + control, control + good)]
    for value in values:
        found = problems(put(value))
        assert len(found) == 1, (value, found)
        assert "zq7" not in found[0], value


@pytest.mark.parametrize("control", ["\n", "\r", "\t", "\0", "\x7f", "\u2028", "\u0085"])
def test_a_key_stays_on_its_line(control: str) -> None:
    found = problems(minimal(ssh_authorized_keys=[OPERATOR + control + "x"]))
    assert [line.partition(": ")[0] for line in found] == [f"{_NODE}.ssh_authorized_keys[0]"]


def test_walls_repeat_each_key_that_weakens_one() -> None:
    strong = load()
    assert not weaker(strong, strong.nodes[0])
    weak = load(
        minimal()
        | {
            "hosts": {"home": {"accel": "tcg", "svirt": "none", "memory_hard_limit": False}},
            "images": {"flatcar": {"source": "practice"}},
        }
    )
    lost = weaker(weak, weak.nodes[0])
    assert {wall.name: wall.key for wall in lost} == {
        "hypervisor": "layer1:hosts.home.accel",
        "svirt": "layer1:hosts.home.svirt",
        "memory_hard_limit": "layer1:hosts.home.memory_hard_limit",
        "image_signature": "layer1:images.flatcar.source",
    }
    assert all(wall.text for wall in lost)
    lines = plan_lines(weak)
    assert [line for line in lines if "WEAKER" in line] == [
        f"k3s-1: WEAKER: {wall.name}: {wall.text} ({wall.key})" for wall in lost
    ]
    assert [wall.name for wall in walls(strong, strong.nodes[0])] == [
        wall.name for wall in walls(weak, weak.nodes[0])
    ]


def test_layer2_ignition_keeps_its_content() -> None:
    given = {"k3s-1": {"ignition": {"version": "3.4.0"}, "storage": {"files": []}}}
    found = config.parse_layer2_ignition(json.dumps(given), ["k3s-1", "k3s-2"])
    assert {name: json.loads(text) for name, text in found.items()} == given
    assert config.parse_layer2_ignition(None, ["k3s-1"]) == {}
