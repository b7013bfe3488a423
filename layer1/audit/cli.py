"""`python -m layer1 audit`: the rows for people, for programs, as a page and as metrics."""

from __future__ import annotations

import argparse
import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from layer1 import stack_file
from layer1.audit.files import replace
from layer1.audit.metrics import metrics
from layer1.audit.page import page
from layer1.audit.run import Outputs, run
from layer1.errors import Layer1Error
from layer1.findings import as_json, as_table, failed
from layer1.paths import REPOSITORY
from layer1.processes import last_lines
from layer1.processes import run as run_program

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def add_parser(subparsers: Subparsers) -> None:
    """Add `audit` to the parser of the commands."""
    parser = subparsers.add_parser(
        "audit", help="look at the running nodes: does each wall stand, read live and not from the state"
    )
    parser.add_argument("--stack", required=True)
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.add_argument("--html", type=Path, metavar="FILE", help="also write a page with a drawing")
    parser.add_argument("--metrics", type=Path, metavar="FILE", help="also write Prometheus' text format")
    parser.set_defaults(run=_audit)


def _audit(arguments: argparse.Namespace) -> int:
    started, now = time.monotonic(), datetime.now(UTC)
    stack = stack_file.read(arguments.stack)
    findings = run(stack, read_outputs(arguments.stack))
    took_s = time.monotonic() - started
    if arguments.html:
        replace(arguments.html, page(stack, findings, now))
    if arguments.metrics:
        replace(arguments.metrics, metrics(arguments.stack, findings, now, took_s))
    print(  # noqa: T201
        as_json("audit", arguments.stack, findings) if arguments.json else as_table(findings), end=""
    )
    return 1 if failed(findings) else 0


def read_outputs(stack: str) -> Outputs:
    """Read a stack's outputs by the engine; what it prints holds secrets and is kept to ourselves.

    Raises:
        Layer1Error: there is no such stack, or its state cannot be opened.
    """
    command = ["pulumi", "stack", "output", "--json", "--show-secrets", "--stack", stack, "--non-interactive"]
    done = run_program(command, cwd=str(REPOSITORY), timeout_s=60)
    if done.returncode != 0:
        raise Layer1Error(
            f"the outputs of the stack {stack} cannot be read: {last_lines(done.stderr, 1)}. Was it made "
            f"(`make up STACK={stack}`), and is this the shell of `make -s env`?"
        )
    return Outputs.of(json.loads(done.stdout))
