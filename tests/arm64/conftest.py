from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from arm64_support import LIMIT_S, Keys, Shell, settings, wait_until

from lab import serve
from lab.arm64 import build
from lab.arm64.boot import GATEWAY, Board
from lab.arm64.firmware import boot_file_names, boot_partition, read_boot_file
from layer1.pi import image
from layer1.pi.bundle import BoardSettings
from layer1.pi.image import WrittenImage
from layer1.processes import run


@pytest.fixture(scope="session")
def base() -> Path:
    """The practice board's image, which nobody has personalised."""
    return build.build().with_name(build.IMAGE)


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="session")
def release_url() -> Iterator[str]:
    """The stand-in k3s release; the gateway of QEMU's user network is this machine's loopback."""
    server = serve.Server(("127.0.0.1", 0), serve._Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://{GATEWAY}:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="session")
def facts(keys: Keys, release_url: str) -> BoardSettings:
    return settings(keys, release_url)


@pytest.fixture(scope="session")
def card(base: Path, facts: BoardSettings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The board's card, as `pulumi up` writes it: by the real code."""
    target = tmp_path_factory.mktemp("card") / "pi-1.img"
    written: WrittenImage = image.write(base, target, facts, "bookworm")
    assert written.release.codename == "bookworm"
    return target


def _bundle_is_off_the_fat(card: Path) -> bool:
    """Whether firstrun.sh has moved the bundle to root's file system: from then on apply.sh runs."""
    if "layer1.tar" not in boot_file_names(card):
        return True
    shown = run(["mtype", "-i", boot_partition(card), "::layer1.tar"])
    return not shown.stdout.strip("\0")


@pytest.fixture(scope="session")
def interrupted(card: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Board, set[str]]:
    """A board whose plug was pulled while its first boot applied the bundle, and what the FAT then held."""
    board = Board(tmp_path_factory.mktemp("board"), card, guest_ports=(22, 6443, 8000))
    with board:
        wait_until(
            lambda: _bundle_is_off_the_fat(card), "the first boot has taken the bundle", alive=board.alive
        )
    assert "systemd.run=/boot/firmware/firstrun.sh" in read_boot_file(card, "cmdline.txt"), (
        "cut in the middle"
    )
    return board, boot_file_names(card)


@pytest.fixture(scope="session")
def board(interrupted: tuple[Board, set[str]], keys: Keys) -> Iterator[Board]:
    """The board after power came back: first boot once more, to its end, and the boot after it."""
    board, _ = interrupted
    with board:
        seconds = board.wait_ssh(**keys.login(), timeout_s=LIMIT_S)
        print(f"the first boot once more, the reboot and key login: {seconds:.0f} s")
        yield board


@pytest.fixture(scope="session")
def ask(board: Board, keys: Keys) -> Shell:
    """Runs a command as the operator, which must succeed, and gives its output."""
    return Shell(board, keys)


@pytest.fixture
def port_22(board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Layer 1 speaks to port 22; the guest's is another one of this machine's loopback."""
    wrapper = tmp_path / "ssh"
    wrapper.write_text(
        f'#!/bin/sh\nexec {shutil.which("ssh")} -p {board.port} -o HostKeyAlias=127.0.0.1 "$@"\n'
    )
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
