"""What is refused, in whose words, and that no error and no argument holds a secret."""

from __future__ import annotations

import copy
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from talos_samples import CONTROL_PLANES, SCHEMATIC, cluster, machine, secret_texts, worker

from layer1.errors import RenderError, ToolError
from layer1.talos import machine_config, seed
from layer1.talos.machine_config import Encryption, Platform, Role

MARKER = "c2VjcmV0LW1hcmtlci10aGF0LW5vYm9keS1zZWVz"


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(RenderError) as caught:
        call()
    return str(caught.value)


# --- descriptions

CLUSTERS = [
    ({"name": "Unit"}, "name: must be one label"),
    ({"name": "a.b"}, "name: must be one label"),
    ({"name": "-a"}, "name: must be one label"),
    ({"name": "--with-kubespan"}, "name: must be one label"),
    ({"endpoint": "https://10.11.0.20:6443"}, "endpoint: must be a host name or an IPv4 address"),
    ({"endpoint": ""}, "endpoint: must be a host name"),
    ({"endpoint": "a" * 64}, "endpoint: must be a host name"),
    ({"control_planes": ()}, "control_planes: 0 is not 1, 3 or 5"),
    ({"control_planes": CONTROL_PLANES[:2]}, "even number stands the loss of no more nodes than one less"),
    ({"control_planes": tuple(f"10.11.0.{i}" for i in range(20, 24))}, "control_planes: 4 is not 1, 3 or 5"),
    ({"control_planes": tuple(f"10.11.0.{i}" for i in range(20, 27))}, "slows every write of etcd"),
    ({"control_planes": ("10.11.0.20",) * 3}, "control_planes: an address is there twice"),
    ({"control_planes": ("cp-1",)}, "control_planes: 'cp-1' is not an IPv4 address"),
    ({"control_planes": ("10.11.0.20/24",)}, "is not an IPv4 address"),
    ({"workers": ("10.11.0.40/24",)}, "workers: '10.11.0.40/24' is not an IPv4 address or network"),
    ({"workers": ("worker-1",)}, "workers: 'worker-1' is not"),
    ({"operator_networks": ()}, "nobody could then reach the Talos API"),
    ({"operator_networks": ("home",)}, "operator_networks: 'home' is not"),
    ({"virtual_ip": "10.11.0.300"}, "virtual_ip: must be an IPv4 address"),
    ({"virtual_ip": "10.11.0.20"}, "virtual_ip: is a control plane's own address"),
    ({"talos_version": "1.13.4"}, "talos_version: must be a release such as v1.13.4"),
    ({"talos_version": "v1.14.0"}, "the patches are written for v1.13"),
    ({"talos_version": "v1.13.4-rc.1"}, "talos_version: must be a release"),
    ({"kubernetes_version": "v1.36.0"}, "kubernetes_version: must be a release such as 1.36.0, without a v"),
    ({"kubernetes_version": "latest"}, "kubernetes_version: must be a release"),
    ({"pod_network": "10.244.0.1/16"}, "pod_network: must be an IPv4 network"),
    ({"service_network": "services"}, "service_network: must be an IPv4 network"),
]
MACHINES = [
    ({"hostname": "cp_1"}, "hostname: must be one label"),
    ({"hostname": "cp-1.example"}, "hostname: must be one label"),
    ({"hostname": "a" * 64}, "hostname: must be one label"),
    ({"hostname": "cp-1\n"}, "hostname: must be one label"),
    ({"address": "10.11.0.20"}, "address: must be an IPv4 address with its prefix"),
    ({"address": "10.11.0.20/33"}, "address: must be an IPv4 address with its prefix"),
    ({"gateway": "host"}, "gateway: must be an IPv4 address"),
    ({"gateway": "10.12.0.1"}, "gateway: must be another address of the node's network"),
    ({"gateway": "10.11.0.20"}, "gateway: must be another address of the node's network"),
    ({"nameservers": ("dns.example",)}, "nameservers: must be IPv4 addresses"),
    ({"time_servers": ("ntp example",)}, "time_servers: must be host names or IPv4 addresses"),
    ({"schematic_id": "default"}, "schematic_id: must be 64 hexadecimal digits"),
    ({"install_disk": "vda"}, "install_disk: must be a path below /dev"),
    ({"install_disk": "/dev/../etc"}, "install_disk: must be a path below /dev"),
    ({"platform": Platform.METAL}, "install_disk: a board has no virtio disk; its card is /dev/mmcblk0"),
    ({"registry": "https://factory.talos.dev"}, "registry: must be a registry's host"),
    (
        {"encryption": Encryption.TPM},
        "tpm needs secure_boot, for without it the TPM gives its key to any kernel",
    ),
]


