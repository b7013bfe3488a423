"""Our command plugin speaks exactly what the installed SDK's classes say."""

from __future__ import annotations

import importlib
import inspect
import warnings
from enum import Enum
from importlib.metadata import version
from typing import Any

import pytest
from sdk_shape import camel, inputs_of, outputs_of, schema_inputs, schema_properties
from toolchain_support import schema

with warnings.catch_warnings():
    # The SDK warns about its own CopyFile as soon as it is imported.
    warnings.simplefilter("ignore", DeprecationWarning)
    local = importlib.import_module("pulumi_command.local")
    remote = importlib.import_module("pulumi_command.remote")
    importlib.import_module("pulumi_command.remote.copy_file")

RESOURCES: dict[str, tuple[type, type]] = {
    "command:local:Command": (local.CommandArgs, local.Command),
    "command:remote:Command": (remote.CommandArgs, remote.Command),
    "command:remote:CopyToRemote": (remote.CopyToRemoteArgs, remote.CopyToRemote),
}


def test_it_has_the_resources_and_functions_that_we_use_and_no_other() -> None:
    assert set(schema("command")["resources"]) == set(RESOURCES)
    assert set(schema("command")["functions"]) == {"command:local:run"}


def test_version_is_the_installed_sdks() -> None:
    assert schema("command")["version"] == version("pulumi-command")


@pytest.mark.parametrize("token", RESOURCES)
def test_resource(token: str) -> None:
    arguments, resource = RESOURCES[token]
    spec = schema("command")["resources"][token]
    assert schema_inputs(spec) == inputs_of(arguments)
    assert schema_properties(spec) == outputs_of(resource)


@pytest.mark.parametrize("token", RESOURCES)
def test_changed_triggers_replace_and_connections_are_secret(token: str) -> None:
    spec = schema("command")["resources"][token]["inputProperties"]
    assert [name for name, value in spec.items() if value.get("replaceOnChanges")] == ["triggers"]
    assert [name for name, value in spec.items() if value.get("secret")] == (
        ["connection"] if "remote" in token else []
    )


@pytest.mark.parametrize("name", ["Connection", "ProxyConnection"])
def test_connection_types(name: str) -> None:
    spec = schema("command")["types"][f"command:remote:{name}"]
    assert schema_properties(spec) == inputs_of(getattr(remote, f"{name}Args"))
    defaults = {key: value["default"] for key, value in spec["properties"].items() if "default" in value}
    assert defaults == {"dialErrorLimit": 10, "perDialTimeout": 15, "port": 22, "user": "root"}


@pytest.mark.parametrize("module", [local, remote])
def test_logging_values(module: Any) -> None:
    kind: type[Enum] = module.Logging
    spec = schema("command")["types"][f"command:{module.__name__.rsplit('.', 1)[1]}:Logging"]
    assert {value["value"] for value in spec["enum"]} == {member.value for member in kind}


def test_run_function() -> None:
    spec = schema("command")["functions"]["command:local:run"]
    parameters = inspect.signature(local.run).parameters.keys() - {"opts"}
    assert set(spec["inputs"]["properties"]) == {camel(name) for name in parameters}
    assert spec["inputs"]["required"] == ["command"]
    results = {name for name, value in vars(local.RunResult).items() if isinstance(value, property)}
    assert set(spec["outputs"]["properties"]) == {camel(name) for name in results}
