"""Renders the Flatcar node's Butane config from its commented template."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from layer1.model import K3sConfig, Node, UpdateStrategy
from layer1.paths import ASSETS
from layer1.templates import substitute

TEMPLATE = ASSETS / "butane" / "flatcar-node.bu.yaml"
_UPDATE_CONF = {
    UpdateStrategy.OFF: "SERVER=disabled\nREBOOT_STRATEGY=off\n",
    UpdateStrategy.STAGE: "REBOOT_STRATEGY=off\n",
    UpdateStrategy.REBOOT: "REBOOT_STRATEGY=reboot\n",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeKeys:
    """The SSH keys that the stack makes for a node; `host_private` is secret."""

    host_private: str
    host_public: str
    status_public: str


@dataclass(frozen=True, kw_only=True, slots=True)
class InstallerPin:
    """Where the k3s installer is, and the digest without which it does not run."""

    url: str
    sha512: str
    releases_url: str


def render(
    node: Node, k3s: K3sConfig, installer: InstallerPin, keys: NodeKeys, layer2_ignition: str | None = None
) -> str:
    """Render a node's Butane config: comments gone, same input same bytes.

    Args:
        node: the node.
        k3s: which k3s.
        installer: the pinned installer.
        keys: the node's SSH keys.
        layer2_ignition: Layer 2's Ignition config as JSON text, merged over ours; secret.

    Returns:
        Butane YAML (variant flatcar 1.1.0); secret, for it holds the host key.
    """
    scripts = {name: (ASSETS / "butane" / name).read_text() for name in ("k3s-install.sh", "status.sh")}
    values: dict[str, Any] = {
        "HOSTNAME": node.name,
        "SSH_AUTHORIZED_KEYS": list(node.ssh_authorized_keys),
        "SSH_HOST_KEY": keys.host_private,
        "SSH_HOST_KEY_PUBLIC": keys.host_public,
        "STATUS_KEY_PUBLIC": keys.status_public,
        "UPDATE_CONF": _UPDATE_CONF[node.updates],
        "MASK_UPDATE_ENGINE": node.updates == UpdateStrategy.OFF,
        "MASK_LOCKSMITHD": node.updates != UpdateStrategy.REBOOT,
        "K3S_INSTALLER_URL": installer.url,
        "K3S_INSTALLER_SHA512": installer.sha512,
        "K3S_RELEASES_URL": installer.releases_url,
        "K3S_VERSION": k3s.version,
        "K3S_INSTALL_SCRIPT": scripts["k3s-install.sh"],
        "STATUS_SCRIPT": scripts["status.sh"],
        "LAYER2_IGNITION": [] if layer2_ignition is None else [{"source": _data_url(layer2_ignition)}],
    }
    tree = substitute(load_template(TEMPLATE), values)
    # JSON is YAML, and leaves nothing to a YAML writer's taste.
    return json.dumps(tree, indent=1, ensure_ascii=False) + "\n"


def _data_url(text: str) -> str:
    """Inline a config so that any Ignition version passes: butane knows only some, ours checks them all."""
    return "data:;base64," + base64.b64encode(text.encode()).decode()


def load_template(path: Path) -> Any:  # noqa: ANN401
    """Read a Butane template; modes such as 0700 are octal there, as Butane reads them."""
    return yaml.safe_load(path.read_text())
