"""In which order nodes change: one whose resources need another's that change too comes after it."""

from __future__ import annotations

from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter

from layer1.plan_guard.preview import Action, Change, GuardError


def places(changes: Mapping[str, Change], owners: Mapping[str, str]) -> dict[str, int]:
    """Number the owners that change, from 1; those of one number change at the same time.

    The engine goes by what resources need, not by the order in which a preview happens to name them, so
    this is the same for the same plan. What is only removed comes last.

    Args:
        changes: every resource of the preview by its URN.
        owners: the node or host of each resource that has one, by URN.
    """
    needs = {urn: [other for other in change.needs if other in changes] for urn, change in changes.items()}
    try:
        order = list(TopologicalSorter(needs).static_order())
    except CycleError:
        raise GuardError("the preview has resources that need each other in a circle") from None
    steps: dict[str, int] = {}
    waits: dict[str, set[str]] = {}
    for urn in order:
        # What belongs to nobody is no step of its own: it hands on what it waits for itself.
        waits[urn] = {it for other in needs[urn] for it in ({other} if other in owners else waits[other])}
        steps[urn] = max(
            (steps[other] + _after(changes[other], owners[other], owners.get(urn)) for other in waits[urn]),
            default=0,
        )
    numbers: dict[str, int] = {}
    for urn, owner in owners.items():
        if changes[urn].action not in (Action.SAME, Action.DELETE):
            numbers[owner] = max(numbers.get(owner, 0), steps[urn])
    last = max(numbers.values(), default=0)
    for urn, owner in owners.items():
        if changes[urn].action == Action.DELETE:
            numbers.setdefault(owner, last + 1)
    ranks = {number: rank for rank, number in enumerate(sorted(set(numbers.values())), start=1)}
    return {owner: ranks[number] for owner, number in numbers.items()}


def _after(needed: Change, its_owner: str, mine: str | None) -> int:
    """Say whether waiting for this resource is waiting for somebody else."""
    return int(its_owner != mine and needed.action != Action.SAME)
