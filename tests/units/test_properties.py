"""Property tests: whatever comes in, an error is a ConfigError without values, and names give identities."""

from __future__ import annotations

import base64
import copy
import json
import subprocess
from collections.abc import Callable
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit_support import MINIMAL, OPERATOR, STACK

from layer1 import butane, config, identity, ignition, model, sshkeys
from layer1.errors import ConfigError, RenderError
from layer1.plan import plan_lines
from layer1.talos import machine_config
from layer1.talos import stack as talos_stack

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(
        [
            "",
            "k3s-1",
            "flatcar",
            "home",
            "nat",
            "none",
            "10.11.0.0/24",
            "10.11.0.20",
            "qemu:///system",
            OPERATOR,
        ]
    )
)
KEY_NAMES = st.sampled_from(
    [
        *("hosts", "network", "images", "k3s", "defaults", "nodes", "layer2_ignition", "home", "flatcar"),
        *("talos", "role", "virtual_ip", "endpoint", "schematic", "registry", "time_servers", "encryption"),
        *("schedule_on_control_planes", "talosconfig_serial", "nameservers", "operator_networks"),
        *(
            "name",
            "os",
            "host",
            "arch",
            "firmware",
            "ip",
            "memory_mib",
            "vcpus",
            "disk_gib",
            "updates",
            "uri",
        ),
        *("ssh_authorized_keys", "ssh_authorized_key_files", "data_disks", "passthrough_disks", "size_gib"),
        *("pool_path", "accel", "svirt", "memory_hard_limit", "cidr", "mode", "version", "source", "flavour"),
        *("base_url", "installer_url", "releases_url", "ready_timeout_s"),
    ]
)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(KEY_NAMES | st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
FULL: dict[str, Any] = {
    "hosts": {
        "home": {
            "uri": "qemu+ssh://operator@host/system?keyfile=/k",
            "pool_path": "/srv/images",
            "accel": "kvm",
            "svirt": "apparmor",
            "memory_hard_limit": True,
        },
        "pi": {"uri": "qemu+ssh://operator@pi/system", "board": "rpi5", "memory_mib": 8192},
    },
    "network": {"cidr": "10.11.0.0/24", "mode": "nat"},
    "images": {
        "flatcar": {
            "source": "official",
            "version": "4593.2.5",
            "flavour": "openstack",
            "base_url": "https://mirror.example/flatcar",
        },
        "talos": {
            "version": "v1.13.4",
            "schematic": "schematic.yaml",
            "disk": "qcow2",
            "base_url": "https://mirror.example/talos",
            "registry": "mirror.example/talos",
        },
        "raspios": {
            "release": "bookworm",
            "version": "2026-06-18@2026-06-19",
            "base_url": "https://mirror.example/raspios",
        },
    },
    "pi": {
        "cidr": "192.168.1.0/24",
        "gateway": "192.168.1.254",
        "nameservers": ["192.168.1.254"],
        "operator_networks": ["192.168.1.7"],
        "user": "anna",
        "image_path": "/srv/images",
    },
    "talos": {
        "cluster_name": "talos",
        "endpoint": "talos.example",
        "virtual_ip": "10.11.0.9",
        "kubernetes_version": "1.36.0",
        "encryption": "node-id",
        "nameservers": ["10.11.0.1"],
        "time_servers": ["time.example"],
        "operator_networks": ["10.11.0.1"],
        "schedule_on_control_planes": True,
        "talosconfig_serial": 1,
        "bootstrap_timeout_s": 900,
    },
    "k3s": {
        "version": "v1.36.4+k3s1",
        "installer_url": "https://mirror.example/install.sh",
        "releases_url": "https://mirror.example/releases",
    },
    "defaults": {
        "memory_mib": 4096,
        "vcpus": 2,
        "disk_gib": 20,
        "ssh_authorized_keys": [OPERATOR],
        "ssh_authorized_key_files": [],
        "ready_timeout_s": 600,
    },
    "nodes": [
        {
            "name": "k3s-1",
            "os": "flatcar",
            "role": "server",
            "host": "home",
            "arch": "x86_64",
            "firmware": "bios",
            "ip": "10.11.0.20",
            "memory_mib": 2048,
            "vcpus": 1,
            "disk_gib": 20,
            "ssh_authorized_keys": [OPERATOR],
            "updates": "off",
            "data_disks": [{"name": "data", "size_gib": 1}],
            "passthrough_disks": ["/dev/disk/by-id/usb-a"],
        },
        {"name": "k3s-2", "os": "flatcar", "host": "home"},
        {"name": "cp-1", "os": "talos", "role": "controlplane", "host": "home"},
        {
            "name": "pi-1",
            "os": "k3s-pios",
            "board": "rpi4",
            "ip": "192.168.1.31",
            "booted": False,
            "device": "/dev/disk/by-id/usb-Reader_1",
            "confirm_erase": "A1B2",
            "maintenance_fingerprint": None,
            "install_disk": None,
        },
    ],
}
ENVIRONMENT = st.dictionaries(
    st.sampled_from(["FK_VM_RAM_MB", "FK_VM_VCPUS"]), st.text(max_size=8) | st.integers().map(str)
)


def _places(tree: Any, at: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Every place in a tree, its root left out."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [place for key, value in items for place in ((*at, key), *_places(value, (*at, key)))]


PLACES = _places(FULL)


def _put(place: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    raw = copy.deepcopy(FULL)
    inner: Any = raw
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return raw


def _refusal(read: Callable[[], object]) -> str:
    """What a reader says when it refuses, with what hangs on the error; another exception goes through."""
    try:
        read()
    except ConfigError as error:
        refused = error
    else:
        return ""
    assert refused.problems
    return f"{refused} {refused.__cause__!r}"


def _message(raw: Any, environment: dict[str, str], stack: str = STACK) -> str:
    return _refusal(lambda: plan_lines(config.load(stack, raw, environment)))


def test_the_full_sample_is_valid_and_has_every_key() -> None:
    assert config.load(STACK, FULL, {}).nodes[0].ip == "10.11.0.20"
    models = (
        config.HostConfig,
        config.NetworkConfig,
        config.K3sConfig,
        config.DefaultsConfig,
        config.NodeConfig,
        config.BoardConfig,
        config.PiConfig,
        config.TalosConfig,
        model.RaspiosImageConfig,
        model.TalosImageConfig,
    )
    known = {key for model in models for key in model.model_fields}
    assert known <= {place[-1] for place in PLACES}


@given(
    st.dictionaries(KEY_NAMES | st.text(max_size=8), ANYTHING, max_size=6), ENVIRONMENT, st.text(max_size=9)
)
def test_no_structure_gives_anything_but_a_config_error(
    raw: dict[str, Any], environment: dict[str, str], stack: str
) -> None:
    _message(raw, environment, stack)
    _message(raw, environment)


@given(st.lists(st.tuples(st.sampled_from(PLACES), ANYTHING), min_size=1, max_size=3), ENVIRONMENT)
def test_no_mutation_of_a_good_configuration_gives_anything_but_a_config_error(
    changes: list[tuple[tuple[str | int, ...], Any]], environment: dict[str, str]
) -> None:
    raw = copy.deepcopy(FULL)
    for place, value in changes:
        inner: Any = raw
        try:
            for key in place[:-1]:
                inner = inner[key]
            inner[place[-1]] = value
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change took the place away
    _message(raw, environment)


SECRET = "s3cr3tzq7"
# Long and short, alone and inside what the key expects: pydantic shortens long inputs to head and tail.
_FORMS = [
    SECRET,
    SECRET * 40,
    [SECRET],
    {"token": SECRET},
    {"name": SECRET, "os": SECRET},
    f"qemu+ssh://operator:{SECRET}@host/system",
    f"qemu+ssh://operator@host/system?password={SECRET}",
    f"https://{SECRET}@mirror.example/x",
    f"https://mirror.example/x?token={SECRET}",
    f"ssh-ed25519 {SECRET} me",
    f"-----BEGIN OPENSSH PRIVATE KEY-----\n{SECRET}\n-----END OPENSSH PRIVATE KEY-----",
    f"/dev/disk/by-id/{SECRET}/../x",
    f"v1.36.4+{SECRET}",
    f"{SECRET}\n",
]


@pytest.mark.parametrize("form", _FORMS, ids=range(len(_FORMS)))
def test_a_secret_at_any_known_key_is_never_repeated(form: Any) -> None:
    for place in PLACES:
        assert SECRET not in _message(_put(place, form), {}), place


@given(st.sampled_from(PLACES), ANYTHING, st.text(max_size=6))
def test_a_secret_in_any_structure_is_never_repeated(
    place: tuple[str | int, ...], around: Any, beside: str
) -> None:
    hidden: list[Any] = [[around, SECRET], {"a key": [{"value": SECRET + beside}]}, beside + SECRET]
    for value in hidden:
        assert SECRET not in _message(_put(place, value), {})


@given(st.text(max_size=6), st.text(max_size=6))
def test_a_secret_in_the_environment_is_never_repeated(before: str, after: str) -> None:
    for name in config.ENVIRONMENT:
        with pytest.raises(ConfigError) as caught:
            config.load(STACK, MINIMAL, {name: before + SECRET + after})
        assert SECRET not in str(caught.value)


@given(ANYTHING, st.text(max_size=10))
def test_layer2_ignition_never_gives_anything_but_a_config_error_without_values(
    inner: Any, text: str
) -> None:
    for given_text in (
        text + SECRET,
        json.dumps(inner),
        json.dumps({"k3s-1": SECRET}),
        json.dumps({"k3s-1": [inner, SECRET]}),
        json.dumps({"k3s-1": {"ignition": SECRET}, text: inner}),
        json.dumps({"k3s-1": {"ignition": {"version": "3.4.0"}}, "other": {"ignition": {"x": SECRET}}}),
        '{"k3s-1": {"ignition": {"version": "' + SECRET,
        "[" * 100_000,
    ):
        said = _refusal(lambda text=given_text: config.parse_layer2_ignition(text, ["k3s-1"]))
        assert SECRET not in said


# Identity.
NAMES = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,14}[a-z0-9])?", fullmatch=True)
NETWORKS = st.builds(
    lambda base, prefix: IPv4Network((base, prefix), strict=False),
    st.integers(10 << 24, (11 << 24) - 1),
    st.integers(16, 29),
)


@given(NAMES, NAMES, NETWORKS)
def test_an_identity_hangs_on_the_names_alone(stack: str, node: str, network: IPv4Network) -> None:
    mac = identity.mac_address(stack, node)
    octets = bytes.fromhex(mac.replace(":", ""))
    assert len(octets) == 6
    assert mac.startswith("52:54:00:")
    assert mac == mac.lower()
    assert not octets[0] & 1, "a multicast address is no card's"
    assert octets[0] & 2, "locally administered: no vendor has it"
    address = identity.address(stack, node, network)
    assert address in network
    assert network[1] < address < network.broadcast_address
    if network.num_addresses > 32:
        assert address >= network[10]
    assert len(identity.bridge_name(stack, node)) <= 15
    again = (identity.mac_address(stack, node), identity.address(stack, node, network))
    assert again == (mac, address)
    assert identity.domain_uuid(stack, node) == identity.domain_uuid(stack, node)


@given(NAMES, NAMES, NAMES, NAMES)
def test_other_names_are_another_identity(stack: str, node: str, stack2: str, node2: str) -> None:
    same = (stack, node) == (stack2, node2)
    assert (identity.domain_uuid(stack, node) == identity.domain_uuid(stack2, node2)) == same
    assert (identity.bridge_name(stack, node) == identity.bridge_name(stack2, node2)) == same
    assert (identity.content_id(stack, node) == identity.content_id(stack2, node2)) == same


def test_parts_of_a_name_cannot_be_moved_into_the_next() -> None:
    assert identity.mac_address("a", "bc") != identity.mac_address("ab", "c")
    assert identity.content_id("a", "") != identity.content_id("", "a") != identity.content_id("a")


# SSH keys.
@pytest.mark.parametrize("comment", ["k3s-1", "", "a b"])
def test_ssh_keygen_reads_the_key_that_we_write(comment: str, tmp_path: Path) -> None:
    for seed in (b"\0" * 32, b"\xff" * 32, bytes(range(32))):
        path = tmp_path / seed.hex()
        path.touch(mode=0o600)
        path.write_text(sshkeys.ed25519_private(seed, comment))
        public = sshkeys.ed25519_public(seed, comment).strip()
        read = subprocess.run(["ssh-keygen", "-y", "-f", path], check=True, capture_output=True, text=True)
        assert read.stdout.strip() == public
        printed = subprocess.run(
            ["ssh-keygen", "-l", "-f", "-"], input=public, check=True, capture_output=True, text=True
        )
        assert printed.stdout.split()[1] == sshkeys.fingerprint(public)


@given(st.binary(min_size=32, max_size=32), NAMES)
def test_a_seed_gives_one_key(seed: bytes, comment: str) -> None:
    private = sshkeys.ed25519_private(seed, comment)
    assert private == sshkeys.ed25519_private(seed, comment)
    assert max(map(len, private.splitlines())) <= 70
    public = sshkeys.ed25519_public(seed, comment)
    assert sshkeys.public_key_problem(public) is None
    assert sshkeys.public_key_problem(private) is not None


@given(
    st.text(max_size=80)
    | st.binary(max_size=80).map(lambda data: "ssh-ed25519 " + base64.b64encode(data).decode())
)
def test_what_is_wrong_with_a_key_is_said_without_it(text: str) -> None:
    problem = sshkeys.public_key_problem(text)
    for form in (text, f"ssh-rsa {text}", f"ecdsa-sha2-nistp256 {text}", f"{OPERATOR[:40]}{text}"):
        found = sshkeys.public_key_problem(form)
        assert found is None or len(form) < 12 or form not in found
    assert problem is None or isinstance(problem, str)


@given(st.integers(0, 66))
def test_a_key_cut_anywhere_is_refused(keep: int) -> None:
    kind, body, _ = OPERATOR.split(" ")
    assert sshkeys.public_key_problem(f"{kind} {body[:keep]}") is not None


@given(st.binary(min_size=1, max_size=40))
def test_a_key_with_more_behind_it_is_refused(more: bytes) -> None:
    kind, body, _ = OPERATOR.split(" ")
    longer = base64.b64encode(base64.b64decode(body) + more).decode()
    assert sshkeys.public_key_problem(f"{kind} {longer}") is not None


# The Butane template.
LEAVES = st.none() | st.booleans() | st.integers() | st.text(max_size=12)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
)


