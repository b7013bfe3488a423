"""Runs a program and turns what goes wrong into one clear error."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence

from layer1.errors import ToolError, ToolTimeoutError


def run(
    command: Sequence[str], *, stdin: str | bytes = b"", timeout_s: float = 120, cwd: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; its output is captured, its exit code is the caller's to judge.

    Args:
        command: program and arguments; secrets go by `stdin`, for arguments show in the process list.
        stdin: what the program reads on its standard input.
        timeout_s: seconds after which it is killed.
        cwd: folder to run in.

    Raises:
        ToolError: the program is missing.
        ToolTimeoutError: it did not end in time.
    """
    program = command[0]
    # Debian keeps sfdisk, debugfs and others where only root's PATH looks.
    found = shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if found is None:
        raise ToolError(
            f"{program}: not found on PATH; run `make setup`, then use the shell of `make -s env`"
        )
    try:
        done = subprocess.run(
            [found, *command[1:]],
            input=stdin.encode(errors="replace") if isinstance(stdin, str) else stdin,
            capture_output=True,
            timeout=timeout_s,
            check=False,
            cwd=cwd,
        )
    except subprocess.TimeoutExpired:
        raise ToolTimeoutError(f"{program}: no answer within {timeout_s:.0f} s; it was ended") from None
    said, complained = (text.decode(errors="replace") for text in (done.stdout, done.stderr))
    return subprocess.CompletedProcess(done.args, done.returncode, said, complained)


def last_lines(text: str, count: int = 6) -> str:
    """Return the last lines of a program's output, for an error."""
    return "\n".join(text.strip().splitlines()[-count:])
