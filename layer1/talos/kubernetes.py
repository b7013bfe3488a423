"""Asks the Kubernetes API for the one thing that talosctl cannot do: forget a node that is gone."""

from __future__ import annotations

import base64
import tempfile
from pathlib import Path
from typing import Any

import requests
import yaml

from layer1.errors import NodeError

_CALL_S = 30


def delete_node(kubeconfig: str, name: str) -> bool:
    """Delete a Kubernetes node object; its machine is not touched.

    Args:
        kubeconfig: an administrator's, as Talos makes it: certificate and key in it; secret.
        name: the node's name.

    Returns:
        Whether there was one.

    Raises:
        NodeError: the API could not be asked, or refused.
    """
    parsed = yaml.safe_load(kubeconfig)
    cluster, user = parsed["clusters"][0]["cluster"], parsed["users"][0]["user"]
    with tempfile.TemporaryDirectory(prefix="layer1-") as folder, requests.Session() as http:  # mode 0700
        http.trust_env = False  # the API is on the nodes' network, never behind a proxy
        http.verify = _file(folder, "ca", cluster["certificate-authority-data"])
        http.cert = (
            _file(folder, "certificate", user["client-certificate-data"]),
            _file(folder, "key", user["client-key-data"]),
        )
        url = f"{cluster['server']}/api/v1/nodes/{name}"
        try:
            answer = http.delete(url, timeout=_CALL_S)
        except requests.RequestException as error:
            raise NodeError(
                f"{name}: Kubernetes at {cluster['server']} could not be asked to forget it "
                f"({type(error).__name__}). Mend that and run the same command again."
            ) from None
    if answer.ok or answer.status_code == requests.codes.not_found:
        return answer.ok
    raise NodeError(
        f"{name}: Kubernetes did not forget it: {answer.status_code}, {_message(answer)}. "
        f"`kubectl delete node {name}` by hand, or run the same command again."
    )


def _file(folder: str, name: str, encoded: str) -> str:
    path = Path(folder) / name
    path.touch(mode=0o600)
    path.write_bytes(base64.b64decode(encoded))
    return str(path)


def _message(answer: requests.Response) -> str:
    try:
        said: Any = answer.json()
        return str(said["message"])
    except (ValueError, KeyError, TypeError):
        return "without a word"
