"""`python -m layer1 guard`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from layer1.errors import ConfigError
from layer1.paths import REPOSITORY
from layer1.plan_guard import losses, preview, report
from layer1.plan_guard.nodes import Fate, fates, stack_of
from layer1.plan_guard.preview import GuardError, Preview
from layer1.processes import last_lines, run

_PREVIEW_LIMIT_S = 900


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the `guard` command; it sets `run`, a function from the arguments to an exit code."""
    text = "say what a plan does to each node, and refuse losses that nobody has allowed"
    guard = subparsers.add_parser("guard", help=text, description=text)
    guard.add_argument("--stack", required=True)
    guard.add_argument(
        "--allow",
        default=os.environ.get(losses.ALLOW, ""),
        metavar="NODE,…",
        help="nodes whose losses are meant (default: what the environment has as ALLOW)",
    )
    guard.add_argument(
        "--preview-json",
        metavar="FILE",
        help="read what `pulumi preview --json --show-sames` said from a file, or - for standard input",
    )
    guard.add_argument("--policy-pack", metavar="FOLDER", help="have the preview judged by a policy pack too")
    guard.add_argument("--json", action="store_true", help="print JSON")
    guard.add_argument(
        "--markdown", type=Path, metavar="FILE", help="write a summary for a pull request besides"
    )
    guard.add_argument(
        "--enforce", action="store_true", help="fail where something is refused, as `make up` does"
    )
    guard.set_defaults(run=_guard)


def _guard(arguments: argparse.Namespace) -> int:
    allowed = tuple(name for name in arguments.allow.replace(",", " ").split() if name)
    planned = preview.read(_preview_text(arguments))
    said = _report(planned, arguments.stack, allowed)
    unknown = [name for name in allowed if name not in {fate.name for fate in said.fates}]
    if unknown and said.fates:
        sys.stderr.write(f"{losses.ALLOW} names {', '.join(unknown)}, which this plan has no node of\n")
        return 2
    sys.stdout.write(report.as_document(said) if arguments.json else report.as_text(said))
    if arguments.markdown is not None:
        arguments.markdown.write_text(report.as_markdown(said))
    return 1 if said.errors or (arguments.enforce and said.refused) else 0


def _preview_text(arguments: argparse.Namespace) -> str:
    if arguments.preview_json == "-":
        return sys.stdin.read()
    if arguments.preview_json:
        try:
            return Path(arguments.preview_json).read_text()
        except (OSError, ValueError):
            raise GuardError(f"{arguments.preview_json}: cannot be read") from None
    command = ["pulumi", "preview", "--stack", arguments.stack, "--json", "--show-sames", "--non-interactive"]
    if arguments.policy_pack:
        command += ["--policy-pack", arguments.policy_pack]
    done = run(command, timeout_s=_PREVIEW_LIMIT_S, cwd=str(REPOSITORY))
    if done.returncode != 0 and not done.stdout.strip():
        raise GuardError(f"the engine could not make a preview:\n{last_lines(done.stderr)}")
    return done.stdout


def _report(planned: Preview, stack: str, allowed: tuple[str, ...]) -> report.Report:
    judged: tuple[Fate, ...] = ()
    try:
        judged = fates(planned, stack_of(planned, stack))
    except ConfigError:
        if not planned.errors:  # the engine's program reads the same configuration
            raise
    found = losses.losses(planned, judged)
    findings = losses.as_findings(stack, found, allowed)
    missing = [name for name in losses.needed(found) if name not in allowed]
    return report.Report(
        stack=stack,
        fates=judged,
        findings=findings,
        errors=planned.errors,
        differences={},
        allow_all=losses.command(stack, (*allowed, *missing)) if missing else "",
    )