def _shape(item: Any) -> Any:
    """The tree without what its leaves hold."""
    if isinstance(item, dict):
        return {key: _shape(value) for key, value in item.items()}
    return [_shape(value) for value in item] if isinstance(item, list) else "leaf"


@given(st.text(max_size=30), st.text(max_size=30))
def test_a_text_never_changes_the_shape_of_the_tree(one: str, other: str) -> None:
    tree = {
        "a": ["@ONE@", {"b": "before @ONE@ and @OTHER@ after\n"}, 5, None],
        "c": {"d": "no placeholder: @one@ user@host @"},
    }
    result = butane.substitute(tree, {"ONE": one, "OTHER": other})
    assert _shape(result) == _shape(tree)
    assert result["a"] == [one, {"b": f"before {one} and {other} after\n"}, 5, None]
    assert result["c"] == tree["c"]
    assert json.loads(json.dumps(result)) == result


@given(VALUES)
def test_a_scalar_that_is_one_placeholder_takes_any_value_and_nothing_more(value: Any) -> None:
    tree = {"whole": "@VALUE@", "list": ["@VALUE@"], "other": 1}
    assert butane.substitute(tree, {"VALUE": value}) == {"whole": value, "list": [value], "other": 1}
    assert tree == {"whole": "@VALUE@", "list": ["@VALUE@"], "other": 1}


