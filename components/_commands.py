"""The only way to a command resource: fixed command lines, requests by stdin, every output secret.

A secret input does not make a command's output secret (pulumi-command keeps it in plain text in state, log
and stack outputs), so all outputs are marked secret here; see docs/adr/0003-secrets-of-commands.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pulumi
from pulumi_command import local

_RUN = "python3 -m layer1 task"


def secret_text(text: pulumi.Output[str]) -> pulumi.Output[str]:
    """Mark an output secret; the SDK's own signature loses the type."""
    marked: pulumi.Output[str] = pulumi.Output.secret(text)
    return marked


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """A task's resource, and what the task printed (secret)."""

    resource: local.Command
    stdout: pulumi.Output[str]


def plain_facts(stdout: pulumi.Output[str]) -> pulumi.Output[dict[str, Any]]:
    """Read the JSON that a task printed and that holds no secret."""
    facts: pulumi.Output[dict[str, Any]] = pulumi.Output.unsecret(stdout).apply(json.loads)
    return facts


def task(  # noqa: PLR0913 - one parameter a behaviour of the resource
    name: str,
    run: str,
    request: Mapping[str, Any],
    *,
    opts: pulumi.ResourceOptions,
    undo: str | None = None,
    triggers: Sequence[pulumi.Input[str]] | None = None,
    remembers: bool = False,
) -> Task:
    """Run one of Layer 1's tasks as a resource.

    A changed request runs the task again, in place; a changed trigger replaces the resource.

    Args:
        name: the resource's name.
        run: the task, safe to run again.
        request: the task's request; may hold outputs and secrets.
        opts: options of this resource.
        undo: the task that takes it back on destroy, with the same request.
        triggers: values whose change runs undo and then the task.
        remembers: whether the task is told what it printed last time, by PULUMI_COMMAND_STDOUT; no secret.
    """
    command = local.Command(
        name,
        create=f"{_RUN} {run}",
        delete=f"{_RUN} {undo}" if undo else None,
        stdin=secret_text(pulumi.Output.json_dumps(dict(request), sort_keys=True)),
        triggers=list(triggers) if triggers else None,
        logging=local.Logging.NONE,
        add_previous_output_in_env=remembers,
        opts=pulumi.ResourceOptions.merge(
            opts, pulumi.ResourceOptions(additional_secret_outputs=["stdout", "stderr"])
        ),
    )
    return Task(resource=command, stdout=secret_text(command.stdout))
