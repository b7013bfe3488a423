"""Pulumi ComponentResources of Layer 1; every decision is `layer1`'s."""

from components.flatcar_node import FlatcarNode, FlatcarNodeArgs
from components.hypervisor import Hypervisor, HypervisorArgs
from components.pi_bare_metal_node import PiBareMetalNode, PiBareMetalNodeArgs
from components.seed_iso import SeedIso, SeedIsoArgs
from components.talos_board import TalosBoard, TalosBoardArgs
from components.talos_cluster import TalosCluster, TalosClusterArgs
from components.talos_node import TalosNode, TalosNodeArgs

__all__ = [
    "FlatcarNode",
    "FlatcarNodeArgs",
    "Hypervisor",
    "HypervisorArgs",
    "PiBareMetalNode",
    "PiBareMetalNodeArgs",
    "SeedIso",
    "SeedIsoArgs",
    "TalosBoard",
    "TalosBoardArgs",
    "TalosCluster",
    "TalosClusterArgs",
    "TalosNode",
    "TalosNodeArgs",
]