def test_a_value_that_looks_like_a_placeholder_stays_a_value() -> None:
    assert butane.substitute({"a": "@ONE@", "b": "x @TWO@"}, {"ONE": "@TWO@", "TWO": "@ONE@"}) == {
        "a": "@TWO@",
        "b": "x @ONE@",
    }


def test_a_template_and_its_values_must_match() -> None:
    with pytest.raises(RenderError, match=r"without a value \['MISSING'\], without a place \['SPARE'\]"):
        butane.substitute({"a": "@MISSING@"}, {"SPARE": 1})


# Paths that cannot be written.
SEGMENTS = st.lists(st.from_regex(r"[a-z0-9.-]{1,6}", fullmatch=True), min_size=1, max_size=3)


@given(SEGMENTS, st.sampled_from(["files", "directories", "links"]))
def test_only_what_lies_below_a_read_only_place_is_refused(segments: list[str], kind: str) -> None:
    path = "/" + "/".join(segments)
    read_only = segments[0] in {"usr", "bin", "sbin", "lib", "lib64"}
    assert ignition.read_only_paths({"storage": {kind: [{"path": path}]}}) == ([path] if read_only else [])
    for place in ("/usr", "/bin", "/sbin", "/lib", "/lib64"):
        assert ignition.read_only_paths({"storage": {kind: [{"path": place + path}]}}) == [place + path]
        assert not ignition.read_only_paths({"storage": {kind: [{"path": f"/opt{place}{path}"}]}})
        assert not ignition.read_only_paths({"storage": {kind: [{"path": f"{place}x{path}"}]}})


