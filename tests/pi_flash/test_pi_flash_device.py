"""What a device holds afterwards: written whole, cut off, refused, or bad."""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pi_flash_support import MIB, NAME, SERIAL, Card, card, disk_image, mounted, run

from layer1.images.download import Progress
from layer1.pi import cli, flash, guard
from layer1.pi.guard import FlashError

HERE = Path(__file__).resolve().parent
HEAD = flash.CHUNK_BYTES


def quiet(_: Progress) -> None:
    pass


def at_end_of(label: str, act: Callable[[], object]) -> Callable[[Progress], None]:
    """Do something once a step is done: "check", "write" or "compare"."""

    def show(step: Progress) -> None:
        if step.kind == "done" and step.file.startswith(label):
            act()

    return show


def poke(path: Path, offset: int) -> None:
    """Change one bit of a file in place."""
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


def has_no_table(made: Card) -> bool:
    """Whether a tool that is not ours finds no partition table on the device."""
    probe = subprocess.run(["blkid", "--probe", made.node], capture_output=True, text=True, check=False)
    assert (probe.returncode, probe.stdout) in {(0, probe.stdout), (2, "")}, probe.stderr
    return "PTTYPE" not in probe.stdout


@pytest.mark.parametrize("size_bytes", [512, HEAD, HEAD + 1, 11 * MIB + 700, 32 * MIB])
def test_the_device_holds_the_image(usb: Card, tmp_path: Path, size_bytes: int) -> None:
    image = tmp_path / "pi-1.img"
    data = disk_image(size_bytes)
    image.write_bytes(data)
    before = usb.backing.read_bytes()
    steps: list[Progress] = []
    flashed = flash.flash(usb.order(image), steps.append, usb.sources())
    sha256 = hashlib.sha256(data).hexdigest()
    assert flashed == flash.Flashed(device=usb.device, serial=SERIAL, bytes_written=size_bytes, sha256=sha256)
    after = usb.backing.read_bytes()
    assert after[:size_bytes] == data
    padded = -(-size_bytes // 512) * 512
    assert after[size_bytes:padded] == bytes(padded - size_bytes)
    # The old second partition table is gone; what lies between is no concern of anybody's.
    assert after[max(padded, 31 * MIB) :] == bytes(32 * MIB - max(padded, 31 * MIB))
    assert after[max(padded, HEAD) : 31 * MIB] == before[max(padded, HEAD) : 31 * MIB]
    assert run("blkid", "--probe", "--output", "value", "--match-tag", "PTTYPE", usb.node) == "dos"
    for label in (f"check {image.name}", f"write {NAME}", f"compare {NAME}"):
        shown = [step for step in steps if step.file == label]
        assert [step.done_bytes for step in shown] == sorted(step.done_bytes for step in shown)
        assert (shown[-1].kind, shown[-1].done_bytes, shown[-1].total_bytes) == (
            "done",
            size_bytes,
            size_bytes,
        )


def test_it_can_be_flashed_again(usb: Card, image: Path, tmp_path: Path) -> None:
    flash.flash(usb.order(image), quiet, usb.sources())
    other = tmp_path / "other.img"
    other.write_bytes(disk_image(9 * MIB, "another image"))
    flash.flash(usb.order(other), quiet, usb.sources())
    assert usb.backing.read_bytes()[: 9 * MIB] == other.read_bytes()


def test_nothing_mounts_it_meanwhile(usb: Card, image: Path, tmp_path: Path) -> None:
    answers: list[str] = []

    def mount() -> None:
        try:
            with mounted(usb.node, tmp_path / "place"):
                answers.append("mounted")
        except subprocess.CalledProcessError as error:
            answers.append(error.stderr)

    run("mkfs.ext4", "-q", "-F", usb.node)
    flash.flash(usb.order(image), at_end_of("check", mount), usb.sources())
    assert len(answers) == 1
    assert "already mounted or mount point busy" in answers[0]


def test_an_image_that_is_not_the_ordered_one(usb: Card, image: Path) -> None:
    order = usb.order(image)
    poke(image, 9 * MIB)
    before = usb.backing.read_bytes()
    with pytest.raises(FlashError, match="not the one that was ordered: its SHA-256 is") as caught:
        flash.flash(order, quiet, usb.sources())
    assert hashlib.sha256(image.read_bytes()).hexdigest() in str(caught.value)
    assert order.image_sha256 in str(caught.value)
    assert usb.backing.read_bytes() == before


@pytest.mark.parametrize("offset", [1000, 9 * MIB])
def test_an_image_that_changes_while_it_is_written(usb: Card, image: Path, offset: int) -> None:
    with pytest.raises(FlashError, match="changed while it was written; the device does not boot"):
        flash.flash(usb.order(image), at_end_of("check", lambda: poke(image, offset)), usb.sources())
    assert usb.backing.read_bytes()[:HEAD] == bytes(HEAD)


@pytest.mark.parametrize("offset", [0, 5 * MIB, 11 * MIB + 699])
def test_a_medium_that_forgets_a_bit(usb: Card, image: Path, offset: int) -> None:
    """The medium changes below the device after the last write, so only reading from it can tell."""
    first = offset // HEAD * HEAD // MIB
    with pytest.raises(
        FlashError, match=f"other bytes than were written, first in the 4 MiB after {first} MiB"
    ) as caught:
        flash.flash(usb.order(image), at_end_of("write", lambda: poke(usb.backing, offset)), usb.sources())
    assert "Its start was blanked, so no board boots it; use another card" in str(caught.value)
    assert has_no_table(usb)


@contextmanager
def counterfeit(tmp_path: Path, claimed_mib: int, real_mib: int) -> Iterator[Card]:
    """A loop device over a file system that keeps the file's last `real_mib` MiB only: writes wrap around."""
    point = tmp_path / "counterfeit"
    point.mkdir()
    command = [
        sys.executable,
        HERE / "pi_flash_counterfeit.py",
        point,
        str(claimed_mib * MIB),
        str(real_mib * MIB),
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "mounted\n"
        try:
            with card(tmp_path / "card", backing=point / "medium") as made:
                yield made
        finally:
            run("umount", point)
            server.communicate(timeout=30)
    assert server.returncode == 0


def test_a_counterfeit_card(image: Path, tmp_path: Path) -> None:
    with counterfeit(tmp_path, claimed_mib=64, real_mib=8) as fake:
        with pytest.raises(FlashError, match=r"bad or counterfeit \(smaller than it says"):
            flash.flash(fake.order(image), quiet, fake.sources())
        assert has_no_table(fake)


def test_a_card_of_the_size_it_says_is_not_called_counterfeit(image: Path, tmp_path: Path) -> None:
    with counterfeit(tmp_path, claimed_mib=64, real_mib=64) as honest:
        assert flash.flash(honest.order(image), quiet, honest.sources()).bytes_written == 11 * MIB + 700


def test_a_device_that_fails(image: Path, tmp_path: Path) -> None:
    """The medium takes a part of the image and then gives errors, as a card that is pulled out does."""
    point = tmp_path / "small"
    point.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=9m", "tmpfs", point)
    try:
        with (point / "medium").open("wb") as file:
            file.truncate(64 * MIB)
        with card(tmp_path / "card", backing=point / "medium") as failing:
            with pytest.raises(FlashError, match=r"writing failed \(") as caught:
                flash.flash(failing.order(image), quiet, failing.sources())
            assert "pulled out" in str(caught.value)
            assert has_no_table(failing)
    finally:
        run("umount", point)


@pytest.mark.parametrize("step", ["write", "compare"])
def test_kill_in_the_middle(usb: Card, image: Path, step: str) -> None:
    """A child that stops within a step is killed there; it holds the device, in the midst of its work."""
    sources = usb.sources()
    order = usb.order(image)
    request = json.dumps(
        {
            "order": {key: str(getattr(order, key)) for key in order.__slots__},
            "sources": {key: str(getattr(sources, key)) for key in sources.__slots__},
            "step": step,
        }
    )
    child = [sys.executable, HERE / "pi_flash_child.py", request]
    with subprocess.Popen(child, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as flashing:
        assert flashing.stdout is not None
        assert flashing.stdout.readline() == f"in the middle of {step}\n"
        assert "is held" in guard.refusals(order, sources)[0]
        flashing.kill()
        flashing.wait(timeout=30)
    data = image.read_bytes()
    held = usb.backing.read_bytes()[: len(data)]
    if step == "write":
        assert held[:HEAD] == bytes(HEAD)
        assert held[HEAD : 2 * HEAD] == data[HEAD : 2 * HEAD]
        assert held != data
        assert has_no_table(usb)
    else:
        assert held == data  # complete, if not yet compared
    flash.flash(order, quiet, sources)
    assert usb.backing.read_bytes()[: len(data)] == data


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    cli.add_parser(parser.add_subparsers(required=True))
    return parser.parse_args(["pi", *arguments])


@pytest.fixture
def known(usb: Card, monkeypatch: pytest.MonkeyPatch) -> Card:
    """The commands see the card's facts where they would see the machine's."""
    sources = usb.sources()
    monkeypatch.setattr(guard, "candidates", functools.partial(guard.candidates, sources))
    monkeypatch.setattr(flash, "flash", functools.partial(flash.flash, sources=sources))
    return usb


def test_command_devices(known: Card, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = parse("devices")
    assert arguments.run(arguments) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(
        f"{known.device}\n  {known.node}, 0.0 GiB, Ultra, serial {SERIAL}\n  can be flashed;"
    )
    arguments = parse("devices", "--json")
    assert arguments.run(arguments) == 0
    (listed,) = json.loads(capsys.readouterr().out)
    assert (listed["device"], listed["serial"], listed["refusals"]) == (known.device, SERIAL, [])


def test_command_flash(known: Card, image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["flash", "--image", str(image), "--device", known.device, "--confirm-erase", SERIAL]
    arguments = parse(*words, "--json")
    assert arguments.run(arguments) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["sha256"] == hashlib.sha256(image.read_bytes()).hexdigest()
    assert f"compare {NAME}: 11.0 of 11.0 MiB done" in shown.err
    poke(image, 9 * MIB)
    arguments = parse(*words, "--sha256", json.loads(shown.out)["sha256"])
    with pytest.raises(FlashError, match="not the one that was ordered"):
        arguments.run(arguments)


def test_command_flash_without_the_serial(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("flash", "--image", str(image), "--device", "/dev/disk/by-id/usb-x")
    assert "--confirm-erase" in capsys.readouterr().err


def test_command_interrupted(
    known: Card, image: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(flash, "_compare", lambda *_: interrupt(None))
    arguments = parse("flash", "--image", str(image), "--device", known.device, "--confirm-erase", SERIAL)
    assert arguments.run(arguments) == 130
    assert "flash it again" in capsys.readouterr().err
