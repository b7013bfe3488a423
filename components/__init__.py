"""Pulumi ComponentResources of Layer 1; every decision is `layer1`'s."""

from components.flatcar_node import FlatcarNode, FlatcarNodeArgs
from components.hypervisor import Hypervisor, HypervisorArgs
from components.seed_iso import SeedIso, SeedIsoArgs
from components.talos_cluster import TalosCluster, TalosClusterArgs
from components.talos_node import TalosNode, TalosNodeArgs

__all__ = [
    "FlatcarNode",
    "FlatcarNodeArgs",
    "Hypervisor",
    "HypervisorArgs",
    "SeedIso",
    "SeedIsoArgs",
    "TalosCluster",
    "TalosClusterArgs",
    "TalosNode",
    "TalosNodeArgs",
]
