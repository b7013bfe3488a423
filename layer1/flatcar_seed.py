"""What a Flatcar node's seed holds, and how its volumes are named after it."""

from __future__ import annotations

from layer1 import butane, identity, sshkeys
from layer1.butane import InstallerPin, NodeKeys
from layer1.model import Flavour, Node, StackConfig

# Where each flavour's Ignition looks (coreos/ignition, internal/providers).
_USER_DATA = {
    Flavour.OPENSTACK: ("config-2", "openstack/latest/user_data"),
    Flavour.KUBEVIRT: ("config-2", "openstack/latest/user_data"),
}


def butane_of(  # noqa: PLR0913, PLR0917 - a node's secrets come one by one
    stack: StackConfig,
    node: Node,
    installer: InstallerPin,
    host_seed: bytes,
    status_seed: bytes,
    layer2_ignition: str | None,
) -> str:
    """Render a node's Butane config from its secrets: two ed25519 seeds of 32 bytes, Layer 2's Ignition."""
    keys = NodeKeys(
        host_private=sshkeys.ed25519_private(host_seed, node.name),
        host_public=sshkeys.ed25519_public(host_seed, node.name),
        status_public=sshkeys.ed25519_public(status_seed, "layer1-status"),
    )
    return butane.render(node, stack.k3s, installer, keys, layer2_ignition)


def label(stack: StackConfig) -> str:
    """Return the ISO's label."""
    return _USER_DATA[stack.images.flatcar.flavour][0]


def user_data_path(stack: StackConfig) -> str:
    """Return where in the ISO the Ignition config goes."""
    return _USER_DATA[stack.images.flatcar.flavour][1]


def seed_file_name(node: Node, butane_text: str) -> str:
    """Name the seed's volume: another content is another name."""
    return f"{node.name}-seed-{identity.content_id(butane_text)}.iso"


def root_file_name(node: Node, butane_text: str) -> str:
    """Name the root disk after the seed that provisioned it."""
    return f"{node.name}-root-{identity.content_id(butane_text)}.qcow2"
