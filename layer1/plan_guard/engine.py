"""Asks the engine: its preview, and what of the state a comparison needs. Secrets stay in memory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from layer1 import config
from layer1.paths import REPOSITORY
from layer1.plan_guard.preview import GuardError
from layer1.processes import last_lines, run

_LIMIT_S = 900


def preview_json(stack: str, policy_pack: str | None) -> str:
    """Make a preview; one that the engine stopped is JSON too.

    Raises:
        GuardError: there is no preview at all, with the engine's own words.
    """
    done = run(
        [*_preview(stack, policy_pack), "--json", "--show-sames"], timeout_s=_LIMIT_S, cwd=str(REPOSITORY)
    )
    if not done.stdout.strip():
        raise GuardError(f"the engine could not make a preview:\n{last_lines(done.stderr)}")
    return done.stdout


def violations(stack: str, policy_pack: str) -> str:
    """Return what a policy pack has against a plan, which the engine's JSON leaves out; empty for nothing."""
    done = run(_preview(stack, policy_pack), timeout_s=_LIMIT_S, cwd=str(REPOSITORY))
    _, found, rest = done.stdout.partition("\nPolicies:\n")
    return rest.partition("\n\n")[0].rstrip() if found else ""


def _preview(stack: str, policy_pack: str | None) -> list[str]:
    command = ["pulumi", "preview", "--stack", stack, "--non-interactive", "--color", "never"]
    return [*command, "--policy-pack", policy_pack] if policy_pack else command


def state(stack: str) -> Mapping[str, Mapping[str, Any]]:
    """Return every resource of the state by its URN, with secrets as the engine writes them.

    Raises:
        GuardError: the state cannot be read.
    """
    document = _parsed(["pulumi", "stack", "export", "--stack", stack, "--show-secrets", "--non-interactive"])
    resources = (document.get("deployment") or {}).get("resources") or []
    return {str(resource["urn"]): resource for resource in resources}


def layer2_text(stack: str) -> str | None:
    """Return the secret part of the stack's configuration, None where there is none.

    Raises:
        GuardError: it cannot be read.
    """
    document = _parsed(
        ["pulumi", "config", "--stack", stack, "--show-secrets", "--json", "--non-interactive"]
    )
    value = (document.get(f"{config.NAMESPACE}:layer2_ignition") or {}).get("value")
    return str(value) if value else None


def _parsed(command: list[str]) -> dict[str, Any]:
    done = run(command, cwd=str(REPOSITORY))
    try:
        parsed = json.loads(done.stdout)
    except ValueError:
        parsed = None
    if done.returncode != 0 or not isinstance(parsed, dict):
        # Only what it complains of: what it says may be a secret.
        raise GuardError(f"`{' '.join(command[:3])}` failed:\n{last_lines(done.stderr)}")
    return parsed


def plain(value: Any) -> str | None:  # noqa: ANN401
    """Return a text of the state, secret or not; None for anything else."""
    if isinstance(value, Mapping) and isinstance(value.get("plaintext"), str):
        value = json.loads(value["plaintext"])
    return value if isinstance(value, str) else None
