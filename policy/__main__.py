"""Gives the rules to the engine: `pulumi preview --policy-pack policy`. Any violation stops the plan."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import pulumi
import pulumi_policy
from pulumi.runtime.config import get_config_env
from pulumi_policy import policy as sdk

from layer1 import config
from policy import weaker
from policy.planned import Planned, Rule, marked
from policy.rules import OWN_PARTS, PLAIN_OUTPUT, RULES, STRONG_CHOICES, STRONG_WALLS

# The SDK hands rules a secret's plain value, and nothing says that it was secret. It also ends a rule at the
# first value that is not known yet. Ours get a mark for either, and judge the rest.
sdk.deserialize_properties = lambda values, *_: marked(values)
sdk.unknown_checking_proxy = lambda values: values


def settings() -> dict[str, Any]:
    """Return the stack's values below `layer1:`, but the secret ones."""
    prefix = f"{config.NAMESPACE}:"
    found = {
        key.removeprefix(prefix): value for key, value in get_config_env().items() if key.startswith(prefix)
    }
    return {key: config.parsed(value) for key, value in found.items() if key not in config.SECRET_KEYS}


def planned(resource: Any) -> Planned:  # noqa: ANN401 - one of two classes of the SDK
    """Copy what the rules need of a resource."""
    return Planned(
        kind=resource.resource_type,
        name=resource.name,
        values=resource.props,
        protect=resource.opts.protect,
        secret_outputs=frozenset(resource.opts.additional_secret_outputs),
        made_from={
            key: tuple(each.resource_type for each in made_from)
            for key, made_from in getattr(resource, "property_dependencies", {}).items()
        },
    )


def for_resource(rule: Rule) -> pulumi_policy.ResourceValidationPolicy:
    """Make a policy of a rule, judged before each resource is made."""

    def validate(args: pulumi_policy.ResourceValidationArgs, report: pulumi_policy.ReportViolation) -> None:
        for problem in rule.problems(planned(args)):
            report(problem, None)

    return pulumi_policy.ResourceValidationPolicy(rule.name, rule.description, validate)


def for_stack(rule: Rule) -> pulumi_policy.StackValidationPolicy:
    """Make a policy of a rule, judged at the end, with the outputs."""

    def validate(args: pulumi_policy.StackValidationArgs, report: pulumi_policy.ReportViolation) -> None:
        for resource in args.resources:
            for problem in rule.problems(planned(resource)):
                report(problem, resource.urn)

    return pulumi_policy.StackValidationPolicy(rule.name, rule.description, validate)


def strong_choices(_args: pulumi_policy.StackValidationArgs, report: pulumi_policy.ReportViolation) -> None:
    """Judge the stack's keys."""
    for problem in weaker.chosen(pulumi.get_stack(), settings(), os.environ):
        report(problem, None)


def main() -> None:
    """Serve the rules until the engine ends."""
    policies = [*map(for_resource, RULES), *map(for_stack, (*OWN_PARTS, PLAIN_OUTPUT))]
    if not weaker.is_lab(settings()):
        policies.append(for_resource(STRONG_WALLS))
        policies.append(
            pulumi_policy.StackValidationPolicy(STRONG_CHOICES, "No key takes a wall away.", strong_choices)
        )
    pulumi_policy.PolicyPack(
        "layer1", enforcement_level=pulumi_policy.EnforcementLevel.MANDATORY, policies=policies
    )


main()
