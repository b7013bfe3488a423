"""Reads a stack's file, for the commands that need no engine."""

from __future__ import annotations

import os

import yaml

from layer1 import config
from layer1.errors import Layer1Error
from layer1.model import StackConfig
from layer1.paths import REPOSITORY


def read(name: str) -> StackConfig:
    """Read a stack's file as `pulumi` would.

    Raises:
        Layer1Error: there is no such file, it is not YAML, or its configuration is wrong.
    """
    path = REPOSITORY / f"Pulumi.{name}.yaml"
    prefix = f"{config.NAMESPACE}:"
    try:
        document = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise Layer1Error(f"{path.name}: no such stack file; copy Pulumi.dev.yaml and change it") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise Layer1Error(f"{path.name}{where}: is not YAML") from None
    entries = document.get("config") if isinstance(document, dict) else None
    raw = {
        key.removeprefix(prefix): value
        for key, value in (entries if isinstance(entries, dict) else {}).items()
        if isinstance(key, str) and key.startswith(prefix)
    }
    return config.load(name, raw, os.environ)
