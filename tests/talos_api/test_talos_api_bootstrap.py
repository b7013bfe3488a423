"""Bootstrap against every face that a node may show; the talosctl is the real one."""

from __future__ import annotations

import os
import shutil
import stat
import time
from pathlib import Path

import pytest
import yaml
from talos_api_support import Pki, Refusal, Start, hold_no_secret, node

from layer1.errors import ToolError
from layer1.talos import api, talosctl_api

NOT_YET = {"code": "FAILED_PRECONDITION", "message": "bootstrap is not available yet", "times": 2}
NO_TIME = {"code": "FAILED_PRECONDITION", "message": "time is not in sync yet", "times": 2}


def test_a_node_is_bootstrapped_once_it_is_ready(start: Start) -> None:
    cluster = start(
        node("cp-1", face="absent", bootstrap=[NOT_YET, NO_TIME]), node("cp-2"), node("cp-3"), node("w-1")
    )
    cluster.later(0.4, "cp-1", face="maintenance")
    cluster.later(1.0, "cp-1", face="up")
    api.bootstrap(cluster.talosconfig, cluster.address["cp-1"], 20)
    assert cluster.calls("Bootstrap") == [("Bootstrap", "cp-1")] * 5, "four refusals, then one that works"
    assert cluster.node("cp-3")["etcd"] == "running"


def test_a_node_that_leaves_maintenance_meanwhile_is_no_stranger(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = start(node("cp-1", face="maintenance"))
    really = talosctl_api.Talosctl._without_certificate

    def probe(talosctl: talosctl_api.Talosctl, address: str) -> talosctl_api.Answer:
        cluster.set("cp-1", face="up")
        return really(talosctl, address)

    monkeypatch.setattr(talosctl_api.Talosctl, "_without_certificate", probe)
    api.bootstrap(cluster.talosconfig, cluster.address["cp-1"], 20)
    assert cluster.node("cp-1")["etcd"] == "running"


def test_done_before_and_healthy_is_success(start: Start) -> None:
    cluster = start(node("cp-1"))
    for _ in range(2):
        api.bootstrap(cluster.talosconfig, cluster.address["cp-1"], 20)
    assert len(cluster.calls("Bootstrap")) == 2


def test_done_before_is_waited_for_until_it_is_healthy(start: Start) -> None:
    cluster = start(node("cp-1", etcd="sick"))
    cluster.later(1, "cp-1", etcd="running")
    api.bootstrap(cluster.talosconfig, cluster.address["cp-1"], 20)
    assert len(cluster.calls("Bootstrap")) == 1


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"etcd": "sick"}, "service etcd runs, but is not healthy"),
        ({"etcd_data": True}, "service etcd is not running"),
    ],
)
def test_done_before_and_sick_is_an_error(
    start: Start, refusal: Refusal, fields: dict[str, object], said: str
) -> None:
    cluster = start(node("cp-1", **fields))
    error = refusal(api.bootstrap, cluster.talosconfig, cluster.address["cp-1"], 1)
    assert "its etcd has data from before, but etcd is not healthy within 1 s" in error
    assert said in error


@pytest.mark.parametrize(
    ("refused", "hint"),
    [(NOT_YET, "container runtime is not up yet"), (NO_TIME, "waits for a time server (NTP)")],
)
def test_a_node_that_never_gets_ready_ends_with_its_last_answer(
    start: Start, refusal: Refusal, refused: dict[str, object], hint: str
) -> None:
    cluster = start(node("cp-1", bootstrap=[{**refused, "times": -1}]))
    error = refusal(api.bootstrap, cluster.talosconfig, cluster.address["cp-1"], 1)
    assert error.startswith(f"{cluster.address['cp-1']}: not bootstrapped within 1 s. Its last answer:\n")
    assert f"rpc error: code = FailedPrecondition desc = {refused['message']}" in error
    assert hint in error
    assert "run the same command again" in error


