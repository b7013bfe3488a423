"""One board for all the tests of this folder, and the operator's ssh that reaches it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from pi_remote_support import ADDRESS, HERE, PROXY_ADDRESS, STATE, Board, Proxy, Seen, wait_for

from layer1.pi import remote


@pytest.fixture(scope="session")
def machine() -> Iterator[Board]:
    folder = Path(tempfile.mkdtemp(prefix="layer1-pi-"))
    board = Board(folder / folder.name)
    try:
        yield board
    finally:
        board.discard()
        shutil.rmtree(folder)


@pytest.fixture
def board(machine: Board) -> Iterator[Board]:
    """The board, on, with nothing applied yet."""
    if not machine.powered:
        machine.power_on()
    wait_for(lambda: _settled(machine))
    yield machine
    if machine.powered:
        wait_for(lambda: _settled(machine))
        for path in (machine.root / STATE).iterdir():
            if path.name != "k3s-installed":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.rmtree(machine.root / "run/layer1-apply", ignore_errors=True)


def _settled(board: Board) -> bool:
    try:
        state = board.run(
            "sh", "-c", "systemctl is-system-running; systemctl is-active layer1-apply.service; true"
        )
    except (OSError, subprocess.SubprocessError):
        return False  # between two boots
    return state.split() in (["running", "inactive"], ["degraded", "inactive"])


@pytest.fixture(autouse=True)
def seen(machine: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Seen:
    """Put an ssh on PATH that is the real one, within the board's network."""
    folder = tmp_path / "bin"
    folder.mkdir()
    real = shutil.which("ssh")
    log = tmp_path / "seen"
    (folder / "ssh").write_text(
        f"""#!/bin/sh
(IFS=$(printf '\\037'); echo "$*") >>{log}
exec {" ".join(machine.inside())} {real} "$@"
"""
    )
    (folder / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(remote, "_POLL_S", 0.2)
    return Seen(log)


@pytest.fixture
def proxy(machine: Board, tmp_path: Path) -> Iterator[Proxy]:
    """Start a proxy to the board that cuts connections; gives its log of bytes a connection."""
    running: list[subprocess.Popen[str]] = []

    def start(cut_after: int, times: int) -> Path:
        log = tmp_path / "proxied"
        program = [
            sys.executable,
            str(HERE / "cutting-proxy.py"),
            PROXY_ADDRESS,
            ADDRESS,
            str(cut_after),
            str(times),
        ]
        running.append(
            subprocess.Popen([*machine.inside(), *program, str(log)], stdout=subprocess.PIPE, text=True)
        )
        assert running[0].stdout
        assert running[0].stdout.readline() == "listening\n"
        return log

    yield start
    for each in running:
        each.kill()
        each.communicate()
