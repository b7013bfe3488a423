"""`python -m layer1`: the commands of Layer 1, for people and for the stack's command resources."""

from __future__ import annotations

import argparse
import sys

from layer1 import stack_file, supply, tasks
from layer1.audit import cli as audit_cli
from layer1.doctor import cli as doctor_cli
from layer1.errors import Layer1Error
from layer1.images import cli as image_cli
from layer1.pi import cli as pi_cli
from layer1.plan import plan_lines
from layer1.plan_guard import cli as guard_cli


def main(arguments: list[str] | None = None) -> int:
    """Run one command.

    Returns:
        0 when it did what it was asked for, 1 when not (one message on standard error), 2 for wrong usage.
    """
    parser = argparse.ArgumentParser(prog="python -m layer1", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    image_cli.add_parser(commands)
    pi_cli.add_parser(commands)
    guard_cli.add_parser(commands)
    doctor_cli.add_parser(commands)
    audit_cli.add_parser(commands)
    plan = commands.add_parser(
        "plan", help="check a stack file; say what it makes and which walls are weaker"
    )
    plan.add_argument("--stack", required=True)
    plan.set_defaults(run=_plan)
    fetch = commands.add_parser(
        "fetch", help="fetch and verify the images of a stack, before `up` needs them"
    )
    fetch.add_argument("--stack", required=True)
    fetch.set_defaults(run=_fetch)
    task = commands.add_parser("task", help="run by the stack's command resources: a JSON request on stdin")
    task.add_argument("name", choices=sorted(tasks.TASKS))
    task.set_defaults(run=_task)
    parsed = parser.parse_args(arguments)
    try:
        return int(parsed.run(parsed))
    except Layer1Error as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    except KeyboardInterrupt:
        print("interrupted; nothing half done was kept", file=sys.stderr)  # noqa: T201
        return 130


def _plan(arguments: argparse.Namespace) -> int:
    for line in plan_lines(stack_file.read(arguments.stack)):
        print(line)  # noqa: T201
    return 0


def _fetch(arguments: argparse.Namespace) -> int:
    stack = stack_file.read(arguments.stack)
    for request in supply.image_requests(stack):
        with image_cli.shown_progress() as on_progress:
            image = supply.ensure_image(request, on_progress)
        print(f"image {image['name']}: verified by {image['verified_by']}")  # noqa: T201
    return 0


def _task(arguments: argparse.Namespace) -> int:
    print(tasks.run(arguments.name, sys.stdin.read()), end="")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
