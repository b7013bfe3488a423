"""Hands a node its machine config; the same config again changes nothing."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from layer1.errors import NodeError
from layer1.talos.machine_config import without_secrets
from layer1.talos.talosctl_api import CALL_S, Answer, Deadline, Talosctl, retry, session, unreachable

FINGERPRINT = re.compile(r"[A-Za-z0-9+/]{43}=")
"""How a board's console shows its certificate's fingerprint: the SHA-256 of its public key, as base64."""

_WRONG_FINGERPRINT = "doesn't match the provided fingerprints"
_NOT_A_CONFIG = "code = InvalidArgument"


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
    with session(talosconfig) as talosctl, _private_file(config) as file:
        _apply(talosctl, node, file, deadline)


def first_config(talosconfig: str, node: str, config: str, fingerprint: str | None, timeout_s: float) -> None:
    """Give a board in maintenance mode its first config, and wait until it is the cluster's with it.

    In maintenance mode a board knows nobody: it takes a config from whoever is first, and shows a certificate
    that it made itself. The fingerprint proves that the config goes to this board. Without one it goes to
    whatever answers at the address, and whoever plays the board there gets the cluster's keys: all of them
    from a control plane's config, the joining token from a worker's. So without a fingerprint the network
    between here and the board must be trusted.

    The board makes another certificate, with another fingerprint, at each boot and when a time server sets
    its clock; its console shows each, the last one counts.

    A node that answers with the cluster's certificate already gets the config the ordinary way; there is
    nothing then for the fingerprint to prove. So this may be run again after any end.

    Args:
        talosconfig: the cluster's; secret.
        node: its address, in maintenance mode and afterwards.
        config: the validated machine config; secret.
        fingerprint: of the board's certificate, as its console shows it; None takes any.
        timeout_s: seconds for all of it.

    Raises:
        NodeError: no answer in time, another fingerprint, another cluster's node, or it refused the config;
            with its last answer.
    """
    if fingerprint is not None and not FINGERPRINT.fullmatch(fingerprint):
        raise NodeError(
            f"{node}: {fingerprint!r} is no fingerprint of a certificate: it has 44 characters and ends with "
            "=, as the board's console shows it after `server certificate issued`"
        )
    deadline = Deadline(timeout_s)
    with session(talosconfig) as talosctl, _private_file(config) as file:
        taken = False
        while True:
            answer = _knock(talosctl, node, deadline)
            if answer.good:
                break
            if answer.stranger and talosctl.in_maintenance(node):
                if not taken:
                    answer = talosctl.hand_over(node, file, fingerprint, deadline.limit(CALL_S))
                    if _WRONG_FINGERPRINT in answer.said and not _waits(talosctl, node, deadline):
                        continue  # a config that it took before, unheard, has given it another certificate
                    _refuse(node, answer, fingerprint, config)
                    taken = answer.good
            elif reason := talosctl.permanent(node, answer):
                raise NodeError(f"{node}: not configured: {reason}. Its last answer:\n  {answer.said}")
            if not deadline.left:
                what = (
                    "it took its machine config and did not come up with it (its console says why)"
                    if taken
                    else "did not take its machine config"
                )
                raise unreachable(talosctl, node, what, answer, deadline)
            deadline.poll()
        # Over mutual TLS, and so to a node of the cluster: it has this config now, whoever gave it one.
        _apply(talosctl, node, file, deadline)


def _knock(talosctl: Talosctl, node: str, deadline: Deadline) -> Answer:
    return talosctl.ask("version", node=node, timeout_s=deadline.limit(CALL_S))


def _waits(talosctl: Talosctl, node: str, deadline: Deadline) -> bool:
    """Say whether a node still waits in maintenance mode."""
    return _knock(talosctl, node, deadline).stranger and talosctl.in_maintenance(node)


def _apply(talosctl: Talosctl, node: str, file: Path, deadline: Deadline) -> None:
    retry(
        talosctl,
        node,
        deadline,
        "did not take its machine config",
        lambda: talosctl.ask(
            "apply-config", f"--file={file}", "--mode=auto", node=node, timeout_s=deadline.limit(CALL_S)
        ),
    )


def _refuse(node: str, answer: Answer, fingerprint: str | None, config: str) -> None:
    """Stop at an answer that will be the same again."""
    if _WRONG_FINGERPRINT in answer.said:
        raise NodeError(
            f"{node}: not configured: its certificate has not the fingerprint {fingerprint}. "
            "Nothing was sent. The board's console shows the right one after `server certificate issued`: in "
            "the last such line, for each boot and each setting of the clock makes another. If it shows this "
            "one, something else answers at the address."
        )
    if _NOT_A_CONFIG in answer.said:
        said = without_secrets(answer.said, config)
        raise NodeError(f"{node}: it refused its machine config:\n  {said}")


@contextmanager
def _private_file(config: str) -> Iterator[Path]:
    """Give a config as a file that only its owner can read, in a folder of its own, only meanwhile."""
    with tempfile.TemporaryDirectory(prefix="layer1-") as folder:  # mode 0700
        file = Path(folder) / "machine-config.yaml"
        file.touch(mode=0o600)
        file.write_text(config)
        yield file