@pytest.mark.parametrize(("changes", "words"), CLUSTERS)
def test_clusters_that_are_none(changes, words):
    said = refused(lambda: cluster(**changes))
    assert said.startswith("Talos cluster ")
    assert words in said


@pytest.mark.parametrize(("changes", "words"), MACHINES)
def test_machines_that_are_none(changes, words):
    said = refused(lambda: machine(**changes))
    assert said.startswith("Talos node ")
    assert words in said


def test_every_problem_is_named_at_once():
    said = refused(lambda: machine(hostname="A", address="x", gateway="y", schematic_id="z"))
    assert [line.split(":")[0].strip() for line in said.splitlines()[1:]] == [
        "hostname",
        "address",
        "gateway",
        "schematic_id",
    ]


@pytest.mark.parametrize(
    ("spec", "node", "words"),
    [
        (cluster(), machine(address="10.11.0.21/24"), "is not among the cluster's control_planes"),
        (cluster(), worker(address="10.11.0.20/24"), "a worker has a control plane's address"),
        (cluster(), worker(), "is not among the cluster's workers, whose firewalls would shut it out"),
        (cluster(workers=("10.11.0.64/26",)), worker(), "is not among the cluster's workers"),
        (cluster(virtual_ip="10.12.0.5"), machine(), "virtual_ip is of another network"),
        (cluster(virtual_ip="10.11.0.1"), machine(), "virtual_ip is the node's own or the gateway's"),
        (
            cluster(virtual_ip="10.11.0.40", workers=("10.11.0.40",)),
            worker(),
            "virtual_ip is the node's own or the gateway's",
        ),
        (cluster(pod_network="10.11.0.0/16"), machine(), "pod_network meets the nodes' network"),
        (cluster(service_network="10.8.0.0/13"), machine(), "service_network meets the nodes' network"),
        (cluster(pod_network="10.96.0.0/16"), machine(), "pod_network meets its service_network"),
    ],
)
def test_a_node_that_does_not_fit_its_cluster(spec, node, words):
    assert words in refused(lambda: machine_config.patches(spec, node))


# --- patches that talosctl refuses


