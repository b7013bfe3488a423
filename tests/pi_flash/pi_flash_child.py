"""Flashes, and stops in the middle of a step until it is killed; the test's child process."""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from layer1.images.download import Progress
from layer1.pi import flash
from layer1.pi.block_device import Sources
from layer1.pi.guard import FlashOrder

REQUEST = json.loads(sys.argv[1])


def stop(step: Progress) -> None:
    if step.kind == "advance" and step.file.startswith(REQUEST["step"]):
        print(f"in the middle of {REQUEST['step']}", flush=True)
        sys.stdin.read()


order = FlashOrder(**(REQUEST["order"] | {"image": Path(REQUEST["order"]["image"])}))
flash.flash(order, stop, Sources(**{key: Path(path) for key, path in REQUEST["sources"].items()}))
