"""Talos nodes for the engine tests: real domains with an empty disk, and a stand-in at their addresses.

The official image cannot be had without internet. The nodes' addresses are this machine's own for the time
of a test, and there the stand-in answers the real talosctl, with the secrets of the stack under test.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engine_project import Project

from layer1.images.lockfile import Entry, LockFile
from layer1.paths import cache_dir, work_dir
from layer1.talos import schematic
from toolchain.build import build
from toolchain.golang import Go
from toolchain.programs import by_name

SCHEMATIC = schematic.schematic_id(schematic.read())
VIRTUAL_BYTES = 64 * 1024 * 1024


def role(name: str) -> str:
    return "controlplane" if name.startswith("cp") else "worker"


def talos_node(name: str, addresses: Mapping[str, str]) -> dict[str, Any]:
    return {"name": name, "os": "talos", "role": role(name), "ip": addresses[name]}


class Nodes:
    """The stand-in as the nodes of the stack, with the stack's own secrets."""

    def __init__(self, binary: Path, secrets_file: Path, nodes: list[dict[str, Any]]) -> None:
        self._lock = threading.Lock()
        self.names = {each["ip"]: each["name"] for each in nodes}
        self._process = subprocess.Popen(
            [binary], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
        )
        plan = [
            {
                "address": each["ip"],
                "hostname": each["name"],
                "role": role(each["name"]),
                "face": "up",
                "version": "v1.13.0",
                "schematic": SCHEMATIC,
                **each.get("standin", {}),
            }
            for each in nodes
        ]
        order = {"secrets": str(secrets_file), "strange_secrets": str(secrets_file), "nodes": plan}
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

    def set(self, name: str, **fields: Any) -> None:
        (address,) = [address for address, known in self.names.items() if known == name]
        self.say({"set": {address: fields}})

    def calls(self, *methods: str) -> list[str]:
        """The names of the nodes that these calls were for, in their order."""
        return [name for _, name in self.log(*methods)]

    def log(self, *methods: str) -> list[tuple[str, str]]:
        return [
            (each["method"], self.names[node])
            for each in self.say({"state": True}).get("calls", [])
            if each["method"] in methods
            for node in each["nodes"] or [each["via"]]
        ]

    def end(self) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()


@contextmanager
def own_addresses(addresses: Mapping[str, str]) -> Iterator[None]:
    """The nodes' addresses on this machine itself: what it sends there, it answers."""
    for address in addresses.values():
        subprocess.run(["ip", "address", "add", f"{address}/32", "dev", "lo"], check=True)
    try:
        yield
    finally:
        for address in addresses.values():
            subprocess.run(["ip", "address", "del", f"{address}/32", "dev", "lo"], check=True)


def talos_project(folder: Path, cidr: str, nodes: list[dict[str, Any]], **talos: Any) -> Project:
    return Project(
        folder / "project",
        f"s{secrets.token_hex(3)}",
        {
            "environment": "lab",
            "hosts": {"home": {"accel": "tcg", "svirt": "none", "memory_hard_limit": False}},
            "network": {"cidr": cidr, "mode": "isolated"},
            "images": {"talos": {"version": "v1.13.0", "base_url": f"file://{folder}/factory"}},
            "talos": {"bootstrap_timeout_s": 60, **talos},
            "defaults": {"memory_mib": 2048, "vcpus": 1, "disk_gib": 10},
            "nodes": nodes,
        },
    )


def provide_image(project: Project, version: str, file_name: str = "nocloud-amd64.qcow2") -> None:
    """Put an empty disk where the factory has the image, and pin it in this project's own lock file."""
    base = project.config["images"]["talos"]["base_url"].removeprefix("file://")
    image = Path(base) / "image" / SCHEMATIC / version / file_name
    image.parent.mkdir(parents=True, exist_ok=True)
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
    lock.with_entry(f"talos/{version}/{SCHEMATIC}/{file_name}", entry).save()


@contextmanager
def running_nodes(cluster: Project, nodes: list[dict[str, Any]], folder: Path) -> Iterator[Nodes]:
    """Nodes that have the secrets of the stack; those are made first, alone."""
    provide_image(cluster, "v1.13.0")
    cluster.write()
    targets = [f"--target=**::{name}" for name in ("home", "home-libvirt", "talos", "talos-secrets")]
    cluster.pulumi("up", "--stack", cluster.stack, "--yes", "--skip-preview", *targets)
    with standin(cluster, nodes, folder) as running:
        yield running


@contextmanager
def standin(cluster: Project, nodes: list[dict[str, Any]], folder: Path) -> Iterator[Nodes]:
    """Play the nodes with the stack's own secrets, which are in its state."""
    made = folder / "secrets.yaml"
    made.touch(mode=0o600)
    made.write_text(cluster_secrets(cluster))
    cache = cache_dir().absolute()
    program = by_name(["talos-standin"])[0]
    binary = build(program, Go(cache), cache, work_dir().absolute() / "log") / program.name
    running = Nodes(binary, made, nodes)
    try:
        yield running
    finally:
        running.end()


def cluster_secrets(cluster: Project) -> str:
    resources = cluster.state(secrets=True)["deployment"]["resources"]
    command = next(r for r in resources if r["urn"].endswith("::talos-secrets"))
    return str(json.loads(command["outputs"]["stdout"]["plaintext"]))