def _kind(documents: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    return next(document for document in documents if document.get("kind") == kind)


BROKEN_PATCHES: list[tuple[str, Callable[[list[dict[str, Any]]], object], str]] = [
    (
        "common",
        lambda d: _kind(d, "LinkConfig").update(kind="LinkConfg"),
        '"LinkConfg" "v1alpha1": not registered',
    ),
    ("common", lambda d: d[0]["machine"].update(instal={}), "unknown keys found during decoding"),
    ("common", lambda d: _kind(d, "HostnameConfig").update(auto="sometimes"), "sometimes"),
    (
        "common",
        lambda d: _kind(d, "HostnameConfig").pop("auto"),
        "'auto' and 'hostname' cannot be set at the same time",
    ),
    ("common", lambda d: d[0]["machine"].update(network={"hostname": "x"}), "static hostname is already set"),
    ("common", lambda d: _kind(d, "NetworkDefaultActionConfig").update(ingress="deny"), "deny"),
    (
        "common",
        lambda d: _kind(d, "NetworkRuleConfig")["portSelector"].update(ports=["9-1"]),
        "invalid port range",
    ),
    (
        "encryption-node-id",
        lambda d: d[0]["encryption"]["keys"][0].update(lockToState=True),
        'state-locked key is not allowed for the "STATE" volume',
    ),
    ("encryption-node-id", lambda d: d[0].update(name="ROOT"), "volumes are supported"),
    ("encryption-node-id", lambda d: d[0]["encryption"].update(keys=[]), "encryption keys are required"),
    ("controlplane", lambda d: d[0]["cluster"].update(apiServer=[]), "cannot construct"),
]


@pytest.fixture
def templates(monkeypatch, tmp_path) -> Path:
    """The patches, in a copy that a test may spoil."""
    folder = tmp_path / "templates"
    shutil.copytree(machine_config.TEMPLATES, folder)
    monkeypatch.setattr(machine_config, "TEMPLATES", folder)
    return folder


@pytest.mark.parametrize(("name", "damage", "words"), BROKEN_PATCHES)
def test_a_broken_patch_is_refused_in_talosctls_words(templates, name, damage, words, secrets):
    documents = machine_config.load_template(templates / f"{name}.yaml")
    damage(documents)
    (templates / f"{name}.yaml").write_text(yaml.safe_dump_all(documents))
    said = refused(
        lambda: machine_config.validate(machine_config.generate_config(secrets, cluster(), machine()))
    )
    assert said.startswith("talosctl ")
    assert words in said
    assert_no_secret(said, secrets)


def test_a_template_and_its_values_must_match(templates):
    common = templates / "common.yaml"
    common.write_text(common.read_text().replace("@HOSTNAME@", "@HOST@"))
    said = refused(lambda: machine_config.patches(cluster(), machine()))
    assert "without a value ['HOST'], without a place ['HOSTNAME']" in said
    common.write_text("a: [")
    assert "common.yaml is not YAML" in refused(lambda: machine_config.patches(cluster(), machine()))
    common.write_text("- a")
    assert "must hold mappings" in refused(lambda: machine_config.patches(cluster(), machine()))


# --- configs that talosctl refuses, each with a secret in the wrong place


def assert_no_secret(said: str, secrets: str) -> None:
    for value in secret_texts(secrets):
        assert value not in said
        assert value[:7] not in said
    assert MARKER not in said
    assert MARKER[:7] not in said


BROKEN_CONFIGS: list[tuple[Callable[[list[dict[str, Any]]], object], str]] = [
    (lambda d: d[0]["machine"].update(tokenn=MARKER), "unknown keys found during decoding"),
    (lambda d: d[0]["machine"].update(tokens=[MARKER, "x"]), "tokens:"),
    (lambda d: d[0]["machine"].update(other={"deep": {"token": MARKER}}), "token: (a value)"),
    (lambda d: d[0]["machine"].update(token=[MARKER]), "cannot construct !!seq into string"),
    (lambda d: d[0]["machine"].update(kubelet=MARKER), "cannot construct"),
    (lambda d: d[0]["machine"].update(ca=MARKER), "cannot construct"),
    (lambda d: d[0]["machine"]["ca"].update(key=MARKER + "!"), "illegal base64 data"),
    (lambda d: d[0]["machine"].pop("ca"), "issuing CA is required (.machine.ca)"),
    (lambda d: d[0]["machine"].update(type=MARKER), "unknown machine type"),
    (lambda d: d[0]["machine"].update(type="worker"), "not allowed on non-controlplane nodes"),
    (
        lambda d: d[0]["cluster"]["controlPlane"].update(endpoint=MARKER),
        "endpoint: hostname must not be blank",
    ),
    (
        lambda d: _kind(d, "NetworkRuleConfig")["portSelector"].update(protocol=MARKER),
        "does not belong to Protocol",
    ),
    (lambda d: _kind(d, "LinkConfig").update(addresses=[{"address": MARKER}]), "netip.ParsePrefix"),
    (lambda d: _kind(d, "VolumeConfig").update(name=MARKER), "volumes are supported"),
    (lambda d: d.append(copy.deepcopy(d[1])), "duplicate document"),
    (lambda d: d.append({"apiVersion": "v1alpha1", "kind": "NoSuchConfig", "key": MARKER}), "not registered"),
    (
        lambda d: d.append({"apiVersion": "v1alpha1", "kind": "KmsgLogConfig", "name": "x", "url": MARKER}),
        "url",
    ),
]


@pytest.fixture(scope="module")
def good(secrets) -> str:
    return machine_config.generate_config(secrets, cluster(), machine())


@pytest.mark.parametrize(("damage", "words"), BROKEN_CONFIGS)
def test_a_broken_config_is_refused_without_its_secrets(damage, words, good, secrets):
    documents = list(yaml.safe_load_all(good))
    damage(documents)
    said = refused(lambda: machine_config.validate(yaml.safe_dump_all(documents)))
    assert said.startswith("talosctl validate refused:\n")
    assert words in said
    assert_no_secret(said, secrets)


def test_a_short_secret_under_a_wrong_key_is_not_repeated(good):
    documents = list(yaml.safe_load_all(good))
    documents[0]["machine"].update(passwd="pa55word", words=["hunter2"], deep=[{"pin": "73313"}])
    said = refused(lambda: machine_config.validate(yaml.safe_dump_all(documents)))
    for key in ("passwd:", "words:", "pin:"):
        assert key in said
    for value in ("pa55word", "hunter2", "73313"):
        assert value not in said


@pytest.mark.parametrize(
    "config",
    ["", "x: [", f"{MARKER}: [", MARKER, f"- {MARKER}", f"version: v1alpha1\nmachine: {MARKER}\n", "\0"],
)
def test_what_is_no_config_is_refused_without_its_text(config):
    said = refused(lambda: machine_config.validate(config))
    assert said.startswith("talosctl validate refused:\n")
    assert MARKER not in said
    assert MARKER[:7] not in said


# --- secrets that are none


SECRETS: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda s: s.pop("certs"), "not what `talosctl gen secrets` writes"),
    (lambda s: s["certs"].pop("os"), "certs.os is required"),
    (lambda s: s["certs"].pop("k8s"), "certs.k8s is required"),
    (lambda s: s["certs"].pop("k8sserviceaccount"), "certs.k8sserviceaccount is required"),
    (lambda s: s["certs"]["os"].update(key=MARKER + "!"), "illegal base64 data"),
    (lambda s: s["certs"]["os"].update(key=MARKER), "failed to parse PEM block"),
    (lambda s: s["secrets"].update(bootstraptoken=[MARKER]), "cannot construct !!seq into string"),
    (lambda s: s["trustdinfo"].pop("token"), "trustdinfo.token is required"),
]