@pytest.mark.parametrize(
    ("name", "face", "said"),
    [
        ("w-1", "up", "it is a worker; only a control plane does this"),
        ("cp-1", "stranger", "its certificate is of another cluster"),
        ("cp-1", "maintenance", "it is in maintenance mode: it runs without a machine config"),
    ],
)
def test_what_cannot_mend_fails_at_once(
    start: Start, refusal: Refusal, name: str, face: str, said: str
) -> None:
    cluster = start(node("cp-0"), node(name, face=face))
    began = time.monotonic()
    error = refusal(api.bootstrap, cluster.talosconfig, cluster.address[name], 600)
    assert time.monotonic() - began < 10
    assert said in error
    assert cluster.node("cp-0")["etcd"] == ""


def test_a_node_that_knows_another_authority_fails_at_once(start: Start, refusal: Refusal, pki: Pki) -> None:
    cluster = start(node("cp-1"))
    mixed, strange = yaml.safe_load(pki.talosconfig), yaml.safe_load(pki.strange_talosconfig)
    for part in ("crt", "key"):
        mixed["contexts"]["own"][part] = strange["contexts"]["strange"][part]
    error = refusal(api.bootstrap, yaml.safe_dump(mixed), cluster.address["cp-1"], 600)
    assert "it refuses the talosconfig's certificate: the node belongs to another cluster" in error
    assert cluster.calls("Bootstrap") == []


@pytest.mark.parametrize(
    ("face", "said"),
    [
        ("absent", "connection refused"),
        ("silent", "no answer within"),
        ("mute", "it takes connections and never answers"),
    ],
)
def test_a_node_that_does_not_answer_ends_in_time(
    start: Start, refusal: Refusal, monkeypatch: pytest.MonkeyPatch, face: str, said: str
) -> None:
    monkeypatch.setattr(api, "CALL_S", 1.0)
    cluster = start(node("cp-1", face=face))
    began = time.monotonic()
    error = refusal(api.bootstrap, cluster.talosconfig, cluster.address["cp-1"], 2)
    assert time.monotonic() - began < 5
    assert said in error


def test_a_talosconfig_that_cannot_be_read_is_not_repeated(refusal: Refusal, pki: Pki) -> None:
    broken = pki.talosconfig.replace("contexts:", "contexts: [")
    error = refusal(api.bootstrap, broken, "127.0.0.1", 600)
    assert "the talosconfig cannot be read" in error
    word = max(pki.talosconfig.split(), key=len)
    wrong_type = refusal(api.bootstrap, f"context: own\ncontexts: {word}\n", "127.0.0.1", 600)
    assert word[:24] not in wrong_type


def test_talosconfig_is_a_private_file_only_meanwhile(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pki: Pki
) -> None:
    real = shutil.which("talosctl")
    log = tmp_path / "log"
    spy = tmp_path / "bin" / "talosctl"
    spy.parent.mkdir()
    spy.write_text(
        f'#!/bin/sh\numask 077\nenv >>{log}.env\necho "$@" >>{log}\n'
        f'while [ "$1" != --talosconfig ]; do shift_last="$shift_last $1"; shift; done\n'
        f'stat -c "%a %n" "$2" "$(dirname "$2")" >>{log}.modes\nexec {real} $shift_last "$@"\n'
    )
    spy.chmod(0o755)
    monkeypatch.setenv("PATH", f"{spy.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("NO_PROXY", "example.org")
    cluster = start(node("cp-1"))
    old = os.umask(0)
    try:
        api.bootstrap(cluster.talosconfig, cluster.address["cp-1"], 20)
    finally:
        os.umask(old)
    modes = [line.split() for line in (tmp_path / "log.modes").read_text().splitlines()]
    assert {mode for mode, _ in modes} == {"600", "700"}
    assert not any(Path(name).exists() for _, name in modes)
    hold_no_secret(log.read_text() + (tmp_path / "log.env").read_text(), pki)
    assert f"NO_PROXY=example.org,{cluster.address['cp-1']}" in (tmp_path / "log.env").read_text()


def test_file_is_gone_after_a_failure(pki: Pki) -> None:
    kept: list[Path] = []

    def fail() -> None:
        with talosctl_api.session(pki.talosconfig) as talosctl:
            kept.append(talosctl._file)
            assert stat.S_IMODE(kept[0].stat().st_mode) == 0o600
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert not kept[0].parent.exists()


def test_without_talosctl_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch, pki: Pki) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ToolError, match="talosctl: not found on PATH; run `make setup`"):
        api.bootstrap(pki.talosconfig, "127.0.0.1", 1)
