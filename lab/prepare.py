"""Makes ready what a stack with the practice image needs before `pulumi` runs; other stacks need nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from lab import build as image
from lab import serve
from layer1.errors import Layer1Error
from layer1.paths import REPOSITORY, work_dir
from layer1.processes import last_lines, run


def prepare(stack: str) -> list[str]:
    """Build the image, make the lab's SSH key pair and start the server, each unless it is there.

    Returns:
        What was made ready, one line each; empty for a stack that does not use the practice image.
    """
    config = _config(REPOSITORY / f"Pulumi.{stack}.yaml")
    images = config.get("layer1:images") or {}
    if (images.get("flatcar") or {}).get("source") != "practice":
        return []
    url = urlsplit((config.get("layer1:k3s") or {}).get("installer_url") or "")
    if not url.hostname:
        raise Layer1Error(f"Pulumi.{stack}.yaml: layer1:k3s.installer_url: must name the lab's own server")
    return [
        f"practice image: {image.build()}",
        f"SSH key: {_key_pair()}",
        serve.start(url.hostname, url.port or 80),
    ]


def _config(path: Path) -> dict[str, Any]:
    try:
        document = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise Layer1Error(f"{path.name}: no such stack file; copy Pulumi.dev.yaml and change it") from None
    except yaml.YAMLError:
        raise Layer1Error(f"{path.name}: is not YAML") from None
    config = document.get("config") if isinstance(document, dict) else None
    return config if isinstance(config, dict) else {}


def _key_pair() -> Path:
    """Make the key with which people and tests log in to the lab's nodes."""
    folder = work_dir() / "lab"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    private = folder / "id_ed25519"
    if not private.exists():
        result = run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "layer1-lab", "-f", str(private)])
        if result.returncode != 0:
            raise Layer1Error(f"ssh-keygen could not make {private}: {last_lines(result.stderr)}")
    return private
