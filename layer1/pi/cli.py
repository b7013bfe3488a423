"""`python -m layer1 pi devices|flash`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

from layer1.images.cli import shown_progress
from layer1.pi import flash, guard

_GIB = 1 << 30


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the `pi` command; each leaf sets `run`, a function from the arguments to an exit code."""
    board = subparsers.add_parser("pi", help="cards and disks for Raspberry Pi boards")
    verbs = board.add_subparsers(dest="verb", required=True, metavar="VERB")
    text = "list the disks, their serials, and why some cannot be flashed; writes nothing"
    devices = verbs.add_parser("devices", help=text, description=text)
    devices.add_argument("--json", action="store_true", help="print one line of JSON")
    devices.set_defaults(run=_devices)
    text = "erase a disk, write a node's image onto it and compare what it then holds"
    writing = verbs.add_parser("flash", help=text, description=text)
    writing.add_argument("--image", required=True, type=Path, metavar="FILE", help="a raw disk image")
    writing.add_argument(
        "--sha256", metavar="HEX", help="what the image must be; without it, what the file is now"
    )
    writing.add_argument("--device", required=True, metavar="PATH", help="/dev/disk/by-id/… of a whole disk")
    writing.add_argument(
        "--confirm-erase", required=True, metavar="SERIAL", help="the disk's serial: all it holds is erased"
    )
    writing.add_argument("--json", action="store_true", help="print the result as one line of JSON")
    writing.set_defaults(run=_flash)


def _devices(arguments: argparse.Namespace) -> int:
    found = guard.candidates()
    if arguments.json:
        _print(json.dumps([dataclasses.asdict(candidate) for candidate in found]))
        return 0
    if not found:
        _print(f"no disk has a name below {guard.SOURCES.by_id}/; plug one in (and see that udev runs)")
    for candidate in found:
        size = f"{candidate.size_bytes / _GIB:.1f} GiB"
        _print(
            f"{candidate.device}\n  {candidate.node}, {size}, {candidate.model or 'no model'}, "
            f"serial {candidate.serial or 'none'}"
        )
        for refusal in candidate.refusals:
            _print(f"  refused: {refusal}")
        if not candidate.refusals:
            _print("  can be flashed; everything on it would be erased")
    return 0


def _flash(arguments: argparse.Namespace) -> int:
    order = guard.FlashOrder(
        image=arguments.image,
        image_sha256=arguments.sha256 or flash.digest(arguments.image),
        device=arguments.device,
        confirm_erase=arguments.confirm_erase,
    )
    try:
        with shown_progress() as on_progress:
            flashed = flash.flash(order, on_progress)
    except KeyboardInterrupt:
        sys.stderr.write(
            f"{order.device}: interrupted. If writing had begun, it does not boot; flash it again\n"
        )
        return 130
    if arguments.json:
        _print(json.dumps(dataclasses.asdict(flashed)))
    else:
        _print(
            f"{flashed.device}: holds {arguments.image.name}, {flashed.bytes_written} bytes, read back with "
            f"SHA-256 {flashed.sha256}; it can be taken out"
        )
    return 0


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")
