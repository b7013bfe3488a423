"""The node's first config: goldens of Butane and of what butane makes of it, and what the check refuses."""

from __future__ import annotations

import base64
import gzip
import json
import re
from typing import Any
from urllib.parse import quote, unquote_to_bytes

import pytest
from unit_support import (
    HOST_SEED,
    INSTALLER,
    KEYS,
    LAYER2,
    OPERATOR,
    STATUS_SEED,
    assert_golden,
    load,
    minimal,
)

from layer1 import butane, flatcar_seed, ignition
from layer1.errors import RenderError

EXEC_START = "ExecStart=/usr/local/bin/k3s server --config /etc/rancher/k3s/config.yaml"
SECRET = "s3cr3tzq7"
CASES: dict[str, tuple[dict[str, Any], str | None]] = {
    "default": ({}, None),
    "layer2": ({}, LAYER2),
    "updates-stage": ({"updates": "stage"}, None),
    "updates-reboot": ({"updates": "reboot"}, None),
}


def _butane(case: str) -> str:
    node, layer2 = CASES[case]
    stack = load(minimal(**node))
    return butane.render(stack.nodes[0], stack.k3s, INSTALLER, KEYS, layer2)


@pytest.fixture(scope="module")
def ignitions() -> dict[str, dict[str, Any]]:
    """Each case through the real butane; `from_butane` runs ignition-validate too."""
    return {case: json.loads(ignition.from_butane(_butane(case))) for case in CASES}


def _decode(resource: dict[str, Any]) -> str:
    header, _, body = resource["source"].partition(",")
    data = unquote_to_bytes(body)
    if header.endswith(";base64"):
        data = base64.b64decode(data)
    return (gzip.decompress(data) if resource.get("compression") == "gzip" else data).decode()


def _files(config: dict[str, Any]) -> dict[str, str]:
    return {entry["path"]: _decode(entry["contents"]) for entry in config["storage"]["files"]}


