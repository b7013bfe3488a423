"""Sources of images and installers: a real server on loopback, files, and places where nothing answers."""

from __future__ import annotations

import http.server
import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from layer1 import config, sshkeys, supply
from layer1.doctor import sources
from layer1.doctor.sources import Reply, Source, ask_all, judge
from layer1.findings import Finding, Verdict
from layer1.model import StackConfig

KEY = sshkeys.ed25519_public(b"\x01" * 32, "operator@example")


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/there")
        elif self.path == "/slow":
            self.server.gate.wait(10)  # type: ignore[attr-defined]
            self.send_response(200)
        else:
            self.send_response(404 if "gone" in self.path else 200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as running:
        running.gate = threading.Event()  # type: ignore[attr-defined]
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.gate.set()  # type: ignore[attr-defined]
        running.shutdown()
        thread.join()


def source(url: str, **changes: Any) -> Source:
    return replace(Source(id="source.x", what="x", url=url, lost="nothing starts"), **changes)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_what_is_there_answers_and_what_is_not_does_not(server: str, tmp_path: Path) -> None:
    (tmp_path / "a b.img").write_text("x")
    urls = {
        f"{server}/there": (True, "answers 200"),
        f"{server}/moved": (True, "answers 200"),
        f"{server}/gone": (False, "answers 404"),
        f"http://127.0.0.1:{free_port()}/": (False, "cannot be connected to"),
        f"file://{tmp_path}/a%20b.img": (True, "the file is there"),
        f"file://{tmp_path}/c.img": (False, "the file is not there"),
    }
    replies = ask_all([source(url) for url in urls])
    assert [(reply.good, reply.said) for reply in replies] == list(urls.values())


def test_one_that_hangs_holds_nobody_up(server: str) -> None:
    started = time.monotonic()
    slow, quick = ask_all([source(f"{server}/slow"), source(f"{server}/there")], limit_s=0.6)
    assert time.monotonic() - started < 3
    assert (slow.good, quick.good) == (False, True)
    assert "time" in slow.said or "no answer" in slow.said


def test_a_server_in_the_nodes_network_is_known_by_its_listener() -> None:
    """The address comes with the network; a socket may listen on it before that."""
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_IP, 15, 1)  # IP_FREEBIND
        listening.bind(("10.203.77.1", 0))
        port = listening.getsockname()[1]
        url = f"http://10.203.77.1:{port}/install.sh"
        assert not ask_all([source(url, inside=True)])[0].good  # bound, and does not listen
        listening.listen()
        (reply,) = ask_all([source(url, inside=True)])
        assert reply.good
        assert f"listens on 10.203.77.1:{port}" in reply.said
    assert not ask_all([source(url, inside=True)])[0].good


def test_a_verified_file_in_the_cache_needs_no_source() -> None:
    missing = Reply(good=False, said="its name is not known")
    cached = judge(source("https://example.invalid/a", cached="abc"), missing)
    assert (cached.verdict, "in the cache" in cached.evidence) == (Verdict.HOLDS, True)
    answer = judge(source("https://example.invalid/a"), missing)
    assert answer.verdict == Verdict.BROKEN
    assert answer.remedy.startswith("curl -sSIL https://example.invalid/a")
    assert judge(source("file:///srv/a"), missing).remedy.startswith("make lab")


def stack_of(**changes: Any) -> StackConfig:
    raw = {
        "nodes": [{"name": "k3s-1", "os": "flatcar"}],
        "defaults": {"ssh_authorized_keys": [KEY]},
        **changes,
    }
    return config.load("unit", raw, {})


def by_id(rows: list[Finding]) -> dict[str, Finding]:
    return {row.id: row for row in rows}


def test_a_stack_with_a_mirror_is_asked_at_the_mirror_and_wants_its_pin(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAYER1_CACHE", str(tmp_path))
    stack = stack_of(
        images={"flatcar": {"base_url": server}},
        k3s={"installer_url": f"{server}/install.sh", "releases_url": f"{server}/gone"},
    )
    rows = by_id(sources.findings("this machine", stack))
    assert rows["source.image"].verdict == Verdict.HOLDS
    assert rows["source.image"].evidence.startswith(f"{server}/amd64-usr/4593.2.5/")
    assert rows["source.k3s-installer"].verdict == Verdict.HOLDS
    assert rows["source.k3s"].verdict == Verdict.BROKEN
    assert f"{server}/gone/download/v1.36.4%2Bk3s1/sha256sum-amd64.txt" in rows["source.k3s"].evidence
    assert rows["source.pins"].verdict == Verdict.BROKEN
    assert "image pin k3s-installer --version v1.36.4+k3s1" in rows["source.pins"].evidence


def test_a_stack_whose_practice_image_was_not_built_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAYER1_CACHE", str(tmp_path))
    stack = stack_of(images={"flatcar": {"source": "practice"}})
    (row,) = sources.findings("this machine", stack)
    assert (row.verdict, row.remedy) == (Verdict.BROKEN, "make lab")


def test_a_practice_image_that_was_built_is_there_and_pinned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAYER1_CACHE", str(tmp_path))
    manifest = supply.practice_manifest()
    manifest.parent.mkdir(parents=True)
    (manifest.parent / "guest.qcow2").write_bytes(b"x")
    manifest.write_text(
        json.dumps(
            {
                "name": "practice",
                "version": "1.0",
                "arch": "amd64",
                "format": "qcow2",
                "path": str(manifest.parent / "guest.qcow2"),
                "size_bytes": 1,
                "virtual_size_bytes": 1 << 30,
                "sha512": "ab" * 64,
                "k3s_installer": {"sha512": "cd" * 64},
            }
        )
    )
    gateway = f"http://10.11.0.1:{free_port()}"
    stack = stack_of(
        images={"flatcar": {"source": "practice"}},
        k3s={"installer_url": f"{gateway}/install.sh", "releases_url": gateway},
    )
    rows = by_id(sources.findings("this machine", stack))
    assert rows["source.image"].verdict == Verdict.HOLDS
    assert rows["source.pins"].verdict == Verdict.HOLDS
    assert "does not listen" in rows["source.k3s"].evidence
    assert rows["source.k3s"].remedy.startswith("make lab")