@pytest.mark.parametrize(("damage", "words"), SECRETS)
@pytest.mark.parametrize("make", ["generate_config", "talosconfig"])
def test_broken_secrets_are_refused_without_being_shown(make, damage, words, secrets):
    document = yaml.safe_load(secrets)
    damage(document)
    text = yaml.safe_dump(document)
    arguments = (cluster(), machine()) if make == "generate_config" else (cluster(),)
    said = refused(lambda: getattr(machine_config, make)(text, *arguments))
    assert words in said
    assert_no_secret(said, secrets)


@pytest.mark.parametrize("text", ["", MARKER, f"{MARKER}: [", "[]", f"cluster: {MARKER}", "certs: {}"])
def test_what_is_no_secrets_bundle_never_reaches_talosctl(text, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    said = refused(lambda: machine_config.generate_config(text, cluster(), machine()))
    assert "not what `talosctl gen secrets` writes" in said
    assert MARKER not in said


def test_a_missing_talosctl_is_named(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ToolError, match="talosctl: not found on PATH"):
        machine_config.generate_secrets()


def test_a_talosconfig_that_is_none(monkeypatch, tmp_path, secrets):
    for i, text in enumerate((f"{MARKER}: [", MARKER, "{}", "context: a\ncontexts: {}")):
        folder = tmp_path / str(i)
        folder.mkdir()
        (folder / "answer").write_text(text)
        fake = folder / "talosctl"
        fake.write_text(f"#!/bin/sh\n/bin/cat {folder}/answer\n")
        fake.chmod(0o755)
        monkeypatch.setenv("PATH", str(folder))
        said = refused(lambda: machine_config.talosconfig(secrets, cluster()))
        assert said == "talosctl gen config gave something that is not a talosconfig"


# --- where secrets go


@pytest.fixture
def watched(monkeypatch, tmp_path) -> Callable[[], str]:
    """A talosctl that notes its arguments, input and files before it becomes the real one."""
    real = shutil.which("talosctl")
    folder, notes = tmp_path / "bin", tmp_path / "notes"
    folder.mkdir()
    wrapper = folder / "talosctl"
    wrapper.write_text(
        "#!/bin/sh\n"
        f"exec 3>>{notes}\n"
        'for a; do echo "argument $a" >&3; case "$a" in @*)\n'
        '  f="${a#@}"; echo "file $(stat -c %a "$f") folder $(stat -c %a "${f%/*}") $f" >&3\n'
        '  sed "s/^/content /" "$f" >&3; ls -A "${f%/*}" | sed "s/^/beside /" >&3;;\n'
        "esac; done\n"
        'echo "stdin $(stat -L -c %F /dev/stdin)" >&3\n'
        'env | sed "s/^/environment /" >&3\n'
        "exec 3>&-\n"
        f'exec {real} "$@"\n'
    )
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))

    def read() -> str:
        for place in (home, work, temporary):
            assert list(place.iterdir()) == [], f"something was left in {place.name}"
        return notes.read_text()

    return read


