"""FlatcarNode: Flatcar Container Linux and k3s in a hardened libvirt domain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pulumi

from components import _commands, _libvirt
from components._keys import key_seed, private_key, public_key
from components._node_parts import GIB, data_volumes, reserved_address
from components._options import child_of
from components.hypervisor import BaseImage, Hypervisor
from components.seed_iso import SeedIso, SeedIsoArgs
from layer1 import contract, flatcar_seed
from layer1.butane import InstallerPin
from layer1.machine import machine
from layer1.model import Node, StackConfig

TOKEN = "layer1:index:FlatcarNode"  # noqa: S105 - a Pulumi type token


@dataclass(frozen=True, kw_only=True, slots=True)
class FlatcarNodeArgs:
    """Arguments of `FlatcarNode`.

    Attributes:
        stack: the checked configuration.
        node: which of its nodes.
        hypervisor: the host that it runs on.
        image: the image that it starts from.
        installer: the pinned k3s installer.
        layer2_ignition: Ignition config of Layer 2 as JSON text, merged over ours; secret.
    """

    stack: StackConfig
    node: Node
    hypervisor: Hypervisor
    image: BaseImage
    installer: InstallerPin
    layer2_ignition: pulumi.Input[str] | None = None


class FlatcarNode(pulumi.ComponentResource):
    """One node: its keys, seed, root disk, domain, and the wait until it answers."""

    node: pulumi.Output[dict[str, Any]]
    """The node's part of the stack's output `layer1`; there once the node is provisioned."""
    status_private_key: pulumi.Output[str]
    """SSH key of the user layer1-status, who may run one read-only script; secret."""

    def __init__(self, name: str, args: FlatcarNodeArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(TOKEN, name, None, opts)
        node, host = args.node, args.hypervisor
        described = machine(args.stack, node)
        on_host = {"provider": host.provider, "delete_before_replace": True}

        host_seed, status_seed = (key_seed(self, f"{name}-{kind}-key") for kind in ("host", "status"))
        self.status_private_key = private_key(status_seed, "layer1-status")
        host_public = public_key(host_seed, node.name)

        butane = _commands.secret_text(
            pulumi.Output.all(host_seed, status_seed, args.layer2_ignition).apply(
                lambda secrets: flatcar_seed.butane_of(args.stack, node, args.installer, *secrets)
            )
        )
        ignition = _commands.task(f"{name}-ignition", "ignition", {"butane": butane}, opts=child_of(self))
        # Digests of a text with 64 random bytes in it: they tell nothing of it.
        seed_name = pulumi.Output.unsecret(butane.apply(lambda text: flatcar_seed.seed_file_name(node, text)))
        root_name = pulumi.Output.unsecret(butane.apply(lambda text: flatcar_seed.root_file_name(node, text)))
        seed = SeedIso(
            f"{name}-seed",
            SeedIsoArgs(
                file_name=seed_name,
                label=flatcar_seed.label(args.stack),
                files={flatcar_seed.user_data_path(args.stack): ignition.stdout},
                pool=host.pool.name,
                provider=host.provider,
            ),
            child_of(self),
        )
        root = _libvirt.disk_volume(
            f"{name}-root",
            root_name,
            host.pool.name,
            size_bytes=node.disk_gib.value * GIB,
            base=args.image.volume,
            # Ignition runs on the first boot of a fresh root alone: another seed needs another root.
            opts=child_of(self, replace_with=[seed.volume], **on_host),
        )
        data = data_volumes(self, name, node, host)
        reservation = reserved_address(self, name, node, host)
        domain = _libvirt.domain(
            f"{name}-domain",
            described,
            _libvirt.DomainParts(seed_id=seed.volume.id, disks=[root, *data], network=host.network),
            # With its seed and its root: the provider would only swap the CD-ROM under a running guest.
            # With the network: the provider leaves a card on a bridge that is gone.
            # After the reservation: a guest that asks earlier gets another address.
            child_of(
                self,
                replace_with=[root, seed.volume, host.network],
                depends_on=[reservation],
                **on_host,
            ),
        )
        ready = _commands.task(
            f"{name}-ready",
            "node-ready",
            {
                "uri": host.uri,
                "domain": described.domain_name,
                "hostname": node.name,
                "address": node.ip,
                "host_key": host_public,
                "status_key": self.status_private_key,
                "network": host.network.name,
                "pool": host.pool.name,
                "root_volume": root.name,
                "timeout_s": node.ready_timeout_s,
            },
            triggers=[described.digest, root.name, host.network.id],
            opts=child_of(self, depends_on=[domain]),
        )
        self.node = pulumi.Output.all(host_public, args.image.facts, ready.resource.id).apply(
            lambda parts: contract.node_output(
                args.stack, node, domain=described.domain_name, ssh_host_key=parts[0], image=parts[1]
            )
        )
        self.register_outputs({"node": self.node})
