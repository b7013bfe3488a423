"""The ROM that tells whether code runs: real QEMU, under emulation as the control."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from layer1.doctor import host_probe
from layer1.doctor.host_probe import rom_image, run_rom
from layer1.paths import REPOSITORY

BYTES = 65536
HALTS = b"\xf4" * BYTES
# Writes another number to the port: QEMU ends, but not as our ROM has it end.
ANSWERS_WRONG = (b"\xba\xf4\x00\xb0\x01\xee\xf4").ljust(BYTES - 16, b"\xf4") + (
    b"\xea\x00\x00\x00\xf0".ljust(16, b"\xf4")
)


def _children() -> set[str]:
    own = Path(f"/proc/{os.getpid()}/task")
    return {pid for task in own.iterdir() for pid in (task / "children").read_text().split()}


@pytest.fixture(autouse=True)
def no_qemu_is_left() -> Iterator[None]:
    before = _children()
    yield
    assert _children() <= before


def test_the_rom_runs_under_emulation() -> None:
    assert run_rom("tcg").outcome == "ran"


def test_a_rom_that_never_says_anything_is_ended_at_the_limit() -> None:
    started = time.monotonic()
    assert run_rom("tcg", HALTS, 1.0).outcome == "hung"
    assert 1.0 <= time.monotonic() - started < 5


def test_a_rom_that_says_something_else_did_not_run() -> None:
    result = run_rom("tcg", ANSWERS_WRONG)
    assert (result.outcome, result.said) == ("ended", "status 3: it said nothing")


def test_what_qemu_complains_of_is_told() -> None:
    result = run_rom("nonsense")
    assert result.outcome == "ended"
    assert "nonsense" in result.said


def test_without_qemu_nothing_is_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_probe, "_program", lambda name: None)
    assert run_rom("tcg").outcome == "missing"


def test_the_bytes_are_the_assembled_source(tmp_path: Path) -> None:
    source = REPOSITORY / "layer1" / "doctor" / "kvm_rom_x86_64.S"
    made, plain = tmp_path / "rom.o", tmp_path / "rom.bin"
    subprocess.run(["as", "--64", "-o", made, source], check=True)
    subprocess.run(["objcopy", "-O", "binary", "-j", ".text", made, plain], check=True)
    image = rom_image("x86_64")
    assert image is not None
    assert len(image) == BYTES
    assert image.startswith(plain.read_bytes() + b"\xf4")


@pytest.mark.parametrize("removed", [b"\x0f\x22\xc0", b"\xcf", b"\x48\xcf", b"\x0f\x30"])
def test_every_step_of_the_rom_counts(removed: bytes) -> None:
    """Protected mode, both returns from an interrupt, 64 bits: without one of them the end is not reached."""
    image = rom_image("x86_64")
    assert image is not None
    assert removed in image
    damaged = image.replace(removed, b"\xf4" * len(removed))
    assert run_rom("tcg", damaged, 1.0).outcome != "ran"


def test_the_rom_for_arm_runs_under_emulation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert run_rom("tcg").outcome == "ran"
    endless = b"\x00\x00\x00\x14".ljust(BYTES, b"\0")  # a branch to itself
    assert run_rom("tcg", endless, 1.0).outcome == "hung"


def test_an_architecture_without_a_rom_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert run_rom("tcg").outcome == "missing"
