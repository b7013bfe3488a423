"""What a judge says of one row, before the stack's own choice is weighed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Seen:
    """Whether the thing is there, None where that could not be learned; and what was seen, and where."""

    there: bool | None
    evidence: str


def yes(evidence: str) -> Seen:
    """It is there."""
    return Seen(True, evidence)


def no(evidence: str) -> Seen:
    """It is not there, or not as it should be."""
    return Seen(False, evidence)


def unknown(reason: str) -> Seen:
    """Nobody can say."""
    return Seen(None, reason)


def differences(compared: Iterable[tuple[str, object, object]], same: str) -> Seen:
    """Compare what is with what should be.

    Args:
        compared: name, what the stack wants, what is.
        same: the evidence where nothing differs.
    """
    found = [
        f"{name}: wanted {_said(wanted)}, is {_said(actual)}"
        for name, wanted, actual in compared
        if wanted != actual
    ]
    return no("\n".join(found)) if found else yes(same)


def _said(value: object) -> str:
    if value is None or value == "":
        return "nothing"
    if isinstance(value, (list, tuple, set, frozenset)):
        return ", ".join(sorted(str(each) for each in value)) or "nothing"
    return str(value)
