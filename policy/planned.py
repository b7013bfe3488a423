"""A planned resource as the rules see it. No secret is in it, so no rule can tell one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

# How the engine writes values that are no plain ones; the SDKs have the same constants.
_SIGNATURE = "4dabf18193072939515e22adb298388d"
_SECRET = "1b47061264138c4ac30d75fd1eb44270"  # noqa: S105 - says that a value is secret, and is none
_UNKNOWN = frozenset(
    {
        "1c4a061d-8072-4f0a-a4cb-0ff528b18fe7",
        "3eeb2bf0-c639-47a8-9e75-3b44932eb421",
        "04da6b54-80e4-46f7-96ec-b56ff0331ba9",
        "6a19a0b0-7e62-4c92-b797-7f8e31da9cc2",
        "030794c1-ac77-496b-92df-f27374a8bd58",
        "e48ece36-62e2-4504-bad9-02848725956a",
        "dd056dcd-154b-4c76-9bd3-c8f88648b5ff",
    }
)


class Mark(Enum):
    """What stands in place of a value."""

    SECRET = "secret"  # noqa: S105 - a mark
    UNKNOWN = "not known before `up`"


@dataclass(frozen=True, kw_only=True, slots=True)
class Planned:
    """One resource.

    Attributes:
        kind: its type token, such as `libvirt:index/domain:Domain`.
        name: its name in the program.
        values: its inputs (or outputs, for rules over the whole stack), as the provider names them; one that
            is secret or not known yet is a `Mark`.
        protect: whether the engine refuses to delete it.
        secret_outputs: the outputs that are secret whatever the provider says.
        made_from: for rules over the whole stack: the types of the resources that each input comes from.
    """

    kind: str
    name: str
    values: Mapping[str, Any]
    protect: bool = False
    secret_outputs: frozenset[str] = frozenset()
    made_from: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """One rule.

    Attributes:
        name: its stable name, as the engine prints it.
        description: what it demands, in one sentence.
        kinds: the types that it judges; None for all.
        check: gives a sentence for each thing that is wrong.
    """

    name: str
    description: str
    kinds: frozenset[str] | None
    check: Callable[[Planned], Iterable[str]]

    def problems(self, planned: Planned) -> Iterator[str]:
        """Judge one resource; one without any input is left out of this run by `--target`."""
        if planned.values and (self.kinds is None or planned.kind in self.kinds):
            yield from self.check(planned)


def marked(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """Copy a value from the wire, with a mark for each secret and each value that is not known yet."""
    if isinstance(value, dict):
        if value.get(_SIGNATURE) == _SECRET:
            return Mark.SECRET
        return {key: marked(item) for key, item in value.items()}
    if isinstance(value, list):
        return [marked(item) for item in value]
    return Mark.UNKNOWN if isinstance(value, str) and value in _UNKNOWN else value


def sheet_of(planned: Planned) -> str | None:
    """Return the sheet that a libvirt resource carries, None where none can be read."""
    xml = planned.values.get("xml")
    sheet = xml.get("xslt") if isinstance(xml, Mapping) else None
    return sheet if isinstance(sheet, str) else None
