"""A board gets its first config in maintenance mode, and is then a node like any other."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from talos_api_support import Pki, Refusal, Standin, Start, hold_no_secret, node

from layer1.talos import api, apply, machine_config, talosctl_api, tasks
from layer1.talos.machine_config import ClusterSpec, Encryption, MachineSpec, Platform, Role

WAITING = {"face": "maintenance"}
OTHER = base64.b64encode(hashlib.sha256(b"another board's key").digest()).decode()


def config_of(cluster: Standin, name: str, secrets: Path) -> str:
    """The real config of a node of this stand-in, made of these secrets."""
    address = cluster.address[name]
    network = address.rpartition(".")[0]
    role = Role(cluster.node(name)["role"])
    return machine_config.generate_config(
        secrets.read_text(),
        ClusterSpec(
            name="own",
            endpoint=cluster.address["cp-1"],
            control_planes=(cluster.address["cp-1"],),
            workers=(f"{network}.0/24",),
            operator_networks=(f"{network}.1",),
            kubernetes_version="1.36.0",
        ),
        MachineSpec(
            role=role,
            hostname=name,
            address=f"{address}/24",
            gateway=f"{network}.1",
            schematic_id="a" * 64,
            platform=Platform.METAL,
            install_disk="/dev/mmcblk0",
            encryption=Encryption.NONE,
        ),
    )


def given(cluster: Standin, name: str) -> bytes:
    """What the board was given in maintenance mode."""
    return base64.b64decode(cluster.node(name)["config"] or "")


def first_config(cluster: Standin, name: str, fingerprint: str | None, timeout_s: float = 20) -> str:
    config = config_of(cluster, name, cluster.pki.secrets)
    apply.first_config(cluster.talosconfig, cluster.address[name], config, fingerprint, timeout_s)
    return config


def test_a_board_takes_its_config_and_is_a_cluster(start: Start) -> None:
    cluster = start(node("cp-1", **WAITING))
    config = first_config(cluster, "cp-1", cluster.node("cp-1")["fingerprint"])
    assert given(cluster, "cp-1") == config.encode()
    assert cluster.node("cp-1")["face"] == "up"
    address = cluster.address["cp-1"]
    api.bootstrap(cluster.talosconfig, address, 20)
    api.wait_healthy(cluster.talosconfig, [address], [], 20)
    assert "kind: Config" in api.kubeconfig(cluster.talosconfig, address)


def test_a_worker_on_a_board_joins(start: Start) -> None:
    cluster = start(node("cp-1", etcd="running"), node("w-1", **WAITING))
    config = first_config(cluster, "w-1", cluster.node("w-1")["fingerprint"])
    assert given(cluster, "w-1") == config.encode()
    api.wait_healthy(cluster.talosconfig, cluster.addresses("cp-1"), cluster.addresses("w-1"), 20)


def test_the_board_is_waited_for(start: Start) -> None:
    cluster = start(node("cp-1", face="absent"))
    cluster.later(0.5, "cp-1", face="silent")
    cluster.later(1.0, "cp-1", face="maintenance")
    began = time.monotonic()
    first_config(cluster, "cp-1", None, 40)
    assert time.monotonic() - began > 1
    assert given(cluster, "cp-1")


def test_without_a_fingerprint_whoever_answers_is_trusted(start: Start) -> None:
    cluster = start(node("cp-1", **WAITING))
    config = first_config(cluster, "cp-1", None)
    assert given(cluster, "cp-1") == config.encode()


def test_another_fingerprint_fails_at_once_and_sends_nothing(start: Start, refusal: Refusal) -> None:
    cluster = start(node("cp-1", **WAITING))
    began = time.monotonic()
    error = refusal(first_config, cluster, "cp-1", OTHER, 600)
    assert time.monotonic() - began < 15
    assert f"its certificate has not the fingerprint {OTHER}. Nothing was sent" in error
    assert "The board's console shows the right one" in error
    assert cluster.node("cp-1")["fingerprint"] not in error
    assert cluster.calls("ApplyConfiguration") == []
    assert given(cluster, "cp-1") == b""


@pytest.mark.parametrize(
    "text", ["", "aa:bb:cc", OTHER.rstrip("="), f"{OTHER}\n", "-" * 44, f"{OTHER},{OTHER}"]
)
def test_what_is_no_fingerprint_asks_nobody(start: Start, refusal: Refusal, text: str) -> None:
    cluster = start(node("cp-1", **WAITING))
    assert "is no fingerprint of a certificate" in refusal(first_config, cluster, "cp-1", text, 600)
    assert cluster.calls() == []


def test_a_node_that_has_its_config_gets_it_the_ordinary_way(start: Start) -> None:
    cluster = start(node("cp-1"))
    for fingerprint in (None, OTHER):  # it has no such certificate any more, so there is nothing to compare
        first_config(cluster, "cp-1", fingerprint)
    assert cluster.calls("ApplyConfiguration") == [("ApplyConfiguration", "cp-1")] * 2
    assert given(cluster, "cp-1") == b""


def test_a_second_run_changes_nothing(start: Start) -> None:
    cluster = start(node("cp-1", **WAITING))
    fingerprint = cluster.node("cp-1")["fingerprint"]
    first = first_config(cluster, "cp-1", fingerprint)
    assert first_config(cluster, "cp-1", fingerprint) == first
    assert given(cluster, "cp-1") == first.encode()


def test_another_clusters_node_fails_at_once(start: Start, refusal: Refusal) -> None:
    cluster = start(node("cp-1", face="stranger"))
    began = time.monotonic()
    error = refusal(first_config, cluster, "cp-1", None, 600)
    assert time.monotonic() - began < 15
    assert "its certificate is of another cluster" in error
    assert cluster.calls("ApplyConfiguration") == []


def test_a_board_that_took_another_clusters_config_meanwhile_is_not_ours(
    start: Start, refusal: Refusal, pki: Pki
) -> None:
    cluster = start(node("cp-1", **WAITING))
    theirs = config_of(cluster, "cp-1", pki.strange_secrets)
    error = refusal(apply.first_config, cluster.talosconfig, cluster.address["cp-1"], theirs, None, 600)
    assert "its certificate is of another cluster" in error


def test_a_board_that_never_comes_up_ends_in_time(start: Start, refusal: Refusal) -> None:
    cluster = start(node("cp-1", stays=True, **WAITING))
    began = time.monotonic()
    error = refusal(first_config, cluster, "cp-1", cluster.node("cp-1")["fingerprint"], 3)
    assert time.monotonic() - began < 12
    assert "it took its machine config and did not come up with it" in error
    assert "run the same command again" in error
    assert len(cluster.calls("ApplyConfiguration")) == 1, "what it took is not sent again and again"
    cluster.set("cp-1", face="up")
    first_config(cluster, "cp-1", None)


@pytest.mark.parametrize("takes", [["lost"], ["unheard"], ["lost", "lost", "unheard"]])
def test_a_connection_that_breaks_while_the_config_is_sent(start: Start, takes: list[str]) -> None:
    cluster = start(node("cp-1", takes=takes, **WAITING))
    config = first_config(cluster, "cp-1", cluster.node("cp-1")["fingerprint"])
    assert given(cluster, "cp-1") == config.encode()
    assert cluster.node("cp-1")["takes"] == []


def test_a_board_that_leaves_maintenance_meanwhile_has_no_wrong_fingerprint(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = start(node("cp-1", **WAITING))
    fingerprint = cluster.node("cp-1")["fingerprint"]
    really = talosctl_api.Talosctl.hand_over
    said: list[str] = []

    def hand_over(*arguments: Any) -> talosctl_api.Answer:
        cluster.set("cp-1", face="up")
        answer = really(*arguments)
        said.append(answer.said)
        return answer

    monkeypatch.setattr(talosctl_api.Talosctl, "hand_over", hand_over)
    first_config(cluster, "cp-1", fingerprint)
    assert len(said) == 1
    assert "doesn't match the provided fingerprints" in said[0]
    assert cluster.calls("ApplyConfiguration") == [("ApplyConfiguration", "cp-1")]


def test_a_run_after_one_that_was_cut_off(start: Start, refusal: Refusal) -> None:
    cluster = start(node("cp-1", takes=["lost"] * 99, **WAITING))
    fingerprint = cluster.node("cp-1")["fingerprint"]
    error = refusal(first_config, cluster, "cp-1", fingerprint, 1)
    assert "did not take its machine config within 1 s" in error
    assert given(cluster, "cp-1") == b""
    cluster.set("cp-1", takes=[])
    first_config(cluster, "cp-1", fingerprint)
    assert cluster.node("cp-1")["face"] == "up"


@pytest.mark.parametrize(
    ("face", "said"),
    [
        ("absent", "connection refused"),
        ("silent", "no answer within"),
        ("mute", "it takes connections and never answers"),
    ],
)
def test_a_board_that_does_not_answer_ends_in_time(
    start: Start, refusal: Refusal, monkeypatch: pytest.MonkeyPatch, face: str, said: str
) -> None:
    monkeypatch.setattr(apply, "CALL_S", 1.0)
    cluster = start(node("cp-1", face=face))
    began = time.monotonic()
    error = refusal(first_config, cluster, "cp-1", None, 2)
    assert time.monotonic() - began < 12
    assert "did not take its machine config within 2 s" in error
    assert said in error


def test_a_config_that_the_board_refuses_is_not_repeated(start: Start, refusal: Refusal) -> None:
    cluster = start(node("cp-1", **WAITING))
    marker = "c2VjcmV0LW1hcmtlci10aGF0LW5vYm9keS1zZWVz"
    broken = config_of(cluster, "cp-1", cluster.pki.secrets).replace(
        "\nmachine:\n", f"\nmachine:\n    {marker}: {marker}-value\n    token2: {marker}-value\n", 1
    )
    address = cluster.address["cp-1"]
    error = refusal(apply.first_config, cluster.talosconfig, address, broken, None, 600)
    assert f"{address}: it refused its machine config:\n  " in error
    assert "code = InvalidArgument" in error
    assert f"{marker}-value" not in error
    assert given(cluster, "cp-1") == b""


def test_the_config_is_a_private_file_only_meanwhile(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pki: Pki
) -> None:
    real, log = shutil.which("talosctl"), tmp_path / "log"
    spy = tmp_path / "bin" / "talosctl"
    spy.parent.mkdir()
    spy.write_text(
        f'#!/bin/sh\numask 077\nenv >>{log}\necho "$@" >>{log}\n'
        f'for each in "$@"; do case "$each" in */machine-config.yaml) each=${{each#--file=}}\n'
        f'stat -c "%a %n" "$each" "$(dirname "$each")" >>{log}.modes;; esac; done\nexec {real} "$@"\n'
    )
    spy.chmod(0o755)
    cluster = start(node("cp-1", **WAITING))
    config = config_of(cluster, "cp-1", pki.secrets)
    monkeypatch.setenv("PATH", f"{spy.parent}{os.pathsep}{os.environ['PATH']}")
    old = os.umask(0)
    try:
        apply.first_config(cluster.talosconfig, cluster.address["cp-1"], config, None, 20)
    finally:
        os.umask(old)
    modes = [line.split() for line in Path(f"{log}.modes").read_text().splitlines()]
    assert len(modes) >= 4, "in maintenance mode, and again over mutual TLS"
    assert {mode for mode, _ in modes} == {"600", "700"}
    assert not any(Path(name).exists() for _, name in modes)
    hold_no_secret(log.read_text(), pki)
    assert not any(word in log.read_text() for word in config.split() if len(word) > 40)


def test_the_task(start: Start) -> None:
    cluster = start(node("cp-1", **WAITING))
    request: dict[str, Any] = {
        "talosconfig": cluster.talosconfig,
        "node": cluster.address["cp-1"],
        "config": config_of(cluster, "cp-1", cluster.pki.secrets),
        "fingerprint": cluster.node("cp-1")["fingerprint"],
        "timeout_s": 20,
    }
    assert tasks.TASKS["talos-first-config"](request) == ""
    assert cluster.node("cp-1")["face"] == "up"
