"""What setup tells the operator: one line a step, and failures without a traceback."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class SetupError(Exception):
    """A step failed; the message names it, the cause and the way out."""


class Step:
    """A running step; `outcome` becomes the end of its line."""

    def __init__(self) -> None:
        self.outcome = "done"


def say(text: str) -> None:
    """Print one line at once, also into a pipe."""
    print(text, flush=True)


@contextmanager
def step(what: str) -> Iterator[Step]:
    """Print `what: outcome (seconds)` when the block ends; a failing block prints nothing itself."""
    running = Step()
    start = time.monotonic()
    yield running
    say(f"{what}: {running.outcome} ({time.monotonic() - start:.1f} s)")
