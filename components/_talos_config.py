"""The machine config of a Talos node, in a domain or on a board: made and validated beforehand."""

from __future__ import annotations

from dataclasses import asdict

import pulumi

from components import _commands
from components._options import child_of
from layer1.model import StackConfig
from layer1.talos import machine_config
from layer1.talos import stack as talos_stack
from layer1.talos.stack import Member


def machine_config_of(
    parent: pulumi.Resource, name: str, stack: StackConfig, node: Member, secrets: pulumi.Output[str]
) -> pulumi.Output[str]:
    """Make a node's machine config, which talosctl has validated; secret."""
    cluster, spec = talos_stack.cluster_spec(stack), talos_stack.machine_spec(stack, node)
    return _commands.task(
        f"{name}-config",
        "talos-config",
        {
            "secrets": secrets,
            "cluster": asdict(cluster),
            "machine": asdict(spec),
            # What the templates say, less their comments: a change of it is a change of the config.
            "patches": machine_config.patches(cluster, spec),
        },
        opts=child_of(parent),
    ).stdout