def test_no_secret_is_in_an_argument_a_file_or_the_environment(watched, secrets):
    old = os.umask(0)  # so that no mode is right by the caller's mask alone
    try:
        fresh = machine_config.generate_secrets()
        config = machine_config.generate_config(secrets, cluster(), machine())
        machine_config.talosconfig(secrets, cluster())
        machine_config.validate(config)
    finally:
        os.umask(old)
    noted = watched()
    values = [value for text in (secrets, fresh) for value in secret_texts(text)]
    assert len(values) > 20
    for value in values:
        assert value not in noted
    lines = noted.splitlines()
    files = [line for line in lines if line.startswith("file ")]
    assert [line.split()[1:4] for line in files] == [["600", "folder", "700"]] * 3
    assert [line for line in lines if line.startswith("stdin ")] == ["stdin fifo"] * 4
    assert {line.split()[1] for line in lines if line.startswith("beside ")} == {
        "common.yaml",
        "controlplane.yaml",
        "encryption-node-id.yaml",
    }
    for line in files:
        assert not Path(line.split()[-1]).exists()


def test_the_patches_are_gone_after_an_error_too(watched, templates, secrets):
    (templates / "common.yaml").write_text(
        (templates / "common.yaml").read_text().replace("kubelet:", "kubelett:", 1)
    )
    assert "kubelett" in refused(lambda: machine_config.generate_config(secrets, cluster(), machine()))
    assert "file 600 folder 700" in watched()


def test_validate_judges_the_very_bytes(secrets, monkeypatch):
    seen = []
    real = subprocess.run

    def note(*arguments: Any, **options: Any) -> Any:
        seen.append((arguments[0], options["input"]))
        return real(*arguments, **options)

    config = machine_config.generate_config(secrets, cluster(), machine()) + "# the last bytes\n"
    monkeypatch.setattr("layer1.processes.subprocess.run", note)
    machine_config.validate(config)
    [(command, given)] = seen
    assert Path(command[0]).name == "talosctl"
    assert command[1:] == ["validate", "--config", "/dev/stdin", "--mode", "cloud", "--strict"]
    assert given == config.encode()


# --- the seed


@pytest.mark.parametrize(
    "config", ["", "\n", "#cloud-config\nversion: v1alpha1\n", " #cloud-config \n", "#include\nhttp://x/\n"]
)
def test_a_seed_that_talos_would_not_read(config):
    said = refused(lambda: seed.files(config, machine(), "id"))
    assert said == "node 'cp-1': Talos takes no user-data that is empty or cloud-init's"


def test_roles_and_schematic_are_what_the_names_say():
    assert [role.value for role in Role] == ["controlplane", "worker"]
    assert machine().installer("v1.13.4").endswith(f"/{SCHEMATIC}:v1.13.4")
