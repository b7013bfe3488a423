"""The properties that a Python SDK's classes expect, to be compared with a plugin's schema."""

from __future__ import annotations

import inspect
import typing
from typing import Any

from pulumi import _types

Shape = tuple[set[str], set[str]]


def inputs_of(arguments: type) -> Shape:
    """Return all and the required properties of an arguments class, by their names in the schema."""
    names: dict[str, str] = _types.input_type_py_to_pulumi_names(arguments)
    parameters = inspect.signature(arguments).parameters
    required = {wire for own, wire in names.items() if parameters[own].default is inspect.Parameter.empty}
    return set(names.values()), required


def outputs_of(resource: type) -> Shape:
    """Return all and the never-empty properties of a resource class."""
    everything, required = set(), set()
    for name, value in vars(resource).items():
        if isinstance(value, property):
            wire = getattr(value.fget, "_pulumi_name", name)
            (held,) = typing.get_args(inspect.get_annotations(value.fget)["return"])  # type: ignore[arg-type]
            everything.add(wire)
            if type(None) not in typing.get_args(held):
                required.add(wire)
    return everything, required


def camel(name: str) -> str:
    """Return a Python name as the schema writes it."""
    first, *rest = name.split("_")
    return first + "".join(part.title() for part in rest)


def schema_inputs(spec: dict[str, Any]) -> Shape:
    """Return all and the required input properties of a resource in a schema."""
    return set(spec.get("inputProperties", {})), set(spec.get("requiredInputs", []))


def schema_properties(spec: dict[str, Any]) -> Shape:
    """Return all and the required properties of a type, or of a resource's state."""
    return set(spec.get("properties", {})), set(spec.get("required", []))
