"""Hands a running node its machine config; the same config again changes nothing."""

from __future__ import annotations

import tempfile
from pathlib import Path

from layer1.talos.talosctl_api import CALL_S, Deadline, retry, session


def apply_config(talosconfig: str, node: str, config: str, timeout_s: float) -> None:
    """Wait until a node's API answers over mutual TLS, then give it its config (`--mode=auto`).

    Talos takes what it can at once and reboots for the rest; its seed it never reads again.

    Args:
        talosconfig: the cluster's; secret.
        node: its address.
        config: the validated machine config; secret.
        timeout_s: seconds for all of it.

    Raises:
        NodeError: no answer in time, or it will never take it; with its last answer.
    """
    deadline = Deadline(timeout_s)
    with session(talosconfig) as talosctl, tempfile.TemporaryDirectory(prefix="layer1-") as folder:
        file = Path(folder) / "machine-config.yaml"
        file.touch(mode=0o600)
        file.write_text(config)
        retry(
            talosctl,
            node,
            deadline,
            "did not take its machine config",
            lambda: talosctl.ask(
                "apply-config", f"--file={file}", "--mode=auto", node=node, timeout_s=deadline.limit(CALL_S)
            ),
        )
