"""What a Talos node's seed holds: the ISO by which a nocloud image gets its first machine config."""

from __future__ import annotations

import json
from collections.abc import Mapping

from layer1.errors import RenderError
from layer1.talos.machine_config import MachineSpec

LABEL = "cidata"
"""The volume label that Talos looks for; without such a volume it waits for anybody's config."""

FILES = ("user-data", "meta-data", "network-config")
"""What is on it."""

_NOT_A_CONFIG = ("#cloud-config", "#include")
"""First lines for which Talos ignores the file, or fetches another (nocloud.go, siderolabs/talos)."""


def files(config: str, machine: MachineSpec, instance_id: str) -> dict[str, str]:
    """Return the seed's files by name.

    Talos reads them on its first boot only; then the config lies on the node's own disk.

    Args:
        config: the machine config, validated; secret.
        machine: the node.
        instance_id: the domain's UUID, so that the node knows itself by what the host calls it.

    Raises:
        RenderError: Talos would not take the config for one.
    """
    first = config.partition("\n")[0].strip()
    if not config.strip() or first in _NOT_A_CONFIG:
        raise RenderError(
            f"node {machine.hostname!r}: Talos takes no user-data that is empty or cloud-init's"
        )
    meta_data = {"instance-id": instance_id, "local-hostname": machine.hostname}
    # The same address as in the config, for the time before that is read. Never empty: Talos would then
    # try for ever to read the network's configuration.
    network = {
        "version": 2,
        "ethernets": {
            machine.interface: {
                "dhcp4": False,
                "addresses": [machine.address],
                "gateway4": machine.gateway,
                "nameservers": {"addresses": list(machine.resolvers)},
            }
        },
    }
    return {"user-data": config, "meta-data": _yaml(meta_data), "network-config": _yaml(network)}


def _yaml(document: Mapping[str, object]) -> str:
    # JSON is YAML, and leaves nothing to a YAML writer's taste.
    return json.dumps(document, indent=1) + "\n"
