"""TalosNode: Talos Linux in a hardened libvirt domain; part of a TalosCluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pulumi

from components import _commands, _libvirt
from components._node_parts import GIB, data_volumes, reserved_address
from components._options import child_of
from components._talos_config import machine_config_of
from components.hypervisor import BaseImage, Hypervisor
from components.seed_iso import SeedIso, SeedIsoArgs
from layer1 import contract, identity
from layer1.machine import machine, pool_directory
from layer1.model import Node, StackConfig
from layer1.talos import seed as talos_seed
from layer1.talos import stack as talos_stack

TOKEN = "layer1:index:TalosNode"  # noqa: S105 - a Pulumi type token


@dataclass(frozen=True, kw_only=True, slots=True)
class TalosNodeArgs:
    """Arguments of `TalosNode`.

    Attributes:
        stack: the checked configuration.
        node: which of its nodes.
        hypervisor: the host that it runs on.
        image: the image that it starts from.
        secrets: the cluster's secrets; secret.
        talosconfig: the operator's access; secret.
        after: what must have ended well before this node is made, replaced or given a config.
    """

    stack: StackConfig
    node: Node
    hypervisor: Hypervisor
    image: BaseImage
    secrets: pulumi.Output[str]
    talosconfig: pulumi.Output[str]
    after: Sequence[pulumi.Resource]


class TalosNode(pulumi.ComponentResource):
    """One node: its machine config, seed, root disk, domain, and the config it runs with."""

    node: pulumi.Output[dict[str, Any]]
    """The node's part of the stack's output `layer1`."""
    applied: pulumi.Resource
    """There once the node's API has answered and taken its machine config."""
    root_id: pulumi.Output[str]
    """Another one is another, empty disk."""
    running_id: pulumi.Output[str]
    """Another one is another machine or machine config on the same disk."""

    def __init__(self, name: str, args: TalosNodeArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(TOKEN, name, None, opts)
        node, host = args.node, args.hypervisor
        described = machine(args.stack, node)

        # Validated by talosctl before any domain exists.
        config = machine_config_of(self, name, args.stack, node, args.secrets)
        # Talos reads the seed on its first boot alone; later configs go by its API. So a changed seed is
        # uploaded under the same name, for a root disk to come, and replaces nothing.
        seed_name = f"{node.name}-seed.iso"
        seed = SeedIso(
            f"{name}-seed",
            SeedIsoArgs(
                file_name=pulumi.Output.unsecret(
                    config.apply(lambda text: f"{node.name}-seed-{identity.content_id(text)}.iso")
                ),
                volume_name=seed_name,
                label=talos_seed.LABEL,
                files={path: self._seed_file(config, path, args) for path in talos_seed.FILES},
                pool=host.pool.name,
                provider=host.provider,
            ),
            child_of(self),
        )
        root = _libvirt.disk_volume(
            f"{name}-{talos_stack.root_kind(node)}",
            talos_stack.root_file_name(args.stack, node),
            host.pool.name,
            size_bytes=node.disk_gib.value * GIB,
            base=args.image.volume,
            opts=child_of(
                self,
                provider=host.provider,
                delete_before_replace=True,
                # A new version upgrades the node in place; its disk stays on the image it began with.
                ignore_changes=["baseVolumeId"],
                depends_on=list(args.after),
            ),
        )
        data = data_volumes(self, name, node, host)
        before: list[pulumi.Resource] = [seed.volume, reserved_address(self, name, node, host)]
        if described.vtpm:
            # The provider keeps the vTPM's state when it replaces the domain; it goes with the node.
            vtpm = _commands.task(
                f"{name}-vtpm",
                "keep-vtpm",
                {"uri": host.uri, "uuid": node.uuid},
                undo="forget-vtpm",
                opts=child_of(self),
            )
            before.append(vtpm.resource)
        domain = _libvirt.domain(
            f"{name}-domain",
            described,
            _libvirt.DomainParts(
                # By its path, which does not change when the seed does.
                seed_id=f"{pool_directory(args.stack, node.host_name)}/{seed_name}",
                disks=[root, *data],
                network=host.network,
            ),
            child_of(
                self,
                provider=host.provider,
                delete_before_replace=True,
                replace_with=[host.network],
                depends_on=before,
            ),
        )
        self.applied = _commands.task(
            f"{name}-applied",
            "talos-apply",
            {
                "talosconfig": args.talosconfig,
                "node": node.ip,
                "config": config,
                "timeout_s": args.stack.talos.bootstrap_timeout_s,
            },
            triggers=[described.digest, root.id, host.network.id],
            opts=child_of(self, depends_on=[domain, *args.after]),
        ).resource
        self.root_id = root.id
        self.running_id = pulumi.Output.unsecret(
            config.apply(lambda text: identity.content_id(text + described.digest))
        )
        self.node = pulumi.Output.all(args.image.facts, self.applied.id).apply(
            lambda parts: contract.node_output(
                args.stack, node, domain=described.domain_name, ssh_host_key=None, image=parts[0]
            )
        )
        self.register_outputs({"node": self.node})

    @staticmethod
    def _seed_file(config: pulumi.Output[str], path: str, args: TalosNodeArgs) -> pulumi.Output[str]:
        spec = talos_stack.machine_spec(args.stack, args.node)
        return _commands.secret_text(
            config.apply(lambda text: talos_seed.files(text, spec, args.node.uuid)[path])
        )
