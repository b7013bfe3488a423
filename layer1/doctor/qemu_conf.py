"""Reads /etc/libvirt/qemu.conf as libvirt does: `name = value`, comments, lists over several lines."""

from __future__ import annotations

import re
from collections.abc import Iterator

from layer1.errors import HostError

Value = int | str | list[int | str]

_TOKEN = re.compile(
    r"""(?P<blank>[ \t\r\n]+ | \#[^\n]*)
      | (?P<text>\"\"\"(?P<long>.*?)\"\"\" | "(?P<double>[^"\n]*)" | '(?P<single>[^'\n]*)')
      | (?P<number>-?[0-9]+)
      | (?P<name>[A-Za-z_][A-Za-z0-9_.-]*)
      | (?P<mark>[=\[\],])""",
    re.VERBOSE | re.DOTALL,
)


def parse(text: str) -> dict[str, Value]:
    """Return the settings that are set; one that is only in a comment has its default and is not here.

    Raises:
        HostError: libvirt would not understand the file, or a setting is there twice with two values.
    """
    tokens = _tokens(text)
    settings: dict[str, Value] = {}
    for kind, name in tokens:
        if kind != "name" or next(tokens, None) != ("mark", "="):
            raise HostError(f"qemu.conf: `{name}` stands where `name = value` should")
        value = _value(tokens)
        if settings.get(name, value) != value:
            raise HostError(f"qemu.conf: {name} is set twice, to two values; leave one")
        settings[name] = value
    return settings


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    at = 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            line = text.count("\n", 0, at) + 1
            raise HostError(f"qemu.conf, line {line}: is not understood; libvirt would not start its driver")
        at = found.end()
        kind = found.lastgroup or ""
        if found["text"] is not None:
            yield "text", next(part for part in found.group("long", "double", "single") if part is not None)
        elif kind != "blank":
            yield kind, found[0]


def _value(tokens: Iterator[tuple[str, str]]) -> Value:
    kind, word = next(tokens, ("end", ""))
    if (kind, word) != ("mark", "["):
        return _plain(kind, word)
    items: list[int | str] = []
    for kind, word in tokens:
        if (kind, word) == ("mark", "]"):
            return items
        if (kind, word) != ("mark", ","):
            items.append(_plain(kind, word))
    raise HostError("qemu.conf: a list is not closed")


def _plain(kind: str, word: str) -> int | str:
    if kind == "number":
        return int(word)
    if kind == "text":
        return word
    raise HostError(f"qemu.conf: `{word}` stands where a value should")
