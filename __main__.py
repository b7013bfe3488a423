"""Layer 1 as a Pulumi program: configuration in, components, the output `layer1`."""

from __future__ import annotations

import os
from typing import Any

import pulumi
from pulumi.runtime.config import get_config_env, is_config_secret

from components import FlatcarNode, FlatcarNodeArgs, Hypervisor, HypervisorArgs
from layer1 import config, contract, identity, machine, supply
from layer1.errors import ConfigError, Layer1Error
from layer1.plan import plan_lines


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


def main() -> None:
    """Build the stack."""
    raw, layer2_text = read()
    stack = config.load(pulumi.get_stack(), raw, os.environ)
    layer2 = config.parse_layer2_ignition(layer2_text, (node.name for node in stack.nodes))
    installer = supply.installer_pin(stack)
    for line in plan_lines(stack):
        (pulumi.log.warn if "WEAKER" in line else pulumi.log.info)(line)

    images = {node.name: supply.image_request(stack, node) for node in stack.nodes}
    hypervisors = {
        name: Hypervisor(
            name,
            HypervisorArgs(
                uri=host.uri,
                prefix=identity.resource_prefix(stack.stack),
                pool_directory=machine.pool_directory(stack, name),
                network_mode=machine.forward_mode(stack),
                network_cidr=stack.network.cidr,
                bridge=identity.bridge_name(stack.stack, name),
                images={
                    supply.base_volume_name(images[node.name]): images[node.name]
                    for node in stack.nodes
                    if node.host_name == name
                },
            ),
        )
        for name, host in stack.hosts.items()
    }
    nodes = {
        node.name: FlatcarNode(
            node.name,
            FlatcarNodeArgs(
                stack=stack,
                node=node,
                hypervisor=hypervisors[node.host_name],
                image=hypervisors[node.host_name].base_images[supply.base_volume_name(images[node.name])],
                installer=installer,
                layer2_ignition=pulumi.Output.secret(layer2[node.name]) if node.name in layer2 else None,
            ),
        )
        for node in stack.nodes
    }
    facts = pulumi.Output.all(**{name: node.node for name, node in nodes.items()})
    pulumi.export("layer1", facts.apply(lambda parts: contract.outputs(stack.stack, parts)))
    # Apart, for one secret in an output makes the whole output secret to whoever references the stack.
    pulumi.export("layer1_status_keys", {name: node.status_private_key for name, node in nodes.items()})


try:
    main()
except Layer1Error as error:
    raise pulumi.RunError(str(error)) from None
