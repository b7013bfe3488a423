"""The bridged plugins speak what the installed SDKs' classes say; known differences are listed."""

from __future__ import annotations

import inspect
import re
from importlib.metadata import version
from types import ModuleType

import pulumi
import pulumi_libvirt
import pulumi_random
import pytest
from sdk_shape import Shape, camel, inputs_of, outputs_of, schema_inputs, schema_properties
from toolchain_support import schema

SDKS: dict[str, ModuleType] = {"libvirt": pulumi_libvirt, "random": pulumi_random}

# The SDK 0.5.4 was made from provider 0.8.1; ours is 0.8.3.
NEWER: dict[str, set[str]] = {
    "libvirt:index/DomainNetworkInterface:DomainNetworkInterface": {"private"},
}


def token_of(kind: type) -> str:
    """Return the token that a resource class registers with."""
    found = re.search(r"super\(\w+, __self__\)\.__init__\(\s*'([^']+)'", inspect.getsource(kind))
    assert found, kind
    return found.group(1)


def resources(sdk: ModuleType) -> dict[str, type]:
    """Return the SDK's resource classes by token."""
    classes = [value for value in vars(sdk).values() if inspect.isclass(value)]
    own = [kind for kind in classes if issubclass(kind, pulumi.CustomResource)]
    return {token_of(kind): kind for kind in own if not issubclass(kind, pulumi.ProviderResource)}


def without(shape: Shape, names: set[str]) -> Shape:
    """Return the shape without these names."""
    return shape[0] - names, shape[1] - names


RESOURCES = [(name, token) for name, sdk in SDKS.items() for token in resources(sdk)]


@pytest.mark.parametrize("name", SDKS)
def test_tokens_and_version(name: str) -> None:
    assert set(schema(name)["resources"]) == set(resources(SDKS[name]))
    assert schema(name)["version"] == version(f"pulumi-{name}")


@pytest.mark.parametrize(("name", "token"), RESOURCES)
def test_resource(name: str, token: str) -> None:
    kind = resources(SDKS[name])[token]
    arguments = getattr(SDKS[name], f"{kind.__name__}Args")
    spec = schema(name)["resources"][token]
    newer = NEWER.get(token, set())
    assert without(schema_inputs(spec), newer) == inputs_of(arguments)
    assert without(schema_properties(spec), newer) == outputs_of(kind)
    assert newer <= set(spec["properties"])


def test_types_of_libvirt() -> None:
    known = {
        f"libvirt:index/{name.removesuffix('Args')}:{name.removesuffix('Args')}": kind
        for name, kind in vars(pulumi_libvirt).items()
        if inspect.isclass(kind) and f"{name}Dict" in vars(pulumi_libvirt)
    }
    reported = {
        token: spec
        for token, spec in schema("libvirt")["types"].items()
        if not token.startswith("libvirt:index/get")
    }
    checked = {token: kind for token, kind in known.items() if token in reported}
    assert set(reported) == set(checked)
    for token, kind in checked.items():
        newer = NEWER.get(token, set())
        assert without(schema_properties(reported[token]), newer) == inputs_of(kind), token
        assert newer <= set(reported[token]["properties"])


def test_functions_of_libvirt() -> None:
    functions = {
        token.rsplit(":", 1)[1] for token in schema("libvirt")["functions"] if "libvirt:index" in token
    }
    own = {name for name in vars(pulumi_libvirt) if name.startswith("get_") and not name.endswith("_output")}
    assert {camel(name) for name in own if inspect.isfunction(getattr(pulumi_libvirt, name))} == functions
