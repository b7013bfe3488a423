"""Compares two configs and shows keys and structure; values that may be secret only as digests."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_PLAIN_KEYS = frozenset(
    {
        "addresses", "apiVersion", "clusterName", "device", "disk", "dnsDomain", "enabled", "format",
        "gateway", "hostname", "image", "interface", "kind", "label", "mode", "network", "overwrite", "path",
        "type", "version",
    }
)  # fmt: skip
"""Keys whose text is shown: what a config is shaped like, never what gives access; other text is digested."""
_SHOWN_DIGITS = 12


class Redactor:
    """Digests of one run: the same text is the same digest, and another run's are others.

    The key is random and never leaves the process, so a digest is no way to try guesses of a weak secret.
    """

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)

    def digest(self, text: str) -> str:
        """Return a short digest of a text."""
        return hmac.new(self._key, text.encode(errors="replace"), hashlib.sha256).hexdigest()[:_SHOWN_DIGITS]


@dataclass(frozen=True, kw_only=True, slots=True)
class Value:
    """One side of a difference.

    Attributes:
        text: the value, or its digest.
        hidden: whether it is a digest.
    """

    text: str
    hidden: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """One place where two configs differ; None for a side that does not have it.

    Attributes:
        path: where, such as `storage.files[/etc/hosts].contents`.
        old: what is there now.
        new: what will be there.
        note: said in the place of both sides, where there is something else to say.
    """

    path: str
    old: Value | None = None
    new: Value | None = None
    note: str = ""

    def as_text(self) -> str:
        """Return the difference as one line, with this run's digests."""
        return self._line(lambda text: f"secret:{text}")

    def as_label(self, labels: dict[str, str]) -> str:
        """Return the difference as one line that is the same in every run: hidden values are numbered.

        Args:
            labels: the number of each digest so far; more are put into it.
        """
        return self._line(lambda text: labels.setdefault(text, f"secret #{len(labels) + 1}"))

    def _line(self, hidden: Any) -> str:  # noqa: ANN401
        if self.note:
            return f"{self.path}: {self.note}"
        old, new = (
            None if side is None else hidden(side.text) if side.hidden else side.text
            for side in (self.old, self.new)
        )
        if old is None:
            return f"+ {self.path}: {new}"
        if new is None:
            return f"- {self.path}: {old}"
        return f"~ {self.path}: {old} -> {new}"


def compare(old: Any, new: Any, redactor: Redactor) -> tuple[Difference, ...]:  # noqa: ANN401
    """Return where two parsed configs differ, sorted by place."""
    before, after = dict(_leaves(old, "", redactor)), dict(_leaves(new, "", redactor))
    return tuple(
        Difference(path=path, old=before.get(path), new=after.get(path))
        for path in sorted(before.keys() | after.keys())
        if before.get(path) != after.get(path)
    )


def _leaves(item: Any, path: str, redactor: Redactor) -> Iterator[tuple[str, Value]]:  # noqa: ANN401
    if isinstance(item, Mapping) and item:
        for key, value in item.items():
            yield from _leaves(value, f"{path}.{key}" if path else str(key), redactor)
    elif isinstance(item, list) and item:
        for index, value in enumerate(item):
            yield from _leaves(value, f"{path}[{_identity(value, index)}]", redactor)
    else:
        yield path, _value(item, path, redactor)


def _identity(item: Any, index: int) -> str:  # noqa: ANN401
    """Name a list's entry by what it is, so that one more entry does not change all that follow."""
    if isinstance(item, Mapping):
        for key in ("path", "name", "kind"):
            if isinstance(item.get(key), str):
                return str(item[key])
    return str(index)


def _value(item: Any, path: str, redactor: Redactor) -> Value:  # noqa: ANN401
    key = path.rsplit(".", 1)[-1].split("[", maxsplit=1)[0]
    if item is None or isinstance(item, bool | int | float) or item in ({}, []) or key in _PLAIN_KEYS:
        return Value(text=str(item), hidden=False)
    return Value(text=redactor.digest(str(item)), hidden=True)
