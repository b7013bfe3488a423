"""A Talos cluster's life on the real engine and libvirtd; a stand-in speaks the nodes' real API.

The domains are real and hold an empty disk: the official image cannot be had without internet. Their
addresses are this machine's own for the time of the test, and there the stand-in answers the real talosctl.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_project import ProcessListWatch, Project, virsh

from layer1.images.lockfile import Entry, LockFile
from layer1.paths import cache_dir, work_dir
from layer1.talos import schematic
from toolchain.build import build
from toolchain.golang import Go
from toolchain.programs import by_name

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

ADDRESSES = {"cp-1": "10.214.9.11", "worker-1": "10.214.9.21", "worker-2": "10.214.9.22"}
SCHEMATIC = schematic.schematic_id(schematic.read())
VIRTUAL_BYTES = 64 * 1024 * 1024


def talos_node(name: str) -> dict[str, str]:
    role = "controlplane" if name.startswith("cp") else "worker"
    return {"name": name, "os": "talos", "role": role, "ip": ADDRESSES[name]}


class Nodes:
    """The stand-in as the nodes of the stack, with the stack's own secrets."""

    def __init__(self, binary: Path, secrets_file: Path) -> None:
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [binary], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
        )
        # Not ready at first: bootstrap is to be tried again.
        refusals = [{"code": "FailedPrecondition", "message": "time is not in sync yet", "times": 2}]
        nodes = [
            {
                "address": address,
                "hostname": name,
                "role": "worker" if name.startswith("w") else "controlplane",
                "face": "up",
                "version": "v1.13.0",
                "schematic": SCHEMATIC,
                "deleted": name == "worker-2",
                "bootstrap": refusals if name == "cp-1" else [],
            }
            for name, address in ADDRESSES.items()
        ]
        order = {"secrets": str(secrets_file), "strange_secrets": str(secrets_file), "nodes": nodes}
        assert self.say(order | {"reboot_s": 0.5})["ready"]

    def say(self, order: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin
        assert self._process.stdout
        with self._lock:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        assert "error" not in answer, answer
        return answer

    def joins(self, name: str) -> None:
        self.say({"set": {ADDRESSES[name]: {"deleted": False}}})

    def calls(self, method: str) -> list[str]:
        names = {address: name for name, address in ADDRESSES.items()}
        return [
            names[node]
            for each in self.say({"state": True}).get("calls", [])
            if each["method"] == method
            for node in each["nodes"] or [each["via"]]
        ]

    def end(self) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()


@pytest.fixture(scope="module")
def addresses() -> Iterator[None]:
    """The nodes' addresses on this machine itself: what it sends there, it answers."""
    for address in ADDRESSES.values():
        subprocess.run(["ip", "address", "add", f"{address}/32", "dev", "lo"], check=True)
    yield
    for address in ADDRESSES.values():
        subprocess.run(["ip", "address", "del", f"{address}/32", "dev", "lo"], check=True)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    folder = tmp_path_factory.mktemp("talos")
    project = Project(
        folder / "project",
        f"s{secrets.token_hex(3)}",
        {
            "hosts": {"home": {"accel": "tcg", "svirt": "none", "memory_hard_limit": False}},
            "network": {"cidr": "10.214.9.0/24", "mode": "isolated"},
            "images": {"talos": {"version": "v1.13.0", "base_url": f"file://{folder}/factory"}},
            "talos": {"bootstrap_timeout_s": 60},
            "defaults": {"memory_mib": 2048, "vcpus": 1, "disk_gib": 10},
            "nodes": [talos_node("cp-1"), talos_node("worker-1")],
        },
    )
    yield project
    if project.state()["deployment"].get("resources"):
        project.destroy()


def provide_image(project: Project, version: str) -> None:
    """Put an empty disk where the factory has the image, and pin it in this project's own lock file."""
    base = project.config["images"]["talos"]["base_url"].removeprefix("file://")
    image = Path(base) / "image" / SCHEMATIC / version / "nocloud-amd64.qcow2"
    image.parent.mkdir(parents=True)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, str(VIRTUAL_BYTES)], check=True)
    entry = Entry.model_validate(
        {
            "url": f"file://{image}",
            "sha512": hashlib.sha512(image.read_bytes()).hexdigest(),
            "size_bytes": image.stat().st_size,
            "virtual_size_bytes": VIRTUAL_BYTES,
            "file_format": "qcow2",
            "pinned_at": "2026-01-01T00:00:00Z",
        }
    )
    lock = LockFile.load(project.program / "assets/images.lock.yaml")
    lock.with_entry(f"talos/{version}/{SCHEMATIC}/nocloud-amd64.qcow2", entry).save()


