"""What the tests of the plan guard share: captured previews, and the guard as its operator runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from engine_project import Project

from layer1.plan_guard import losses
from layer1.plan_guard.losses import Loss
from layer1.plan_guard.nodes import Fate, fates, stack_of
from layer1.plan_guard.preview import Preview, read

PREVIEWS = Path(__file__).parent / "previews"


def document(name: str) -> dict[str, Any]:
    """A preview of the real engine, less what is about the machine it was made on (`capture.py`)."""
    parsed: dict[str, Any] = json.loads((PREVIEWS / f"{name}.json").read_text())
    return parsed


def captured(name: str) -> Preview:
    return read(json.dumps(document(name)))


def judged(planned: Preview) -> dict[str, Fate]:
    return {fate.name: fate for fate in fates(planned, stack_of(planned, "lab"))}


def lost(planned: Preview) -> dict[str, Loss]:
    return {loss.id: loss for loss in losses.losses(planned, list(judged(planned).values()))}


def guard(project: Project, *arguments: str, allow: str = "") -> subprocess.CompletedProcess[str]:
    """Run the guard of a project's own program, with ALLOW as make hands it over."""
    return subprocess.run(
        [sys.executable, "-m", "layer1", "guard", "--stack", project.stack, *arguments],
        cwd=project.program,
        env=project.environment | {"ALLOW": allow},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def secrets_of(project: Project) -> set[str]:
    """Every long word of what only the stack knows: the cluster's secrets and the nodes' keys."""
    words: set[str] = set()
    for resource in project.state(secrets=True)["deployment"]["resources"]:
        outputs = resource.get("outputs") or {}
        name = resource["urn"].rsplit("::", 1)[1]
        if name.endswith("-secrets"):
            text = json.loads(outputs["stdout"]["plaintext"])
            words |= {word for word in text.split() if len(word) > 20 and not word.endswith(":")}
        if name.endswith("-key"):
            words.add(json.loads(outputs["base64"]["plaintext"]))
    return words