def _units(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {unit["name"]: unit for unit in config["systemd"]["units"]}


@pytest.mark.parametrize("case", CASES)
def test_the_butane_config_is_the_golden_one(case: str) -> None:
    assert_golden(f"butane/{case}.bu.json", _butane(case))
    assert _butane(case) == _butane(case)


@pytest.mark.parametrize("case", CASES)
def test_the_ignition_config_is_the_golden_one(case: str, ignitions: dict[str, dict[str, Any]]) -> None:
    assert_golden(f"ignition/{case}.ign.json", json.dumps(ignitions[case], indent=1) + "\n")


def test_the_template_has_no_placeholder_left(ignitions: dict[str, dict[str, Any]]) -> None:
    for config in ignitions.values():
        assert not re.findall(r"@[A-Z0-9_]+@", json.dumps(config) + "".join(_files(config).values()))


def test_a_comment_in_the_template_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    before = _butane("default")
    copy = tmp_path_factory.mktemp("template") / "flatcar-node.bu.yaml"
    copy.write_text("# another head\n" + butane.TEMPLATE.read_text().replace("\n# ", "\n# changed: "))
    monkeypatch.setattr(butane, "TEMPLATE", copy)
    assert _butane("default") == before


def test_what_a_node_gets(ignitions: dict[str, dict[str, Any]]) -> None:
    config = ignitions["default"]
    files, units = _files(config), _units(config)
    modes = {entry["path"]: entry["mode"] for entry in config["storage"]["directories"]}
    assert modes["/etc/rancher/k3s"] == 0o700
    assert files["/etc/hostname"] == "k3s-1\n"
    assert config["kernelArguments"] == {"shouldNotExist": ["flatcar.autologin"]}
    users = {user["name"]: user for user in config["passwd"]["users"]}
    assert users["core"] == {"name": "core", "sshAuthorizedKeys": [OPERATOR]}
    assert not any("passwordHash" in user for user in users.values())
    sshd = files["/etc/ssh/sshd_config.d/00-layer1.conf"].splitlines()
    for line in ("PasswordAuthentication no", "KbdInteractiveAuthentication no", "PermitRootLogin no"):
        assert line in sshd
    assert files["/etc/ssh/ssh_host_ed25519_key"] == KEYS.host_private
    assert files["/etc/ssh/ssh_host_ed25519_key.pub"] == KEYS.host_public + "\n"
    private = next(e for e in config["storage"]["files"] if e["path"] == "/etc/ssh/ssh_host_ed25519_key")
    assert private["mode"] == 0o600
    environment = files["/etc/layer1/k3s-install.env"].splitlines()
    for line in (
        f"LAYER1_INSTALLER_URL={INSTALLER.url}",
        f"LAYER1_INSTALLER_SHA512={INSTALLER.sha512}",
        f"GITHUB_URL={INSTALLER.releases_url}",
        "INSTALL_K3S_VERSION=v1.36.4+k3s1",
        "INSTALL_K3S_SKIP_ENABLE=true",
        "INSTALL_K3S_SKIP_SELINUX_RPM=true",
    ):
        assert line in environment
    for name in ("usr-local-bin.mount", "k3s-install.service"):
        assert units[name]["enabled"]
    assert "PathChanged=/etc/rancher/k3s/config.yaml" in units["k3s-config.path"]["contents"]
    dropin = units["k3s.service"]["dropins"][0]["contents"].splitlines()
    assert dropin[-2:] == ["ExecStart=", EXEC_START], "the installer's own ExecStart is taken away first"
    assert "ConditionPathExists=/etc/rancher/k3s/config.yaml" in dropin


@pytest.mark.parametrize(
    ("case", "update_engine", "locksmithd", "conf"),
    [
        ("default", True, True, "SERVER=disabled\nREBOOT_STRATEGY=off\n"),
        ("updates-stage", False, True, "REBOOT_STRATEGY=off\n"),
        ("updates-reboot", False, False, "REBOOT_STRATEGY=reboot\n"),
    ],
)
def test_who_updates_and_who_reboots(
    case: str, update_engine: bool, locksmithd: bool, conf: str, ignitions: dict[str, dict[str, Any]]
) -> None:
    units = _units(ignitions[case])
    assert units["update-engine.service"]["mask"] == update_engine
    assert units["locksmithd.service"]["mask"] == locksmithd
    assert _files(ignitions[case])["/etc/flatcar/update.conf"] == conf


def test_k3s_gets_no_flag_and_config_yaml_is_never_ours(ignitions: dict[str, dict[str, Any]]) -> None:
    for config in ignitions.values():
        storage = config["storage"]
        paths = [e["path"] for kind in ("files", "directories", "links") for e in storage.get(kind, [])]
        assert "/etc/rancher/k3s/config.yaml" not in paths
        assert not [path for path in paths if path.startswith("/etc/rancher/k3s/")]
        texts = [*_files(config).values()]
        for unit in config["systemd"]["units"]:
            texts += [unit.get("contents", ""), *(dropin["contents"] for dropin in unit.get("dropins", []))]
        servers = [
            line.strip() for text in texts for line in text.splitlines() if re.search(r"k3s\s+server", line)
        ]
        assert servers == [EXEC_START]
        everything = "\n".join(texts)
        for flag in (
            "INSTALL_K3S_EXEC",
            "K3S_TOKEN",
            "K3S_URL",
            "--disable",
            "--node-",
            "--cluster-",
            "--tls-san",
        ):
            assert flag not in everything, flag


def test_the_seed_is_named_after_its_content() -> None:
    stack = load()
    node = stack.nodes[0]
    text = flatcar_seed.butane_of(stack, node, INSTALLER, HOST_SEED, STATUS_SEED, None)
    assert text == _butane("default")
    other = flatcar_seed.butane_of(stack, node, INSTALLER, HOST_SEED, STATUS_SEED, LAYER2)
    for name in (flatcar_seed.seed_file_name, flatcar_seed.root_file_name):
        assert name(node, text) == name(node, text) != name(node, other)
    assert re.fullmatch(r"k3s-1-seed-[0-9a-f]{12}\.iso", flatcar_seed.seed_file_name(node, text))
    assert re.fullmatch(r"k3s-1-root-[0-9a-f]{12}\.qcow2", flatcar_seed.root_file_name(node, text))
    assert (flatcar_seed.label(stack), flatcar_seed.user_data_path(stack)) == (
        "config-2",
        "openstack/latest/user_data",
    )


def test_layer2s_part_is_merged_over_ours(ignitions: dict[str, dict[str, Any]]) -> None:
    merged = ignitions["layer2"]["ignition"]["config"]["merge"]
    assert [json.loads(_decode(item)) for item in merged] == [json.loads(LAYER2)]
    assert "merge" not in ignitions["default"]["ignition"].get("config", {})


# What the check refuses.
def _ignition(version: str = "3.4.0", **more: Any) -> str:
    return json.dumps({"ignition": {"version": version}} | more)


def _file(path: str) -> dict[str, Any]:
    return {"storage": {"files": [{"path": path, "contents": {"source": "data:,x"}}]}}


def _merge(inner: str, form: str, key: str = "merge") -> str:
    plain = {"source": "data:," + quote(inner)}
    base64_ = {"source": "data:;base64," + base64.b64encode(inner.encode()).decode()}
    packed = base64.b64encode(gzip.compress(inner.encode(), mtime=0)).decode()
    gzipped = {"source": "data:;base64," + packed, "compression": "gzip"}
    resource = {"plain": plain, "base64": base64_, "gzip": gzipped}[form]
    config = {key: [resource] if key == "merge" else resource}
    return json.dumps({"ignition": {"version": "3.4.0", "config": config}})


@pytest.mark.parametrize("kind", ["files", "directories", "links"])
@pytest.mark.parametrize("place", ["/usr", "/bin", "/sbin", "/lib", "/lib64"])
def test_a_write_to_a_read_only_place_is_refused_by_name(place: str, kind: str) -> None:
    entry = {"path": f"{place}/x y", **({"target": "/etc"} if kind == "links" else {})}
    with pytest.raises(RenderError) as caught:
        ignition.check(_ignition(storage={kind: [entry]}))
    assert str(caught.value) == (
        "the config writes where the node is read-only (Ignition would fail on the first boot): "
        f"{place}/x y; use /etc, /opt or /var"
    )


@pytest.mark.parametrize(
    "path", ["/etc/x", "/opt/usr/bin/x", "/var/lib64", "/usrlocal", "/library/x", "/root/bin"]
)
def test_a_write_elsewhere_is_fine(path: str) -> None:
    ignition.check(_ignition(**_file(path)))


def test_every_refused_path_is_named() -> None:
    storage = {
        "files": [{"path": "/usr/b"}, {"path": "/etc/c"}],
        "directories": [{"path": "/bin/d"}],
        "links": [{"path": "/lib64/e", "target": "/etc"}, {"path": "/usr/a", "target": "/etc"}],
    }
    with pytest.raises(RenderError, match=r": /bin/d, /lib64/e, /usr/a, /usr/b; use"):
        ignition.check(_ignition(storage=storage))


@pytest.mark.parametrize("key", ["merge", "replace"])
@pytest.mark.parametrize("form", ["plain", "base64", "gzip"])
def test_layer2s_part_is_checked_too(form: str, key: str) -> None:
    ignition.check(_merge(_ignition(**_file("/etc/rancher/k3s/config.yaml")), form, key))
    with pytest.raises(RenderError, match="/usr/local/bin/tool"):
        ignition.check(_merge(_ignition(**_file("/usr/local/bin/tool")), form, key))
    with pytest.raises(RenderError, match="/usr/local/bin/tool"):
        ignition.check(_merge(_merge(_ignition(**_file("/usr/local/bin/tool")), "gzip"), form, key))


def test_layer2s_part_is_checked_on_its_way_through_butane() -> None:
    stack = load()
    text = butane.render(stack.nodes[0], stack.k3s, INSTALLER, KEYS, _ignition(**_file("/usr/bin/tool")))
    with pytest.raises(RenderError, match="/usr/bin/tool"):
        ignition.from_butane(text)


@pytest.mark.parametrize("version", ["3.0.0", "3.1.0", "3.2.0", "3.3.0", "3.4.0"])
def test_each_version_of_ignition_that_the_guest_reads_is_taken(version: str) -> None:
    stack = load()
    inner = _ignition(version, **_file("/etc/rancher/k3s/config.yaml"))
    text = butane.render(stack.nodes[0], stack.k3s, INSTALLER, KEYS, inner)
    config = json.loads(ignition.from_butane(text))
    assert json.loads(_decode(config["ignition"]["config"]["merge"][0]))["ignition"]["version"] == version


@pytest.mark.parametrize("version", ["2.3.0", "4.0.0", "3.99.0", "", SECRET])
def test_another_version_is_refused(version: str) -> None:
    with pytest.raises(RenderError, match="ignition-validate refused the config") as caught:
        ignition.check(_merge(_ignition(version), "plain"))
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("key", ["Storage", "STORAGE"])
def test_ignition_reads_keys_in_any_letters_and_so_does_the_check(key: str) -> None:
    with pytest.raises(RenderError, match="/usr/x"):
        ignition.check(_ignition(**{key: {"Files": [{"Path": "/usr/x"}]}}))


@pytest.mark.parametrize(
    "config",
    [
        {"ignition": {"version": "3.4.0", "config": None}},
        {"ignition": {"version": "3.4.0", "config": {"merge": None}}, "storage": None},
        {"ignition": {"version": "3.4.0"}, "storage": {"files": None, "links": []}},
    ],
)
def test_null_is_as_good_as_absent(config: dict[str, Any]) -> None:
    ignition.check(json.dumps(config))


@pytest.mark.parametrize(
    "resource",
    [
        {"source": "data:;base64," + base64.b64encode(b"no gzip").decode(), "compression": "gzip"},
        {
            "source": "data:;base64," + base64.b64encode(gzip.compress(b"{}")[:-9]).decode(),
            "compression": "gzip",
        },
        {"source": "data:;base64," + base64.b64encode(b"\xff\xfe").decode()},
    ],
)
def test_a_merged_part_that_cannot_be_decoded_is_refused(resource: dict[str, Any]) -> None:
    config = {"ignition": {"version": "3.4.0", "config": {"merge": [resource]}}}
    with pytest.raises(RenderError, match="a config that is merged in cannot be decoded"):
        ignition.check(json.dumps(config))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("variant: flatcar\nversion: 9.9.9\n", "No translator"),
        ("variant: flatcar\nversion: 1.1.0\nfoo: 1\n", "Unused key foo"),
        ("variant: flatcar\nversion: 1.1.0\nstorage: {files: [{path: etc/x}]}\n", "path not absolute"),
        (
            f"variant: flatcar\nversion: 1.1.0\nstorage: {{files: [{{path: /x, mode: {SECRET}}}]}}\n",
            "cannot unmarshal",
        ),
        (f"variant: flatcar\nversion: 1.1.0\nstorage: {SECRET}\n", "cannot unmarshal"),
        (f"{SECRET}: [", "yaml"),
        (
            f"variant: flatcar\nversion: 1.1.0\n"
            f"systemd: {{units: [{{name: x.service, contents: '[{SECRET}'}}]}}\n",
            "invalid unit content",
        ),
    ],
)
def test_butanes_words_are_told_and_no_value(text: str, said: str) -> None:
    with pytest.raises(RenderError, match="butane --strict refused the config") as caught:
        ignition.from_butane(text)
    assert said.lower() in str(caught.value).lower()
    assert SECRET not in str(caught.value)
    assert SECRET[:7] not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "{", f'{{"ignition": "{SECRET}"}}', f'["{SECRET}"]', f'"{SECRET}"', "null"]
)
def test_what_is_no_ignition_is_refused_without_its_text(text: str) -> None:
    with pytest.raises(RenderError) as caught:
        ignition.check(text)
    assert SECRET not in str(caught.value)
