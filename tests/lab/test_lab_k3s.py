"""The stand-in k3s release: the installer against its own server, with a systemctl that only writes down."""

from __future__ import annotations

import hashlib
import os
import socket
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import serve
from lab.build import K3S
from layer1.paths import REPOSITORY

VERSION = "v1.33.4+k3s1"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="the installer has to run as root")


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as response:  # noqa: S310 - our own server
        return response.read()


class Host:
    """A place to install to, without touching this machine."""

    def __init__(self, folder: Path, url: str) -> None:
        self.bin, self.units, self.calls = folder / "bin", folder / "units", folder / "calls"
        stubs = folder / "stubs"
        for made in (self.bin, self.units, stubs):
            made.mkdir()
        stub = stubs / "systemctl"
        stub.write_text(f'#!/bin/sh\necho "$*" >>{self.calls}\n')
        stub.chmod(0o755)
        self.environment = {
            "PATH": f"{stubs}:{os.environ['PATH']}",
            "GITHUB_URL": url,
            "INSTALL_K3S_VERSION": VERSION,
            "INSTALL_K3S_BIN_DIR": str(self.bin),
            "INSTALL_K3S_SYSTEMD_DIR": str(self.units),
            "K3S_TOKEN": "s3cret",
        }

    def install(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", K3S / "install.sh", *arguments],
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture
def host(tmp_path: Path, url: str) -> Host:
    return Host(tmp_path, url)


def test_layout_is_that_of_the_real_release(url: str) -> None:
    assert get(f"{url}/install.sh") == (K3S / "install.sh").read_bytes()
    release = f"{url}/download/{VERSION.replace('+', '%2B')}"
    binary = get(f"{release}/k3s")
    assert get(f"{release}/sha256sum-amd64.txt").decode() == f"{hashlib.sha256(binary).hexdigest()}  k3s\n"
    assert get(f"{release}/sha256sum-arm64.txt").decode().endswith("  k3s-arm64\n")
    assert VERSION.encode() in binary


@pytest.mark.parametrize(
    "path", ["/", "/k3s", "/../build.py", "/download/latest/k3s", "/download/v1.1.1%2Bk3s1/x"]
)
def test_nothing_else_is_served(url: str, path: str) -> None:
    with pytest.raises(urllib.error.HTTPError, match="404") as caught:
        get(url + path)
    caught.value.close()


@needs_root
def test_installs_binary_links_and_unit_as_the_real_one_does(host: Host) -> None:
    (host.units / "k3s.service").write_text("somebody else's unit")
    result = host.install(INSTALL_K3S_SKIP_ENABLE="true")
    assert result.returncode == 0, result.stderr
    unit = (host.units / "k3s.service").read_text()
    assert f"ExecStart={host.bin}/k3s \\\n    server \\\n\n" in unit
    assert "Type=notify" in unit
    assert "Restart=always" in unit
    assert (host.bin / "kubectl").readlink() == Path("k3s")
    environment = host.units / "k3s.service.env"
    assert stat.S_IMODE(environment.stat().st_mode) == 0o600
    assert "K3S_TOKEN=s3cret" in environment.read_text()
    assert host.calls.read_text().splitlines() == ["disable k3s"]
    version = subprocess.run([host.bin / "k3s", "--version"], capture_output=True, text=True, check=True)
    assert version.stdout.startswith(f"k3s version {VERSION} ")


@needs_root
def test_flags_and_commands_reach_the_unit(host: Host) -> None:
    assert host.install("--node-ip=10.0.0.2", INSTALL_K3S_EXEC="agent --debug").returncode == 0
    unit = (host.units / "k3s.service").read_text()
    assert (
        f"ExecStart={host.bin}/k3s \\\n    agent \\\n    '--debug' \\\n    '--node-ip=10.0.0.2' \\\n" in unit
    )
    assert host.calls.read_text().splitlines()[-1] == "restart k3s"


@needs_root
def test_start_can_be_skipped_and_a_second_run_downloads_nothing(host: Host) -> None:
    assert host.install(INSTALL_K3S_SKIP_START="true").returncode == 0
    assert "restart k3s" not in host.calls.read_text()
    again = host.install(INSTALL_K3S_SKIP_START="true")
    assert "installed k3s matches hash" in again.stdout


@needs_root
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"INSTALL_K3S_BIN_DIR": "/proc/1"}, "/proc/1 is not writable"),
        ({"INSTALL_K3S_VERSION": ""}, "set INSTALL_K3S_VERSION"),
        ({"INSTALL_K3S_VERSION": "v9.9.9"}, "Download failed"),
        ({"INSTALL_K3S_SKIP_DOWNLOAD": "true"}, "Executable k3s binary not found"),
    ],
)
def test_refusals(host: Host, change: dict[str, str], message: str) -> None:
    result = host.install(**change)
    assert result.returncode != 0
    assert message in result.stderr
    assert not (host.units / "k3s.service").exists()


@needs_root
def test_a_binary_that_does_not_match_its_digest_is_not_installed(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = serve.answer
    monkeypatch.setattr(serve, "answer", lambda path: (real(path) or b"") + b"\n" * path.endswith("k3s"))
    result = host.install()
    assert "does not match" in result.stderr
    assert not (host.bin / "k3s").exists()


# --- the server in the background


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("LAYER1_WORK", str(tmp_path))
    yield tmp_path
    serve.stop()


def lab(*words: str) -> str:
    """Run `python -m lab`, as an operator does."""
    command = [sys.executable, "-m", "lab", *words]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.strip()


def test_start_is_idempotent_and_stop_ends_it(work: Path) -> None:
    port = _free_port()
    where = ("--address", "127.0.0.1", "--port", str(port))
    assert lab("serve", "--daemon", *where).startswith("serving")
    assert get(f"http://127.0.0.1:{port}/install.sh")
    assert "already" in lab("serve", "--daemon", *where)
    assert lab("stop").startswith("ended")
    assert serve.running() is None
    assert lab("stop") == "the stand-in k3s is not being served"


def test_a_new_address_replaces_the_old_server(work: Path) -> None:
    first, second = _free_port(), _free_port()
    lab("serve", "--daemon", "--address", "127.0.0.1", "--port", str(first))
    lab("serve", "--daemon", "--address", "127.0.0.1", "--port", str(second))
    assert get(f"http://127.0.0.1:{second}/install.sh")
    with pytest.raises(urllib.error.URLError):
        get(f"http://127.0.0.1:{first}/install.sh")


def test_listens_on_an_address_that_does_not_exist_yet(work: Path) -> None:
    port = str(_free_port())
    assert lab("serve", "--daemon", "--address", "192.0.2.1", "--port", port).startswith("serving")


def test_a_port_that_is_taken_is_named(work: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(serve.ToolError, match=f"cannot listen on 127.0.0.1:{port}"):
            serve.start("127.0.0.1", port)


def test_stop_never_ends_a_process_that_only_has_the_pid(work: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
        (work / "lab").mkdir()
        (work / "lab" / "serve.json").write_text(
            f'{{"pid": {stranger.pid}, "started": "1", "address": "127.0.0.1", "port": 1}}'
        )
        assert serve.stop() == "the stand-in k3s is not being served"
        assert stranger.poll() is None
        stranger.communicate(b"\n")
