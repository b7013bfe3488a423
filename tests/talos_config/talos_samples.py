"""Samples that the Talos tests share: a cluster, a machine, and secrets that a golden file may show."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from layer1.talos.machine_config import ClusterSpec, Encryption, MachineSpec, Platform, Role

GOLDEN = Path(__file__).resolve().parent / "golden"
REGENERATE = "LAYER1_WRITE_GOLDENS"
PI_SCHEMATIC = "ee21ef4a5ef808a9b7484cc0dda0f25075021691c8c09a276591eedb638ea1f9"
SCHEMATIC = "376567988ad370138ad8b2698212367b8edcb69b5fd68c80be1f2ec7d603b4ba"
CONTROL_PLANES = ("10.11.0.20", "10.11.0.21", "10.11.0.22")
VIRTUAL_IP = "10.11.0.5"


def cluster(**changes: Any) -> ClusterSpec:
    """One control plane that runs workloads too; the host may ask the APIs."""
    given: dict[str, Any] = {
        "name": "unit",
        "endpoint": "10.11.0.20",
        "control_planes": CONTROL_PLANES[:1],
        "operator_networks": ("10.11.0.1",),
        "kubernetes_version": "1.36.0",
    }
    return ClusterSpec(**given | changes)


def machine(**changes: Any) -> MachineSpec:
    given: dict[str, Any] = {
        "role": Role.CONTROLPLANE,
        "hostname": "cp-1",
        "address": "10.11.0.20/24",
        "gateway": "10.11.0.1",
        "schematic_id": SCHEMATIC,
    }
    return MachineSpec(**given | changes)


def worker(**changes: Any) -> MachineSpec:
    given = {"role": Role.WORKER, "hostname": "worker-1", "address": "10.11.0.40/24"}
    return machine(**given | changes)


BOARD = {
    "platform": Platform.METAL,
    "schematic_id": PI_SCHEMATIC,
    "install_disk": "/dev/mmcblk0",
    "encryption": Encryption.NONE,
}
"""What a Raspberry Pi of a card has otherwise than a virtual machine."""

GOLDENS = {
    "one-control-plane": (cluster(schedule_on_control_planes=True), machine()),
    "three-control-planes-tpm": (
        cluster(
            endpoint=VIRTUAL_IP,
            control_planes=CONTROL_PLANES,
            workers=("10.11.0.0/24",),
            operator_networks=("10.11.0.1", "192.168.7.0/24"),
            virtual_ip=VIRTUAL_IP,
        ),
        machine(
            encryption=Encryption.TPM,
            secure_boot=True,
            nameservers=("10.11.0.2", "10.11.0.3"),
            time_servers=("10.11.0.2", "ntp.example"),
        ),
    ),
    "three-control-planes-secureboot": (
        cluster(control_planes=CONTROL_PLANES, workers=("10.11.0.0/24",)),
        machine(secure_boot=True),
    ),
    "worker-tpm": (cluster(workers=("10.11.0.40",)), worker(encryption=Encryption.TPM, secure_boot=True)),
    "board-control-plane": (cluster(schedule_on_control_planes=True), machine(**BOARD)),
    "board-control-plane-virtual-ip": (
        cluster(endpoint=VIRTUAL_IP, control_planes=CONTROL_PLANES, virtual_ip=VIRTUAL_IP),
        machine(**BOARD | {"encryption": Encryption.NODE_ID, "install_disk": "/dev/nvme0n1"}),
    ),
    "board-worker": (cluster(workers=("10.11.0.40",)), worker(**BOARD)),
    "worker": (cluster(workers=("10.11.0.40",)), worker()),
    "worker-unencrypted": (
        cluster(workers=("10.11.0.40",), pod_network="10.200.0.0/16", service_network="10.201.0.0/16"),
        worker(encryption=Encryption.NONE, registry="registry.example:5000/talos", install_disk="/dev/vdb"),
    ),
}


def secret_texts(secrets_yaml: str) -> dict[str, str]:
    """Every text of the secrets, with the name that stands for it in a golden file."""

    def walk(item: Any, name: str) -> Iterator[tuple[str, str]]:
        if isinstance(item, dict):
            for key, value in item.items():
                yield from walk(value, f"{name}.{key}" if name else key)
        else:
            yield str(item), name

    return dict(walk(yaml.safe_load(secrets_yaml), ""))


def shown(text: str, secrets_yaml: str) -> str:
    """The text with each secret replaced by its name."""
    for value, name in secret_texts(secrets_yaml).items():
        text = text.replace(value, f"SECRET-{name}")
    return text


def documents(config: str) -> dict[str, dict[str, Any]]:
    """The documents of a machine config by kind and name; `machine` is the first."""
    found: dict[str, dict[str, Any]] = {}
    for document in yaml.safe_load_all(config):
        key = (
            "machine"
            if "kind" not in document
            else "/".join(str(document[part]) for part in ("kind", "name") if part in document)
        )
        assert key not in found, f"{key} is there twice"
        found[key] = document
    return found


def ports_open(config: str) -> dict[str, set[str]]:
    """Who may reach which port, as `protocol/port`: the sources of every rule."""
    return {
        f"{rule['portSelector']['protocol']}/{port}": {source["subnet"] for source in rule["ingress"]}
        for key, rule in documents(config).items()
        if key.startswith("NetworkRuleConfig/")
        for port in rule["portSelector"]["ports"]
    }


def assert_golden(name: str, text: str) -> None:
    """Compare with a golden file; `LAYER1_WRITE_GOLDENS=1 pytest tests/talos_config` writes it, and fails."""
    path = GOLDEN / name
    if os.environ.get(REGENERATE):
        if not path.exists() or path.read_text() != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        raise AssertionError(f"{name}: written; run again without {REGENERATE}")
    assert path.exists(), f"{name} is missing; write it with {REGENERATE}=1"
    assert text == path.read_text(), f"{name} differs; if it should, write it with {REGENERATE}=1"
