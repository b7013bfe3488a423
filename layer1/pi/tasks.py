"""The tasks of boards, as `layer1.tasks` runs them: a JSON request in, a text out."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from layer1 import supply
from layer1.images.cli import shown_progress
from layer1.paths import work_dir
from layer1.pi import flash, guard, image, remote
from layer1.pi.bundle import bundle
from layer1.pi.remote import BoardTarget
from layer1.pi.stack import parsed_settings

Request = dict[str, Any]


def _target(request: Request) -> Path:
    """Return where a board's image file is: below the operator's folder, or the work folder's own."""
    folder = Path(request["folder"]) if request["folder"] else work_dir().absolute() / "pi"
    return folder / str(request["file"])


def _image(request: Request) -> str:
    """Fetch and verify the image, then write the board's own file; tells what both are, no secret."""
    verified = supply.ensure_image(request["image"])
    base, target = Path(verified.pop("path")), _target(request)
    if request["settings"] is None:
        made = image.copy(base, target)
    else:
        made = image.write(
            base, target, parsed_settings(request["settings"]), str(request["image"]["release"])
        )
    return json.dumps(
        {
            "board": request["board"],
            "image": verified,
            "image_file": str(target),
            "sha256": made.sha256,
            "personalisation": made.personalisation,
        }
    )


def _image_discard(request: Request) -> str:
    image.remove(_target(request))
    return ""


def _flash(request: Request) -> str:
    order = guard.FlashOrder(
        image=Path(request["image_file"]),
        image_sha256=request["sha256"],
        device=request["device"],
        confirm_erase=request["confirm_erase"],
    )
    with shown_progress() as on_progress:
        return json.dumps(asdict(flash.flash(order, on_progress)))


def _apply(request: Request) -> str:
    target = BoardTarget(**{key: value for key, value in request.items() if key != "settings"})
    return json.dumps(asdict(remote.apply(target, bundle(parsed_settings(request["settings"])))))


TASKS = {
    "pi-image": _image,
    "pi-image-discard": _image_discard,
    "pi-flash": _flash,
    "pi-apply": _apply,
}
