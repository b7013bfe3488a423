"""No weaker wall outside the lab: by each domain as it is planned, and by the stack's own keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from layer1 import config
from layer1.errors import ConfigError
from layer1.model import Environment
from layer1.walls import weaker
from policy.domains import sheet_parameters
from policy.planned import Planned

_WAY_OUT = "outside a stack with `layer1:environment: lab`"
_LOST = {
    "accel": ("tcg", "runs in an emulator, which isolates nothing"),
    "svirt": ("none", "asks for no AppArmor profile"),
    "hard-limit-mib": ("0", "has no memory limit"),
}


def is_lab(raw: Mapping[str, Any]) -> bool:
    """Say whether the stack calls itself a lab; `raw` are the values below `layer1:`."""
    return raw.get("environment") == Environment.LAB


def domain_walls(domain: Planned) -> Iterator[str]:
    """Say which walls a domain does without; one without our sheet is another rule's."""
    sheet = sheet_parameters(domain) or {}
    for name, (value, lost) in _LOST.items():
        if sheet.get(name) == value:
            yield f"{lost}, {_WAY_OUT}"


def chosen(stack: str, raw: Mapping[str, Any], environment: Mapping[str, str]) -> Iterator[str]:
    """Say which walls the stack's keys took from nodes in domains.

    Boards are left out: whoever names a board has no hypervisor, and the plan says what that means.

    Args:
        stack: the stack's name.
        raw: the values below `layer1:`, parsed, without secrets.
        environment: the environment variables.
    """
    try:
        read = config.load(stack, raw, environment)
    except ConfigError as error:
        yield f"the stack's configuration cannot be read, so its walls cannot be judged: {error}"
        return
    for node in read.nodes:
        for wall in weaker(read, node):
            yield f"{node.name}: {wall.text} ({wall.key}), {_WAY_OUT}"
