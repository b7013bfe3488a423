"""Each class of change, from previews that the real engine made (`capture.py`)."""

from __future__ import annotations

import pytest
from plan_guard_support import captured, judged

from layer1.plan_guard.report import means

FATES = {
    "flatcar-same": {"k3s-1": ("unchanged", None), "k3s-2": ("unchanged", None)},
    "flatcar-create": {"home": ("created", 1), "k3s-1": ("created", 2), "k3s-2": ("created", 2)},
    "flatcar-add": {"k3s-1": ("unchanged", None), "k3s-3": ("created", 1)},
    "flatcar-memory": {"home": ("unchanged", None), "k3s-1": ("restarted", 1), "k3s-2": ("unchanged", None)},
    "flatcar-key": {"k3s-1": ("re-provisioned", 1), "k3s-2": ("re-provisioned", 1)},
    "flatcar-layer2": {"k3s-1": ("re-provisioned", 1), "k3s-2": ("unchanged", None)},
    "flatcar-remove": {"k3s-1": ("unchanged", None), "k3s-2": ("removed", 1)},
    "flatcar-data-rename": {"k3s-1": ("data lost", 1), "k3s-2": ("unchanged", None)},
    "flatcar-cidr": {"home": ("network or pool replaced", 1), "k3s-1": ("restarted", 2)},
    "talos-config": {"cp-1": ("updated in place", 1), "cp-2": ("updated in place", 2)},
    "talos-disk-two": {
        "cp-1": ("unchanged", None),
        "cp-2": ("re-provisioned", 1),
        "cp-3": ("re-provisioned", 2),
    },
    "talos-memory": {"cp-1": ("restarted", 1), "cp-3": ("restarted", 3), "worker-1": ("restarted", 1)},
    "talos-address": {"worker-1": ("re-provisioned", 1), "cp-1": ("unchanged", None)},
    "talos-data-size": {"worker-1": ("data lost", 1)},
    "pi-flash": {"pi-k3s": ("card erased", 1), "pi-talos": ("unchanged", None)},
    "pi-user": {"pi-k3s": ("updated in place", 1), "pi-talos": ("unchanged", None)},
    "pi-booted": {"pi-k3s": ("updated in place", 1)},
    "pi-removed": {"pi-k3s": ("removed", 1), "pi-talos": ("unchanged", None)},
}

CAUSES = {
    ("flatcar-memory", "k3s-1"): "memory in MiB 512 to 640 (layer1:nodes[0].memory_mib)",
    ("flatcar-key", "k3s-1"): "the Ignition config differs",
    ("flatcar-hard", "k3s-2"): "hard-limit-mib 0 to 1536 (layer1:hosts.home.memory_hard_limit)",
    ("flatcar-pass", "k3s-2"): "passthrough disks 0 to 1 (layer1:nodes[1].passthrough_disks)",
    ("flatcar-cidr", "home"): "cidr 10.218.4.0/24 to 10.218.5.0/24 (layer1:network.cidr)",
    ("flatcar-cidr", "k3s-1"): "cidr 10.218.4.0/24 to 10.218.5.0/24 (layer1:network.cidr)",
    ("talos-disk-two", "cp-2"): "disk 10 GiB to 11 GiB (layer1:nodes[1].disk_gib)",
    ("talos-memory", "cp-1"): "memory in MiB 2048 to 2304 (layer1:defaults.memory_mib)",
    ("talos-data-size", "worker-1"): "worker-1-data-db 1 GiB to 2 GiB (layer1:nodes[3].data_disks)",
    ("talos-data-gone", "worker-1"): "data disks 1 to 0 (layer1:nodes[3].data_disks)",
    ("pi-booted", "pi-k3s"): "the board has booted (layer1:nodes[1].booted)",
    ("pi-flash", "pi-k3s"): "a card or drive is to be written (layer1:nodes[1].device)",
    ("pi-user", "pi-k3s"): "the board's image file differs",
}

MEANINGS = {
    ("flatcar-key", "k3s-1"): "Layer 2 has to configure it again",
    ("flatcar-memory", "k3s-1"): "this k3s server and its pods are away",
    ("talos-memory", "cp-1"): "etcd is without this member",
    ("talos-memory", "worker-1"): "its pods are away",
    ("talos-disk-two", "cp-2"): "it leaves etcd, and joins again with an empty disk",
    ("talos-config", "cp-1"): "applied over the API",
    ("pi-flash", "pi-k3s"): "its card is erased",
    ("pi-user", "pi-k3s"): "its image file is written again",
}


@pytest.mark.parametrize("name", FATES)
def test_fate_of_each_node(name: str) -> None:
    fates = {key: (fate.impact.words, fate.place) for key, fate in judged(captured(name)).items()}
    assert {key: fates[key] for key in FATES[name]} == FATES[name]


@pytest.mark.parametrize(("name", "node"), CAUSES)
def test_because_of_which_field(name: str, node: str) -> None:
    assert CAUSES[name, node] in [str(cause) for cause in judged(captured(name))[node].causes]


@pytest.mark.parametrize(("name", "node"), MEANINGS)
def test_what_it_means_for_the_cluster(name: str, node: str) -> None:
    assert MEANINGS[name, node] in means(judged(captured(name))[node])


def test_a_changed_address_names_the_keys_that_a_disk_hangs_on() -> None:
    causes = [str(cause) for cause in judged(captured("talos-address"))["worker-1"].causes]
    assert any("layer1:nodes[3].ip" in cause for cause in causes)


def test_order_does_not_hang_on_the_engines_chatter() -> None:
    planned = captured("talos-memory")
    backwards = type(planned)(
        changes=tuple(reversed(planned.changes)), config=planned.config, errors=planned.errors
    )
    assert judged(backwards).keys() == judged(planned).keys()
    for name, fate in judged(planned).items():
        assert judged(backwards)[name].place == fate.place
        assert judged(backwards)[name].causes == fate.causes
