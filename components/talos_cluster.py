"""TalosCluster: a cluster's secrets, its nodes, the one bootstrap, health, upgrades and access.

Its nodes are in domains or on boards, and the same steps serve both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import pulumi

from components import _commands
from components._options import child_of
from components.hypervisor import BaseImage, Hypervisor
from components.pi_bare_metal_node import PiBareMetalNode
from components.talos_board import TalosBoard, TalosBoardArgs
from components.talos_node import TalosNode, TalosNodeArgs
from layer1.model import BoardNode, StackConfig
from layer1.talos import stack as talos_stack
from layer1.talos.stack import Member

TOKEN = "layer1:index:TalosCluster"  # noqa: S105 - a Pulumi type token


@dataclass(frozen=True, kw_only=True, slots=True)
class TalosClusterArgs:
    """Arguments of `TalosCluster`.

    Attributes:
        stack: the checked configuration.
        hypervisors: each host by its name.
        images: the image that each node in a domain starts from, by the node's name.
        boards: each board by its name.
    """

    stack: StackConfig
    hypervisors: Mapping[str, Hypervisor]
    images: Mapping[str, BaseImage]
    boards: Mapping[str, PiBareMetalNode]


class TalosCluster(pulumi.ComponentResource):
    """The Talos nodes of a stack as one cluster."""

    nodes: dict[str, TalosNode | TalosBoard]
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
        self._limit_s = stack.talos.bootstrap_timeout_s

        self._secrets = _commands.task(
            f"{name}-secrets",
            "talos-secrets",
            {"talos_version": cluster.talos_version},
            # Made once: another set would be another cluster. No later change may run this again.
            opts=child_of(self, ignore_changes=["*"]),
        )
        self.talosconfig = _commands.task(
            f"{name}-talosconfig",
            "talos-talosconfig",
            # Another run is another certificate: only what is in it may start one.
            {
                "secrets": self._secrets.stdout,
                "cluster": asdict(talos_stack.access(cluster)),
                "serial": stack.talos.talosconfig_serial,
            },
            opts=child_of(self),
        ).stdout
        # First of all: a control plane leaves etcd while the others' firewalls still let it speak.
        members = _commands.task(
            f"{name}-members",
            "talos-members",
            {
                "talosconfig": self.talosconfig,
                "members": talos_stack.member_list(stack),
                "timeout_s": self._limit_s,
            },
            remembers=True,
            opts=child_of(self),
        ).resource
        self.nodes = {}
        done: list[pulumi.Resource] = [members]
        first, *others = talos_stack.control_planes(stack)
        self._make(args, first, after=done)
        bootstrap = _commands.task(
            f"{name}-bootstrap",
            "talos-bootstrap",
            {"talosconfig": self.talosconfig, "node": first.ip, "timeout_s": self._limit_s},
            # Once in the cluster's life: etcd would refuse a second, on another control plane it would be
            # a second cluster.
            opts=child_of(self, depends_on=[self.nodes[first.name].applied], ignore_changes=["*"]),
        ).resource
        # One after the other: none is made, replaced or restarted before the one before is well in etcd.
        done.append(self._member(first, control_planes, [bootstrap]))
        for node in others:
            self._make(args, node, after=done)
            done.append(self._member(node, control_planes, done))
        for node in talos_stack.workers(stack):
            self._make(args, node, after=[members])
        everybody = {"control_planes": control_planes, "workers": workers, "timeout_s": self._limit_s}
        health = _commands.task(
            f"{name}-health",
            "talos-health",
            {"talosconfig": self.talosconfig, **everybody},
            opts=child_of(self, depends_on=[*done, *(node.applied for node in self.nodes.values())]),
        )
        upgraded = _commands.task(
            f"{name}-upgrade",
            "talos-upgrade",
            {"talosconfig": self.talosconfig, "installers": talos_stack.installers(stack), **everybody},
            opts=child_of(self, depends_on=[health.resource]),
        )
        self.kubeconfig = _commands.task(
            f"{name}-kubeconfig",
            "talos-kubeconfig",
            {"talosconfig": self.talosconfig, "node": first.ip},
            opts=child_of(self, depends_on=[upgraded.resource]),
        ).stdout
        self.register_outputs({})

    def _make(self, args: TalosClusterArgs, node: Member, after: Sequence[pulumi.Resource]) -> None:
        if isinstance(node, BoardNode):
            self.nodes[node.name] = TalosBoard(
                node.name,
                TalosBoardArgs(
                    stack=args.stack,
                    board=node,
                    image_facts=args.boards[node.name].image_facts,
                    secrets=self._secrets.stdout,
                    talosconfig=self.talosconfig,
                    after=list(after),
                ),
                child_of(self),
            )
            return
        self.nodes[node.name] = TalosNode(
            node.name,
            TalosNodeArgs(
                stack=args.stack,
                node=node,
                hypervisor=args.hypervisors[node.host_name],
                image=args.images[node.name],
                secrets=self._secrets.stdout,
                talosconfig=self.talosconfig,
                after=list(after),
            ),
            child_of(self),
        )

    def _member(
        self, node: Member, control_planes: Sequence[str], after: Sequence[pulumi.Resource]
    ) -> pulumi.Resource:
        made = self.nodes[node.name]
        return _commands.task(
            f"{node.name}-member",
            "talos-join",
            {
                "talosconfig": self.talosconfig,
                "node": node.ip,
                "others": [address for address in control_planes if address != node.ip],
                "running": made.running_id,
                "timeout_s": self._limit_s,
            },
            undo="talos-leave",
            triggers=[made.root_id],
            opts=child_of(
                self,
                depends_on=[made.applied, *after],
                delete_before_replace=True,
                # Where the whole cluster goes, nobody is asked for leave.
                deleted_with=self._secrets.resource,
            ),
        ).resource