@pytest.fixture(scope="module")
def nodes(cluster: Project, addresses: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """Nodes that have the secrets of the stack; those are made first, alone."""
    provide_image(cluster, "v1.13.0")
    cluster.write()
    targets = [f"--target=**::{name}" for name in ("home", "home-libvirt", "talos", "talos-secrets")]
    cluster.pulumi("up", "--stack", cluster.stack, "--yes", "--skip-preview", *targets)
    made = tmp_path_factory.mktemp("secrets") / "secrets.yaml"
    made.touch(mode=0o600)
    made.write_text(cluster_secrets(cluster))
    cache = cache_dir().absolute()
    program = by_name(["talos-standin"])[0]
    binary = build(program, Go(cache), cache, work_dir().absolute() / "log") / program.name
    running = Nodes(binary, made)
    yield running
    running.end()


def cluster_secrets(cluster: Project) -> str:
    resources = cluster.state(secrets=True)["deployment"]["resources"]
    command = next(r for r in resources if r["urn"].endswith("::talos-secrets"))
    return str(json.loads(command["outputs"]["stdout"]["plaintext"]))


def test_preview_needs_no_cluster_and_names_the_command_that_pins(cluster: Project) -> None:
    planned = cluster.plan()
    assert set(planned) == {"create"}
    assert {"talos-secrets", "cp-1-domain", "worker-1-domain", "talos-bootstrap"} <= planned["create"]
    said = cluster.pulumi("preview", "--stack", cluster.stack)
    assert "python -m layer1 image pin talos --version v1.13.0" in said


def test_up_bootstraps_once_and_waits_for_health(cluster: Project, nodes: Nodes) -> None:
    words = [word for word in cluster_secrets(cluster).split() if len(word) > 40]
    with ProcessListWatch(tuple(words)) as watch:
        cluster.up()
    assert watch.looks > 20
    assert watch.seen == set()
    assert set(nodes.calls("Bootstrap")) == {"cp-1"}
    assert len(nodes.calls("Bootstrap")) == 3, "refused twice, then done"
    assert nodes.calls("Upgrade") == []
    outputs = cluster.outputs()["nodes"]
    assert [outputs[name]["role"] for name in ("cp-1", "worker-1")] == ["controlplane", "worker"]
    assert outputs["cp-1"]["ssh_user"] is None
    assert virsh("domstate", f"{cluster.prefix}-cp-1").strip() == "running"


def test_nothing_changes_by_itself(cluster: Project, nodes: Nodes) -> None:
    arguments = ("--stack", cluster.stack, "--yes", "--skip-preview", "--expect-no-changes")
    cluster.pulumi("up", *arguments)
    cluster.pulumi("refresh", *arguments)
    assert cluster.plan() == {}


def test_access_is_secret_and_works(cluster: Project, nodes: Nodes, tmp_path: Path) -> None:
    plain = json.loads(cluster.pulumi("stack", "output", "--json"))
    assert plain["talosconfig"] == "[secret]"
    assert plain["kubeconfig"] == "[secret]"
    shown = subprocess.run(
        ["pulumi", "stack", "output", "talosconfig", "--show-secrets"],
        cwd=cluster.program, env=cluster.environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    config = tmp_path / "talosconfig"
    config.touch(mode=0o600)
    config.write_text(shown.stdout)
    version = subprocess.run(
        ["talosctl", "--talosconfig", config, "version", "--short"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "v1.13.0" in version.stdout


def test_a_second_worker_touches_no_other_node(cluster: Project, nodes: Nodes) -> None:
    cluster.config["nodes"].append(talos_node("worker-2"))
    planned = cluster.plan()
    assert planned["update"] == {"talos-health", "talos-upgrade"}
    assert set(planned) == {"create", "update"}
    assert {name.split("-")[0] + "-" + name.split("-")[1] for name in planned["create"]} == {"worker-2"}
    nodes.joins("worker-2")
    cluster.up()
    assert cluster.plan() == {}
    assert len(nodes.calls("Bootstrap")) == 3


def test_a_changed_patch_goes_to_running_nodes_and_replaces_no_disk(cluster: Project, nodes: Nodes) -> None:
    patch = cluster.program / "assets/talos/common.yaml"
    patch.write_text("# a remark\n" + patch.read_text())
    assert cluster.plan() == {}
    patch.write_text(patch.read_text().replace("podPidsLimit: 4096", "podPidsLimit: 2048"))
    planned = cluster.plan()
    every = ADDRESSES
    assert planned["update"] == {f"{n}-config" for n in every} | {f"{n}-applied" for n in every}
    assert planned["replace"] == {f"{n}-seed-{what}" for n in every for what in ("iso", "volume", "unstage")}
    assert set(planned) == {"update", "replace"}
    before = nodes.calls("ApplyConfiguration")
    cluster.up()
    assert sorted(nodes.calls("ApplyConfiguration")[len(before) :]) == sorted(ADDRESSES)
    assert cluster.plan() == {}


def test_a_new_version_upgrades_in_place_control_plane_first(cluster: Project, nodes: Nodes) -> None:
    provide_image(cluster, "v1.13.4")
    cluster.config["images"]["talos"]["version"] = "v1.13.4"
    planned = cluster.plan()
    touched = planned.get("replace", set()) | planned.get("delete", set())
    assert not [name for name in touched if name.endswith(("-root", "-domain"))], touched
    cluster.up()
    assert nodes.calls("Upgrade") == ["cp-1", "worker-1", "worker-2"]
    versions = {each["version"] for each in nodes.say({"state": True})["nodes"]}
    assert versions == {"v1.13.4"}
    assert cluster.plan() == {}


def test_no_secret_is_in_plain_text_anywhere(cluster: Project, nodes: Nodes) -> None:
    words = {word for word in cluster_secrets(cluster).split() if len(word) > 40}
    assert len(words) > 5
    places = {"the exported state": json.dumps(cluster.state())}
    places |= {f"output {index}": text for index, text in enumerate(cluster.printed)}
    for path in cluster.folder.rglob("*"):
        if path.is_file() and stat.S_IMODE(path.stat().st_mode) & 0o077 and path.stat().st_size < 2**24:
            places[str(path)] = path.read_bytes().decode(errors="replace")
    for name, text in places.items():
        assert not [word for word in words if word in text], f"{name} holds a secret"


def test_destroy_works_when_the_cluster_is_dead_and_leaves_nothing(cluster: Project, nodes: Nodes) -> None:
    for address in ADDRESSES.values():
        nodes.say({"set": {address: {"face": "down"}}})
    cluster.destroy()
    assert cluster.state()["deployment"].get("resources") in (None, [])
    assert cluster.prefix not in virsh("list", "--all", "--name")
    assert cluster.prefix not in virsh("pool-list", "--all", "--name") + virsh("net-list", "--all", "--name")
    assert not (Path("/var/lib/libvirt/images") / cluster.prefix).exists()
    assert list((cluster.folder / "work/seeds").iterdir()) == []
