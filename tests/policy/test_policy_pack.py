"""Each rule on the real engine: what it refuses, named by resource, and what it lets pass."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from policy_support import PACK, PROGRAMS, STACK, Judged, violations

from layer1 import sshkeys
from policy.rules import OWN_PARTS, PLAIN_OUTPUT, RULES, STRONG_CHOICES, STRONG_WALLS

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]
STRONG: dict[str, Any] = {
    "nodes": [
        {
            "name": "k3s-1",
            "os": "flatcar",
            "ssh_authorized_keys": [sshkeys.ed25519_public(b"\x01" * 32, "operator")],
        }
    ]
}
WEAK = STRONG | {"hosts": {"home": {"accel": "tcg", "svirt": "none", "memory_hard_limit": False}}}
LAB = WEAK | {"environment": "lab"}
# Each resource of bad.py begins with the name of the rule that must name it.
BAD = {
    (name.split()[0], name)
    for name in re.findall(
        r'^(?:domain|volume|command|libvirt\.\w+|remote\.\w+)\(\s*"([a-z-]+(?: [a-z0-9]+)?)"',
        (PROGRAMS / "bad.py").read_text(),
        flags=re.MULTILINE,
    )
}
OVER_THE_STACK = {(PLAIN_OUTPUT.name, f"layer1-{STACK}"), (STRONG_CHOICES, f"layer1-{STACK}")}


def test_what_layer_1_makes_passes(tmp_path: Path) -> None:
    said = Judged(tmp_path / "p", "good.py", STRONG).preview(ok=True)
    assert "✅ layer1" in said
    assert violations(said) == set()


def test_what_target_leaves_out_is_not_judged(tmp_path: Path) -> None:
    said = Judged(tmp_path / "p", "good.py", STRONG).preview(
        "--target=**::pool", "--target=**::host", ok=True
    )
    assert violations(said) == set()


def test_each_rule_names_each_resource_that_breaks_it(tmp_path: Path) -> None:
    said = Judged(tmp_path / "p", "bad.py", WEAK).preview(ok=False)
    # What goes in comes out again.
    again = {(PLAIN_OUTPUT.name, name) for rule, name in BAD if rule == "plain-secret"}
    assert violations(said) == BAD | OVER_THE_STACK | again
    # The engine prints a plain output; a rule must not.
    assert "bm90IGEga2V5" not in said.partition("\nPolicies:")[2].partition("\nOutputs:")[0]


def test_only_a_lab_may_do_without_walls(tmp_path: Path) -> None:
    judged = Judged(tmp_path / "p", "bad.py", LAB)
    named = {rule for rule, _ in violations(judged.preview(ok=False))}
    assert named == {rule.name for rule in (*RULES, *OWN_PARTS, PLAIN_OUTPUT)}


def test_a_stack_whose_keys_cannot_be_read_is_stopped(tmp_path: Path) -> None:
    said = Judged(tmp_path / "p", "good.py", {"nodes": []}).preview(ok=False)
    assert violations(said) == {(STRONG_CHOICES, f"layer1-{STACK}")}
    assert "layer1:nodes: must be a list of at least one node" in said


def test_what_only_up_knows_is_judged_before_it_is_made(tmp_path: Path) -> None:
    judged = Judged(tmp_path / "p", "late.py", STRONG)
    judged.preview(ok=True)
    said = judged.up(ok=False)
    assert violations(said) == {("volume-source", "volume-source late")}
    # The provider was never asked: there is no such pool, and it would have said so.
    assert "no such pool" not in said


def test_every_rule_is_described() -> None:
    rows = [line for line in (PACK / "README.md").read_text().splitlines() if line.startswith("| `")]
    described = {name for row in rows for name in re.findall(r"`([a-z-]+)`", row.split("|")[1])}
    assert described == {
        *(rule.name for rule in (*RULES, *OWN_PARTS, STRONG_WALLS, PLAIN_OUTPUT)),
        STRONG_CHOICES,
    }


def test_every_rule_has_something_bad_to_name() -> None:
    assert {rule for rule, _ in BAD | OVER_THE_STACK} == {
        *(rule.name for rule in (*RULES, *OWN_PARTS, STRONG_WALLS, PLAIN_OUTPUT)),
        STRONG_CHOICES,
    }
