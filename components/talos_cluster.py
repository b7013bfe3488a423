"""TalosCluster: a cluster's secrets, its nodes, the one bootstrap, health, upgrades and access."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import pulumi

from components import _commands
from components._options import child_of
from components.hypervisor import BaseImage, Hypervisor
from components.talos_node import TalosNode, TalosNodeArgs
from layer1.model import Os, StackConfig
from layer1.talos import stack as talos_stack

TOKEN = "layer1:index:TalosCluster"  # noqa: S105 - a Pulumi type token


@dataclass(frozen=True, kw_only=True, slots=True)
class TalosClusterArgs:
    """Arguments of `TalosCluster`.

    Attributes:
        stack: the checked configuration.
        hypervisors: each host by its name.
        images: the image that each node starts from, by the node's name.
    """

    stack: StackConfig
    hypervisors: Mapping[str, Hypervisor]
    images: Mapping[str, BaseImage]


class TalosCluster(pulumi.ComponentResource):
    """The Talos nodes of a stack as one cluster."""

    nodes: dict[str, TalosNode]
    """Each node by its name."""
    talosconfig: pulumi.Output[str]
    """The operator's access to the Talos API; secret."""
    kubeconfig: pulumi.Output[str]
    """An administrator's access to Kubernetes, there once the cluster is healthy; secret."""

    def __init__(self, name: str, args: TalosClusterArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(TOKEN, name, None, opts)
        stack = args.stack
        cluster = talos_stack.cluster_spec(stack)
        control_planes = [node.ip for node in talos_stack.control_planes(stack)]
        workers = [node.ip for node in talos_stack.workers(stack)]
        limit = stack.talos.bootstrap_timeout_s

        secrets = _commands.task(
            f"{name}-secrets",
            "talos-secrets",
            {"talos_version": cluster.talos_version},
            # Made once: another set would be another cluster. No later change may run this again.
            opts=child_of(self, ignore_changes=["*"]),
        ).stdout
        self.talosconfig = _commands.task(
            f"{name}-talosconfig",
            "talos-talosconfig",
            # Another run is another certificate: only what is in it may start one.
            {"secrets": secrets, "cluster": asdict(talos_stack.access(cluster))},
            opts=child_of(self),
        ).stdout
        self.nodes = {
            node.name: TalosNode(
                node.name,
                TalosNodeArgs(
                    stack=stack,
                    node=node,
                    hypervisor=args.hypervisors[node.host_name],
                    image=args.images[node.name],
                    secrets=secrets,
                    talosconfig=self.talosconfig,
                ),
                child_of(self),
            )
            for node in stack.of(Os.TALOS)
        }
        first = talos_stack.control_planes(stack)[0]
        bootstrap = _commands.task(
            f"{name}-bootstrap",
            "talos-bootstrap",
            {"talosconfig": self.talosconfig, "node": first.ip, "timeout_s": limit},
            # Once in the cluster's life: etcd would refuse a second, on another control plane it would be
            # a second cluster.
            opts=child_of(self, depends_on=[self.nodes[first.name].applied], ignore_changes=["*"]),
        )
        members = {"control_planes": control_planes, "workers": workers, "timeout_s": limit}
        health = _commands.task(
            f"{name}-health",
            "talos-health",
            {"talosconfig": self.talosconfig, **members},
            opts=child_of(self, depends_on=[bootstrap.resource, *(n.applied for n in self.nodes.values())]),
        )
        upgraded = _commands.task(
            f"{name}-upgrade",
            "talos-upgrade",
            {"talosconfig": self.talosconfig, "installers": talos_stack.installers(stack), **members},
            opts=child_of(self, depends_on=[health.resource]),
        )
        self.kubeconfig = _commands.task(
            f"{name}-kubeconfig",
            "talos-kubeconfig",
            {"talosconfig": self.talosconfig, "node": first.ip},
            opts=child_of(self, depends_on=[upgraded.resource]),
        ).stdout
        self.register_outputs({})
