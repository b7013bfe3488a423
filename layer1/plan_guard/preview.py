"""Reads what `pulumi preview --json` says: one change a resource, and the errors of a preview that failed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from layer1.errors import Layer1Error

UNKNOWN_VALUE = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"
"""How the engine writes a value that is known only once it is made (sdk/go/common/resource/plugin)."""
STACK_KIND = "pulumi:pulumi:Stack"


class GuardError(Layer1Error):
    """A preview could not be made or read."""


class Action(StrEnum):
    """What happens to a resource."""

    SAME = "same"
    CREATE = "create"
    UPDATE = "update"
    REPLACE = "replace"
    DELETE = "delete"
    UNKNOWN = "unknown"


_ACTIONS = {
    "same": Action.SAME,
    "read": Action.SAME,
    "refresh": Action.SAME,
    "create": Action.CREATE,
    "import": Action.CREATE,
    "update": Action.UPDATE,
    "replace": Action.REPLACE,
    "create-replacement": Action.REPLACE,
    "delete-replaced": Action.REPLACE,
    "import-replacement": Action.REPLACE,
    "discard-replaced": Action.REPLACE,
    "read-replacement": Action.REPLACE,
    "delete": Action.DELETE,
    "remove-pending-replace": Action.DELETE,
}
"""The engine's operations; `discard` is left out: it lets go of something that this program never reads."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """One resource.

    Attributes:
        urn: its name in the state.
        operation: the engine's own word.
        action: what it comes to.
        parent: the URN of its component, empty for none.
        provider: the provider's URN and id, empty for none.
        old: its inputs as they are; empty for one that is made.
        new: its inputs as they will be; empty for one that goes. Secrets are as the preview shows them.
        old_outputs: what it is now.
        new_outputs: what is known of what it will be.
        fields: the paths of the properties that differ.
        protected: whether the engine itself refuses to lose it.
        needs: the URNs that must be there before it.
    """

    urn: str
    operation: str
    action: Action
    parent: str
    provider: str
    old: Mapping[str, Any]
    new: Mapping[str, Any]
    old_outputs: Mapping[str, Any]
    new_outputs: Mapping[str, Any]
    fields: tuple[str, ...]
    protected: bool
    needs: tuple[str, ...]

    @property
    def name(self) -> str:
        """The resource's own name."""
        return self.urn.rsplit("::", 1)[-1]

    @property
    def kind(self) -> str:
        """The resource's type token, without those of its parents."""
        return kind_of(self.urn)


@dataclass(frozen=True, kw_only=True, slots=True)
class Preview:
    """A preview.

    Attributes:
        changes: in the engine's order, each resource once.
        config: the stack's configuration as text; secrets masked.
        errors: why the engine would stop; empty for a plan that can be carried out.
    """

    changes: tuple[Change, ...]
    config: Mapping[str, str]
    errors: tuple[str, ...]

    @property
    def first(self) -> bool:
        """Whether the stack is made for the first time; its providers may have been asked before."""
        return all(
            change.action == Action.CREATE or change.kind.startswith("pulumi:providers:")
            for change in self.changes
        )


def kind_of(urn: str) -> str:
    """Return the type token of a URN, without those of its parents."""
    parts = urn.split("::")
    return "::".join(parts[2:-1]).rsplit("$", 1)[-1]


def read(text: str) -> Preview:
    """Read the engine's JSON.

    Raises:
        GuardError: it is empty, cut off, or not a preview; never with a value of it.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        said = "is empty" if not text.strip() else "is not whole JSON: it was cut off, or is something else"
        raise GuardError(
            f"the preview {said}; make it with `pulumi preview --json --show-sames > FILE`"
        ) from None
    if not isinstance(document, dict) or not ({"steps", "diagnostics"} & document.keys()):
        raise GuardError("the JSON is no preview of the engine; make it with `pulumi preview --json`")
    try:
        steps = [_change(step) for step in document.get("steps") or []]
        errors = tuple(
            _plain(each["message"])
            for each in document.get("diagnostics") or []
            if each.get("severity") == "error"
        )
        config = {str(key): str(value) for key, value in (document.get("config") or {}).items()}
    except (AttributeError, KeyError, TypeError):
        raise GuardError("the preview has a shape that this version does not know (of `steps`)") from None
    return Preview(changes=_once(steps), config=config, errors=errors)


def _plain(message: str) -> str:
    return str(message).removeprefix("error: ").strip()


def _change(step: Mapping[str, Any]) -> Change:
    old, new = step.get("oldState") or {}, step.get("newState") or {}
    state = new or old
    detail = step.get("detailedDiff") or {}
    operation = str(step["op"])
    return Change(
        urn=str(step["urn"]),
        operation=operation,
        action=_ACTIONS.get(operation, Action.UNKNOWN),
        parent=str(state.get("parent") or ""),
        provider=str(step.get("provider") or state.get("provider") or ""),
        old=old.get("inputs") or {},
        new=new.get("inputs") or {},
        old_outputs=old.get("outputs") or {},
        new_outputs=new.get("outputs") or {},
        fields=tuple(detail) or tuple(step.get("diffReasons") or ()),
        protected=bool(old.get("protect") or new.get("protect")),
        needs=tuple(state.get("dependencies") or ()),
    )


def _once(steps: list[Change]) -> tuple[Change, ...]:
    """Keep one change a resource, at its first place: with all steps shown, a replacement has three."""
    found: dict[str, Change] = {}
    for step in steps:
        known = found.get(step.urn)
        if known is None or _weight(step) > _weight(known):
            found[step.urn] = step
    return tuple(found.values())


def _weight(change: Change) -> tuple[int, int]:
    order = (Action.SAME, Action.CREATE, Action.UPDATE, Action.DELETE, Action.REPLACE, Action.UNKNOWN)
    # Of a replacement's steps the one that knows both sides.
    return order.index(change.action), bool(change.old) + bool(change.new) + bool(change.fields)
