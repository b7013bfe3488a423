"""`python -m layer1 guard`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from layer1.errors import ConfigError
from layer1.plan_guard import differences, engine, losses, preview, report
from layer1.plan_guard.nodes import Fate, fates, stack_of
from layer1.plan_guard.preview import GuardError, Preview
from layer1.plan_guard.redacted import Difference

_SAY_NOTHING = ("preview failed", "an unhandled error occurred: program exited")
"""How the engine ends every failed preview, after what went wrong."""


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
    said = _report(planned, arguments, allowed)
    unknown = [name for name in allowed if name not in {fate.name for fate in said.fates}]
    if unknown and said.fates:
        sys.stderr.write(
            f"{losses.ALLOW} names {', '.join(unknown)}, but no node of this plan is called that\n"
        )
        return 2
    sys.stdout.write(report.as_document(said) if arguments.json else report.as_text(said))
    if arguments.markdown is not None:
        arguments.markdown.write_text(report.as_markdown(said))
    return 1 if said.errors or (arguments.enforce and said.refused) else 0


def _preview_text(arguments: argparse.Namespace) -> str:
    if arguments.preview_json is None:
        return engine.preview_json(arguments.stack, arguments.policy_pack)
    if arguments.preview_json == "-":
        return sys.stdin.read()
    try:
        return Path(arguments.preview_json).read_text()
    except (OSError, ValueError):
        raise GuardError(f"{arguments.preview_json}: cannot be read") from None


def _report(planned: Preview, arguments: argparse.Namespace, allowed: tuple[str, ...]) -> report.Report:
    judged: tuple[Fate, ...] = ()
    differing: dict[str, Sequence[Difference]] = {}
    try:
        stack = stack_of(planned, arguments.stack)
    except ConfigError:
        if not planned.errors:  # the engine's program reads the same configuration, and says it better
            raise
    else:
        judged = fates(planned, stack)
        # Of a preview out of a file the state may be another by now.
        if arguments.preview_json is None and differences.changes_config(judged):
            state = engine.state(arguments.stack)
            differing = differences.differences(
                judged, stack, state, lambda: engine.layer2_text(arguments.stack)
            )
    found = losses.losses(planned, judged)
    missing = [name for name in losses.needed(found) if name not in allowed]
    return report.Report(
        stack=arguments.stack,
        fates=judged,
        findings=losses.as_findings(arguments.stack, found, allowed),
        errors=_errors(planned, arguments),
        differences=differing,
        allow_all=losses.command(arguments.stack, (*allowed, *missing)) if missing else "",
    )


def _errors(planned: Preview, arguments: argparse.Namespace) -> tuple[str, ...]:
    """Return why the engine stopped; where it says no more than that, a policy may have stopped it."""
    told = tuple(error for error in planned.errors if not error.startswith(_SAY_NOTHING))
    if told or not planned.errors:
        return told
    if arguments.policy_pack and arguments.preview_json is None:
        said = engine.violations(arguments.stack, arguments.policy_pack)
        return (said,) if said else planned.errors
    return planned.errors
