"""The resources of `components/`, told apart by type and name."""

from __future__ import annotations

import re

from layer1.plan_guard.preview import Action, Change

DOMAIN = "libvirt:index/domain:Domain"
VOLUME = "libvirt:index/volume:Volume"
NETWORK = "libvirt:index/network:Network"
POOL = "libvirt:index/pool:Pool"
COMMAND = "command:local:Command"
HOST = "layer1:index:Hypervisor"
CLUSTER = "layer1:index:TalosCluster"
FLATCAR_NODE = "layer1:index:FlatcarNode"
TALOS_NODE = "layer1:index:TalosNode"
TALOS_BOARD = "layer1:index:TalosBoard"
PI_NODE = "layer1:index:PiBareMetalNode"
NODES = (FLATCAR_NODE, TALOS_NODE, TALOS_BOARD, PI_NODE)
BOARDS = (TALOS_BOARD, PI_NODE)

_ROOT = re.compile(r"-root(-secureboot)?$")


def is_root(change: Change) -> bool:
    """Say whether it is a node's root disk."""
    return change.kind == VOLUME and bool(_ROOT.search(change.name))


def is_data(change: Change) -> bool:
    """Say whether it is a disk of the operator's data."""
    return change.kind == VOLUME and (change.protected or "-data-" in change.name)


def is_loss(change: Change) -> bool:
    """Say whether what was there is gone afterwards."""
    return change.action in (Action.REPLACE, Action.DELETE)


def task_of(change: Change) -> str:
    """Return which of Layer 1's tasks a command resource runs, empty for another resource."""
    if change.kind != COMMAND:
        return ""
    line = str(change.new.get("create") or change.old.get("create") or "")
    return line.rpartition(" task ")[2] if " task " in line else ""
