"""Edits cmdline.txt, of which the firmware reads one line only."""

from __future__ import annotations

from collections.abc import Sequence

_OURS_ALONE = (
    "systemd.run",
    "systemd.run_success_action",
    "systemd.unit",
    "apparmor",
    "security",
    "cgroup_memory",
)
"""Names of which a second value would fight with ours."""
_AGAINST_OURS = ("cgroup_disable=memory",)


def add(before: str, words: Sequence[str]) -> str:
    """Return the line with our words at its end, each once, whatever the line was before.

    Args:
        before: the whole file; line breaks of any kind count as blanks.
        words: what must be there.

    Returns:
        One line that ends in a line feed.
    """
    kept = [word for word in before.split() if not _gives_way(word, words)]
    return " ".join([*kept, *words]) + "\n"


def _gives_way(word: str, words: Sequence[str]) -> bool:
    return word in words or word in _AGAINST_OURS or word.partition("=")[0] in _OURS_ALONE
