"""Layer 1 as a Pulumi program: configuration in, components, the output `layer1`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import pulumi
from pulumi.runtime.config import get_config_env, is_config_secret

from components import (
    FlatcarNode,
    FlatcarNodeArgs,
    Hypervisor,
    HypervisorArgs,
    PiBareMetalNode,
    PiBareMetalNodeArgs,
    TalosCluster,
    TalosClusterArgs,
)
from layer1 import config, contract, identity, machine, supply
from layer1.errors import ConfigError, Layer1Error
from layer1.model import Os, StackConfig
from layer1.plan import is_warning, plan_lines
from layer1.talos import stack as talos_stack


def read() -> tuple[dict[str, Any], str | None]:
    """Read the raw values below `layer1:`, and the secret apart from them."""
    settings = pulumi.Config(config.NAMESPACE)
    prefix = f"{config.NAMESPACE}:"
    names = {key.removeprefix(prefix) for key in get_config_env() if key.startswith(prefix)}
    raw = {name: config.parsed(settings.get(name)) for name in names - config.SECRET_KEYS}
    for name in sorted(names & config.SECRET_KEYS):
        # Pulumi.yaml's empty default is no secret, and Pulumi takes no secret default.
        if settings.get(name) and not is_config_secret(f"{prefix}{name}"):
            problem = f"is in plain text; set it with `pulumi config set --secret {prefix}{name}`"
            raise ConfigError([(f"{prefix}{name}", problem)])
    return raw, settings.get("layer2_ignition") or None


def hypervisor(stack: StackConfig, name: str, images: Mapping[str, supply.ImagePlan]) -> Hypervisor:
    """Make one host's component."""
    here = {images[node.name].key: images[node.name] for node in stack.nodes if node.host_name == name}
    return Hypervisor(
        name,
        HypervisorArgs(
            uri=stack.hosts[name].uri,
            prefix=identity.resource_prefix(stack.stack),
            pool_directory=machine.pool_directory(stack, name),
            network_mode=machine.forward_mode(stack),
            network_cidr=stack.network.cidr,
            bridge=identity.bridge_name(stack.stack, name),
            images=list(here.values()),
        ),
    )


def main() -> None:
    """Build the stack."""
    raw, layer2_text = read()
    stack = config.load(pulumi.get_stack(), raw, os.environ)
    layer2 = config.parse_layer2_ignition(layer2_text, (node.name for node in stack.nodes))
    for line in plan_lines(stack):
        (pulumi.log.warn if is_warning(line) else pulumi.log.info)(line)
    for line in supply.unpinned(stack):
        pulumi.log.warn(line)

    images = {node.name: supply.image_plan(stack, node) for node in stack.nodes}
    hypervisors = {name: hypervisor(stack, name, images) for name in stack.used_hosts}
    bases = {
        node.name: hypervisors[node.host_name].base_images[images[node.name].key] for node in stack.nodes
    }
    installer = supply.installer_pin(stack) if supply.needs_installer(stack) else None
    boards = {
        board.name: PiBareMetalNode(
            board.name, PiBareMetalNodeArgs(stack=stack, board=board, installer=installer)
        )
        for board in stack.boards
    }
    facts = {name: board.node for name, board in boards.items()}
    status_keys = {
        name: board.status_private_key
        for name, board in boards.items()
        if board.status_private_key is not None
    }
    if installer and (flatcar := stack.of(Os.FLATCAR)):
        nodes = {
            node.name: FlatcarNode(
                node.name,
                FlatcarNodeArgs(
                    stack=stack,
                    node=node,
                    hypervisor=hypervisors[node.host_name],
                    image=bases[node.name],
                    installer=installer,
                    layer2_ignition=pulumi.Output.secret(layer2[node.name]) if node.name in layer2 else None,
                ),
            )
            for node in flatcar
        }
        facts |= {name: node.node for name, node in nodes.items()}
        status_keys |= {name: node.status_private_key for name, node in nodes.items()}
    if status_keys:
        # Apart, for one secret in an output makes the whole output secret to whoever references the stack.
        pulumi.export("layer1_status_keys", status_keys)
    if boards:
        pulumi.export("layer1_boards", {name: board.medium for name, board in boards.items()})
    if talos_stack.members(stack):
        cluster = TalosCluster(
            stack.talos.cluster_name,
            TalosClusterArgs(stack=stack, hypervisors=hypervisors, images=bases, boards=boards),
        )
        facts |= {name: node.node for name, node in cluster.nodes.items()}
        pulumi.export("talosconfig", cluster.talosconfig)
        pulumi.export("kubeconfig", cluster.kubeconfig)
    pulumi.export(
        "layer1", pulumi.Output.all(**facts).apply(lambda parts: contract.outputs(stack.stack, parts))
    )


try:
    main()
except Layer1Error as error:
    raise pulumi.RunError(str(error)) from None
