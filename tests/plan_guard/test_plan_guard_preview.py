"""Reading the engine's JSON: whole, cut off, failed, of another shape, and with operations nobody knows."""

from __future__ import annotations

import json
from typing import Any

import pytest
from plan_guard_support import document, judged, lost

from layer1.errors import Layer1Error
from layer1.plan_guard.preview import Action, Preview, read


def with_operation(name: str, resource: str, operation: str) -> Preview:
    parsed = document(name)
    for step in parsed["steps"]:
        if step["urn"].endswith(f"::{resource}"):
            step["op"] = operation
    return read(json.dumps(parsed))


@pytest.mark.parametrize("text", ["", "   ", "nonsense", "[]", "{}", '"steps"', "null", '{"steps": ['])
def test_what_is_no_preview_is_said_to_be_none(text: str) -> None:
    with pytest.raises(Layer1Error, match="pulumi preview --json"):
        read(text)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_preview_that_was_cut_off_is_never_half_a_plan(share: float) -> None:
    text = json.dumps(document("flatcar-key"))
    with pytest.raises(Layer1Error, match="cut off"):
        read(text[: int(len(text) * share)])


@pytest.mark.parametrize("steps", [[{}], [{"op": "same"}], [{"urn": "u"}], ["same"], [None], {"a": 1}])
def test_a_shape_that_nobody_knows_is_refused(steps: Any) -> None:
    with pytest.raises(Layer1Error, match="shape"):
        read(json.dumps({"steps": steps}))


def test_why_the_engine_stopped_is_kept_in_its_words() -> None:
    planned = read(json.dumps(document("failed-config")))
    assert "layer1:layer2_ignition: must be a JSON mapping" in planned.errors[0]


def test_a_replacement_in_three_steps_is_one_change() -> None:
    shown = read(json.dumps(document("flatcar-key-steps")))
    urns = [change.urn for change in shown.changes]
    assert len(urns) == len(set(urns))
    root = next(change for change in shown.changes if change.name == "k3s-1-root")
    assert root.action == Action.REPLACE
    assert {name: fate.impact for name, fate in judged(shown).items()} == {
        name: fate.impact for name, fate in judged(read(json.dumps(document("flatcar-key")))).items()
    }


def test_an_operation_that_nobody_knows_is_never_taken_for_harmless() -> None:
    planned = with_operation("flatcar-same", "k3s-2-root", "transmogrify")
    fate = judged(planned)["k3s-2"]
    assert fate.impact.words == "unknown"
    found = lost(planned)["node.unknown"]
    assert found.nodes == ("k3s-2",)
    assert "transmogrify" in found.evidence


def test_an_unknown_operation_on_the_host_names_its_nodes() -> None:
    found = lost(with_operation("flatcar-same", "home-pool", "transmogrify"))["host.unknown"]
    assert found.nodes == ("k3s-1", "k3s-2")


def test_an_unknown_operation_on_what_belongs_to_nobody_needs_every_node() -> None:
    found = lost(with_operation("talos-same", "talos-secrets", "transmogrify"))["stack.unknown"]
    assert found.nodes == ("cp-1", "cp-2", "cp-3", "worker-1")
