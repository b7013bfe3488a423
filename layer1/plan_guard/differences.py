"""How the config of a node differs from the one it got: what the guest is told now, and what it would be.

The engine masks secrets in a preview, so both sides come from elsewhere: the old one from the state, the new
one is rendered here, by the same functions and from the same secrets as `up` would use. What hangs on a value
that is only known once it is made cannot be rendered before, and is said to be so.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import yaml

from layer1 import config, flatcar_seed, ignition, supply
from layer1.errors import Layer1Error
from layer1.model import BoardNode, Node, StackConfig
from layer1.plan_guard import engine
from layer1.plan_guard.kinds import task_of
from layer1.plan_guard.nodes import Fate
from layer1.plan_guard.preview import Action, Change
from layer1.plan_guard.redacted import Difference, Redactor, compare
from layer1.talos import machine_config
from layer1.talos import stack as talos_stack

State = Mapping[str, Mapping[str, Any]]
_CONFIGS = ("ignition", "talos-config")


def differences(
    fates: Sequence[Fate], stack: StackConfig, state: State, layer2: Callable[[], str | None]
) -> dict[str, Sequence[Difference]]:
    """Compare each config that a plan changes; nothing else is rendered.

    Args:
        fates: every host and node.
        stack: the configuration of the plan.
        state: the state's resources by URN, with their secrets.
        layer2: reads the secret part of the configuration, where it is needed.
    """
    redactor = Redactor()
    nodes: dict[str, Node | BoardNode] = {node.name: node for node in stack.nodes}
    nodes |= {board.name: board for board in stack.boards}
    found: dict[str, Sequence[Difference]] = {}
    for fate in fates:
        for change in fate.changes:
            if fate.name in nodes and change.action == Action.UPDATE and task_of(change) in _CONFIGS:
                found[fate.name] = _of_config(change, fate, nodes[fate.name], stack, state, layer2, redactor)
    return found


def changes_config(fates: Sequence[Fate]) -> bool:
    """Say whether a plan changes any node's config, so that the state's secrets are needed at all."""
    return any(
        change.action == Action.UPDATE and task_of(change) in _CONFIGS
        for fate in fates
        for change in fate.changes
    )


def _of_config(  # noqa: PLR0913, PLR0917 - both sides of a config, and what they are made from
    change: Change,
    fate: Fate,
    node: Node | BoardNode,
    stack: StackConfig,
    state: State,
    layer2: Callable[[], str | None],
    redactor: Redactor,
) -> Sequence[Difference]:
    is_ignition = task_of(change) == "ignition"
    place = "Ignition" if is_ignition else "machine config"
    try:
        old = _text(state[change.urn], "stdout")
        if is_ignition and isinstance(node, Node):
            return compare(
                _ignition(old), _ignition(_new_ignition(fate, node, stack, state, layer2)), redactor
            )
        new = machine_config.generate_config(
            _cluster_secrets(state), talos_stack.cluster_spec(stack), talos_stack.machine_spec(stack, node)
        )
        return compare(_documents(old), _documents(new), redactor)
    except (Layer1Error, KeyError, ValueError, yaml.YAMLError):
        # Never the error's own text: it may quote what it could not read.
        return (Difference(path=place, note="differs; the new side is not known before it is made"),)


def _new_ignition(
    fate: Fate, node: Node, stack: StackConfig, state: State, layer2: Callable[[], str | None]
) -> str:
    host, status = (_seed(state, f"{node.name}-{kind}-key") for kind in ("host", "status"))
    mine = config.parse_layer2_ignition(layer2(), [each.name for each in stack.nodes]).get(node.name)
    butane = flatcar_seed.butane_of(stack, node, supply.installer_pin(stack), host, status, mine)
    planned = {
        str(change.new.get("name")) for change in fate.changes if change.name == f"{node.name}-seed-volume"
    }
    if planned and planned != {flatcar_seed.seed_file_name(node, butane)}:
        raise ValueError("another config than the plan's, which names the seed after it")
    return ignition.from_butane(butane)


def _seed(state: State, name: str) -> bytes:
    """Return the random bytes that a resource of the state holds."""
    for urn, resource in state.items():
        if urn.endswith(f"::{name}"):
            return base64.b64decode(_text(resource, "base64"), validate=True)
    raise KeyError(name)


def _text(resource: Mapping[str, Any], output: str) -> str:
    text = engine.plain((resource.get("outputs") or {}).get(output))
    if text is None:
        raise KeyError(output)
    return text


def _cluster_secrets(state: State) -> str:
    for resource in state.values():
        if str((resource.get("inputs") or {}).get("create")).endswith(" task talos-secrets"):
            return _text(resource, "stdout")
    raise KeyError("talos-secrets")


def _ignition(text: str) -> Any:  # noqa: ANN401
    """Parse Ignition, with the configs that are merged in as what they are and not as data URLs."""
    parsed = json.loads(text)
    merged = ((parsed.get("ignition") or {}).get("config") or {}).get("merge") or []
    for index, other in enumerate(merged):
        inlined = ignition.inlined(other)
        if inlined is not None:
            merged[index] = _ignition(inlined)
    return parsed


def _documents(text: str) -> list[Any]:
    """Parse a machine config, which is several documents."""
    return [document for document in yaml.safe_load_all(text) if document is not None]