# Talos: what the configuration lets through, the cluster's own checks take as well.
_OCTETS = st.lists(st.integers(6, 250), min_size=6, max_size=6, unique=True)


@given(
    octets=_OCTETS,
    planes=st.sampled_from([1, 3, 5]),
    worker=st.booleans(),
    virtual=st.booleans(),
    talos=st.fixed_dictionaries({"encryption": st.sampled_from(["none", "node-id"]), "cluster_name": NAMES}),
)
def test_every_valid_cluster_is_one_that_talosctl_can_be_told_of(
    octets: list[int], planes: int, worker: bool, virtual: bool, talos: dict[str, Any]
) -> None:
    names = [*(f"cp-{at}" for at in range(planes)), *(["worker"] if worker else [])]
    nodes = [
        {
            "name": name,
            "os": "talos",
            "role": "worker" if name == "worker" else "controlplane",
            "ip": f"10.11.0.{octet}",
        }
        for name, octet in zip(names, octets, strict=False)
    ]
    leads = {"virtual_ip": "10.11.0.5"} if virtual else {"endpoint": f"{talos['cluster_name']}.example"}
    stack = config.load(STACK, {"talos": talos | leads, "nodes": nodes}, {})
    cluster = talos_stack.cluster_spec(stack)
    for node in stack.nodes:
        assert machine_config.patches(cluster, talos_stack.machine_spec(stack, node))
