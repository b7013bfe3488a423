"""The gate itself (assets/pi/receive.sh), asked for what it must refuse."""

from __future__ import annotations

import hashlib
import io
import subprocess
import tarfile
from collections.abc import Iterator

import pytest
from pi_remote_support import ADDRESS, APPLY, HOST, Board, bundle_of

from layer1 import ssh
from layer1.pi.bundle import archive

GOOD = archive(bundle_of("true"))


@pytest.fixture
def ask(board: Board) -> Iterator[ssh.Ask]:
    login = ssh.Login(user="layer1-apply", address=ADDRESS, host_key=HOST[1], key=APPLY[0])
    with ssh.session(login) as gate:
        yield gate


def send(ask: ssh.Ask, data: bytes) -> subprocess.CompletedProcess[str]:
    return ask(f"apply {hashlib.sha256(data).hexdigest()}", stdin=data)


def nothing_happened(board: Board) -> None:
    assert board.read("runs") == ""
    assert not (board.root / "var/lib/layer1/incoming").exists()
    assert not (board.root / "tmp/mark").exists()
    assert not (board.root / "var/lib/layer1/mark").exists()


@pytest.mark.parametrize(
    "command",
    [
        "",
        "sh",
        "applied ",
        " applied",
        "applied; touch /tmp/mark",
        "applied\ntouch /tmp/mark",
        "$(touch /tmp/mark)",
        "apply",
        "apply ",
        f"apply {'0' * 63}",
        f"apply {'0' * 65}",
        f"apply {'A' * 64}",
        f"apply {'0' * 64} x",
        f"apply {'0' * 64}\n",
        f"apply  {'0' * 64}",
        f"apply ../../../{'0' * 55}",
        "reboot now",
        "applied --help",
        "/usr/local/lib/layer1/receive.sh applied",
        "scp -t /tmp",
        "internal-sftp",
    ],
)
def test_any_other_request_is_refused(command: str, ask: ssh.Ask, board: Board) -> None:
    result = ask(command, stdin=GOOD)
    assert result.returncode == 64
    assert result.stderr == "refused: this key may only say applied, apply SHA256 or reboot\n"
    assert result.stdout == ""
    nothing_happened(board)


def test_the_user_may_run_nothing_else_as_root(board: Board) -> None:
    said = board.run("sudo", "--list", "--other-user=layer1-apply")
    assert said.splitlines()[-1].split() == ["(root)", "NOPASSWD:", "/usr/local/lib/layer1/receive.sh"]


def test_a_reboot_that_nothing_needs_is_refused(ask: ssh.Ask, board: Board) -> None:
    before = board.boots
    result = ask("reboot")
    assert (result.returncode, result.stderr) == (64, "refused: nothing here needs a reboot\n")
    assert board.boots == before


@pytest.mark.parametrize(
    "data", [GOOD[:-1], GOOD[:5000], b"", GOOD + b"x"], ids=["short", "half", "none", "more"]
)
def test_what_is_not_what_was_announced_is_not_unpacked(data: bytes, ask: ssh.Ask, board: Board) -> None:
    result = ask(f"apply {hashlib.sha256(GOOD).hexdigest()}", stdin=data)
    assert (result.returncode, result.stderr) == (65, "the bundle did not arrive whole\n")
    nothing_happened(board)


def tar(*members: tuple[str, bytes, str]) -> bytes:
    """Make a tar with an apply.sh that leaves a mark, and members (name, type, link's target)."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.GNU_FORMAT) as writer:
        script = b"#!/bin/sh\necho >/tmp/mark\n"
        first = tarfile.TarInfo("apply.sh")
        first.size = len(script)
        writer.addfile(first, io.BytesIO(script))
        for name, kind, link in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, link
            writer.addfile(info)
    return made.getvalue()


OUTSIDE = "a name that is not a plain path within it"
NO_FILE = "more than files and folders"


@pytest.mark.parametrize(
    ("member", "said"),
    [
        (("../mark", tarfile.REGTYPE, ""), OUTSIDE),
        (("files/../../mark", tarfile.REGTYPE, ""), OUTSIDE),
        (("..", tarfile.DIRTYPE, ""), OUTSIDE),
        (("/tmp/mark", tarfile.REGTYPE, ""), OUTSIDE),
        (("new\nline", tarfile.REGTYPE, ""), OUTSIDE),
        (("-rf", tarfile.REGTYPE, ""), OUTSIDE),
        (("link", tarfile.SYMTYPE, "/tmp"), NO_FILE),
        (("link", tarfile.SYMTYPE, "apply.sh"), NO_FILE),
        (("link", tarfile.LNKTYPE, "/etc/shadow"), NO_FILE),
        (("pipe", tarfile.FIFOTYPE, ""), NO_FILE),
        (("disk", tarfile.BLKTYPE, ""), NO_FILE),
        (("tty", tarfile.CHRTYPE, ""), NO_FILE),
    ],
)
def test_a_tar_that_could_leave_its_folder_is_refused(
    member: tuple[str, bytes, str], said: str, ask: ssh.Ask, board: Board
) -> None:
    result = send(ask, tar(member))
    assert result.returncode == 64
    assert said in result.stderr
    nothing_happened(board)


@pytest.mark.parametrize("packing", ["gz", "xz"])
def test_a_packed_tar_is_refused_for_it_may_grow(packing: str, ask: ssh.Ask, board: Board) -> None:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode=f"w:{packing}") as writer:  # type: ignore[call-overload]
        writer.addfile(tarfile.TarInfo("apply.sh"))
    result = send(ask, made.getvalue())
    assert result.returncode == 64
    assert "the bundle is no tar" in result.stderr
    nothing_happened(board)


def test_noise_is_no_bundle(ask: ssh.Ask, board: Board) -> None:
    assert send(ask, b"noise" * 1000).returncode == 64
    assert "no apply.sh" in send(ask, archive({"other.sh": "true"})).stderr
    nothing_happened(board)


def test_the_size_is_bounded(ask: ssh.Ask, board: Board) -> None:
    result = send(ask, archive({**bundle_of("true"), "files/large": "x" * 2**20}))
    assert result.returncode == 64
    assert "larger than 1048576 bytes" in result.stderr
    nothing_happened(board)


def test_while_one_runs_another_is_turned_away_unread(ask: ssh.Ask, board: Board) -> None:
    slow = archive(bundle_of("while [ ! -e /run/go-on ]; do sleep 0.1; done"))
    assert send(ask, slow).returncode == 0
    assert "apply=running\n" in ask("applied").stdout
    result = send(ask, GOOD)
    assert (result.returncode, result.stderr) == (75, "an apply runs already\n")
    assert ask("reboot").returncode == 75
    (board.root / "run/go-on").touch()


def test_what_is_unpacked_is_roots_only(ask: ssh.Ask, board: Board) -> None:
    script = 'find "$1" "$1/.." /run/layer1-apply -maxdepth 0 -printf "%u %m\\n" >/var/lib/layer1/found'
    assert send(ask, archive(bundle_of(script))).returncode == 0
    while "apply=running" in ask("applied").stdout:
        pass
    assert board.read("found") == "root 700\n" * 3
