"""Each loss that is refused, who must be named for it, and what passes without anybody's leave."""

from __future__ import annotations

import json
from typing import Any

import pytest
from plan_guard_support import captured, document, judged, lost

from layer1.findings import Verdict
from layer1.plan_guard import losses
from layer1.plan_guard.losses import as_findings
from layer1.plan_guard.preview import Preview, read

EVERY = ("cp-1", "cp-2", "cp-3", "worker-1")
REFUSED: dict[str, dict[str, tuple[str, ...]]] = {
    "flatcar-key": {"control-plane.quorum": ("k3s-1", "k3s-2")},
    "flatcar-layer2": {"control-plane.quorum": ("k3s-1",)},
    "flatcar-remove": {"node.removed": ("k3s-2",), "control-plane.quorum": ("k3s-2",)},
    "flatcar-data-rename": {"data.lost": ("k3s-1",)},
    "flatcar-cidr": {"network.replaced": ("k3s-1", "k3s-2")},
    "talos-disk-two": {"control-plane.quorum": ("cp-2", "cp-3")},
    "talos-disk-all": {"control-plane.quorum": ("cp-1", "cp-2", "cp-3")},
    "talos-network": {"network.replaced": EVERY},
    "talos-data-gone": {"data.lost": ("worker-1",)},
    "talos-data-size": {"data.lost": ("worker-1",)},
    "talos-remove-worker": {"data.lost": ("worker-1",), "node.removed": ("worker-1",)},
    "talos-downgrade": {"image.downgrade": EVERY},
    "pi-flash": {"card.erased": ("pi-k3s",)},
    "pi-older": {"image.downgrade": ("pi-k3s",)},
    "pi-removed": {"node.removed": ("pi-k3s",)},
}
HARMLESS = [
    "flatcar-same", "flatcar-create", "flatcar-add", "flatcar-memory", "flatcar-hard", "flatcar-pass",
    "talos-create", "talos-same", "talos-memory", "talos-disk-one", "talos-config", "talos-address",
    "pi-create", "pi-user", "pi-booted",
]  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused_and_allowed_by_naming_every_node(name: str) -> None:
    found = lost(captured(name))
    assert {key: loss.nodes for key, loss in found.items()} == REFUSED[name]
    for loss in found.values():
        (refused,) = as_findings("lab", [loss], ())
        assert refused.verdict == Verdict.BROKEN
        assert refused.remedy.endswith(f"make up STACK=lab ALLOW={','.join(loss.nodes)}")
        assert refused.evidence
        assert refused.means
        (missing,) = as_findings("lab", [loss], loss.nodes[1:])
        assert missing.verdict == Verdict.BROKEN, "one node that is not named is enough"
        (allowed,) = as_findings("lab", [loss], loss.nodes)
        assert (allowed.verdict, allowed.key, allowed.remedy) == (Verdict.WEAKER, "ALLOW", "")


@pytest.mark.parametrize("name", HARMLESS)
def test_passes_without_leave(name: str) -> None:
    assert lost(captured(name)) == {}


def edited(name: str, change: Any) -> Preview:
    parsed = document(name)
    for step in parsed["steps"]:
        change(step)
    return read(json.dumps(parsed))


def test_a_passthrough_disk_that_is_dropped_is_lost_to_the_node() -> None:
    def dropped(step: dict[str, Any]) -> None:
        if step["urn"].endswith("::k3s-2-domain"):
            old, new = step["oldState"], step["newState"]
            old["inputs"], new["inputs"] = new["inputs"], old["inputs"]

    found = lost(edited("flatcar-pass", dropped))["data.lost"]
    assert found.nodes == ("k3s-2",)
    assert "/dev/disk/by-id/ata-X_1" in found.evidence


def test_two_of_five_control_planes_are_too_many_at_a_time_though_a_majority_is_left() -> None:
    parsed = document("talos-disk-two")
    outputs = next(s for s in parsed["steps"] if "pulumi:pulumi:Stack" in s["urn"])["oldState"]["outputs"]
    nodes = outputs["layer1"]["nodes"]
    for extra in ("cp-4", "cp-5"):
        nodes[extra] = nodes["cp-1"] | {"name": extra}
        config = json.loads(parsed["config"]["layer1:nodes"])
        address = f"10.218.7.1{extra[-1]}"
        config.append({"name": extra, "os": "talos", "role": "controlplane", "ip": address})
        parsed["config"]["layer1:nodes"] = json.dumps(config)
    found = lost(read(json.dumps(parsed)))
    assert found.keys() == {"control-plane.many"}
    assert found["control-plane.many"].nodes == ("cp-2", "cp-3")


def test_another_name_of_the_cluster_is_another_cluster() -> None:
    found = lost(captured("talos-rename"))
    assert found["cluster.secrets"].nodes == EVERY


def test_a_pool_that_is_replaced_takes_every_disk_along() -> None:
    def replaced(step: dict[str, Any]) -> None:
        if step["urn"].endswith("::home-pool"):
            step["op"] = "replace"

    found = lost(edited("flatcar-same", replaced))
    assert found["pool.replaced"].nodes == ("k3s-1", "k3s-2")


@pytest.mark.parametrize(
    ("old", "new", "older"),
    [
        ("v1.13.4", "v1.13.0", True),
        ("v1.13.0", "v1.13.4", False),
        ("v1.9.0", "v1.13.0", False),
        ("4593.2.5", "4593.2.5", False),
        ("4593.2.5", "4230.2.1", True),
        ("2026-06-18@2026-06-19", "2025-05-13@2025-05-13", True),
        ("225d16aeb26f", "4593.2.5", False),
        (None, "v1.13.0", False),
        ("v1.13.0", None, False),
    ],
)
def test_which_version_is_older(old: str | None, new: str | None, *, older: bool) -> None:
    assert losses.older(old, new) is older


def test_a_role_that_nobody_knows_counts_as_a_control_plane() -> None:
    parsed = document("talos-disk-two")
    stack = next(s for s in parsed["steps"] if "pulumi:pulumi:Stack" in s["urn"])
    stack["oldState"]["outputs"] = {}
    fates = judged(read(json.dumps(parsed)))
    assert fates["cp-2"].control_plane
    assert fates["cp-2"].loses_root
