"""Takes from a preview of the engine what is about the machine it was made on, for `previews/`.

`pulumi preview --json --show-sames | python tests/plan_guard/capture.py > NAME.json`
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any

KEPT = ("inputs", "outputs", "parent", "dependencies", "protect")
PUBLIC_KEY = re.compile(r"ssh-ed25519 [A-Za-z0-9+/=]{68}( [A-Za-z0-9_.-]+@[A-Za-z0-9_.-]+)?")
A_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"
FOLDER = re.compile(r"/tmp/[A-Za-z0-9_.-]+")


def scrubbed(preview: dict[str, Any]) -> dict[str, Any]:
    kept = {key: preview[key] for key in ("config", "steps", "diagnostics") if key in preview}
    kept["steps"] = [_step(step) for step in preview["steps"]]
    text = FOLDER.sub("/captured", PUBLIC_KEY.sub(A_KEY, json.dumps(kept)))
    parsed: dict[str, Any] = json.loads(text)
    return parsed


def _step(step: dict[str, Any]) -> dict[str, Any]:
    small = {key: step[key] for key in ("op", "urn", "diffReasons", "detailedDiff") if step.get(key)}
    is_stack = step["urn"].split("::")[2] == "pulumi:pulumi:Stack"
    sheets = [((step.get(side) or {}).get("inputs") or {}).get("xml") for side in ("oldState", "newState")]
    for side in ("oldState", "newState"):
        if not step.get(side):
            continue
        state = {key: step[side][key] for key in KEPT if key in step[side]}
        if not is_stack:
            state.pop("outputs", None)
        if side == "oldState" and step.get("newState"):  # the guard reads these of the newer side
            for key in ("parent", "dependencies"):
                state.pop(key, None)
        if step["op"] == "same":
            state.pop("inputs", None)
        elif sheets[0] == sheets[1] or None in sheets:
            (state.get("inputs") or {}).pop("xml", None)
        for node in ((state.get("outputs") or {}).get("layer1") or {}).get("nodes", {}).values():
            node.pop("walls", None)
        small[side] = state
    return small


if __name__ == "__main__":
    sys.stdout.write(json.dumps(scrubbed(json.load(sys.stdin)), indent=None, sort_keys=True) + "\n")
