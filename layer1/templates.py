"""Fills the commented YAML templates of `assets/`: in the parsed tree, never in the text."""

from __future__ import annotations

import re
from typing import Any

from layer1.errors import RenderError

_PLACEHOLDER = re.compile(r"@([A-Z0-9_]+)@")


def substitute(tree: Any, values: dict[str, Any]) -> Any:  # noqa: ANN401
    """Replace each `@NAME@` in a parsed YAML tree; a scalar that is one placeholder takes any type.

    Working on the tree, not on the text, is what keeps a value in its place.

    Raises:
        RenderError: a placeholder without a value, or a value without a placeholder.
    """
    used: set[str] = set()

    def walk(item: Any) -> Any:  # noqa: ANN401
        if isinstance(item, dict):
            return {key: walk(value) for key, value in item.items()}
        if isinstance(item, list):
            return [walk(value) for value in item]
        if not isinstance(item, str):
            return item
        whole = _PLACEHOLDER.fullmatch(item)
        used.update(_PLACEHOLDER.findall(item))
        if whole and whole[1] in values:
            return values[whole[1]]
        return _PLACEHOLDER.sub(lambda match: str(values.get(match[1], match[0])), item)

    result = walk(tree)
    if used != values.keys():
        raise RenderError(
            f"the template and its values differ: without a value {sorted(used - values.keys())}, "
            f"without a place {sorted(values.keys() - used)}"
        )
    return result
