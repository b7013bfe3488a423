"""Takes a node that is gone out of Kubernetes' list, which Talos leaves to its administrator.

`talosctl health` fails as long as the list has a node more than the cluster.
"""

from __future__ import annotations

import base64
import tempfile
from pathlib import Path
from typing import Any

import requests
import yaml

from layer1.errors import NodeError

_PARTS = {
    "ca": ("clusters", "cluster", "certificate-authority-data"),
    "certificate": ("users", "user", "client-certificate-data"),
    "key": ("users", "user", "client-key-data"),
}


def forget_node(kubeconfig: str, node: str, timeout_s: float = 30) -> list[str]:
    """Delete the Kubernetes nodes that have this address; none is fine.

    Args:
        kubeconfig: an administrator's, as Talos makes it; secret.
        node: address of the machine that goes.
        timeout_s: seconds for each call.

    Returns:
        The names of what was deleted.

    Raises:
        NodeError: Kubernetes' API did not answer, or refused.
    """
    with tempfile.TemporaryDirectory(prefix="layer1-") as name:  # mode 0700
        session, server = _session(kubeconfig, Path(name))
        try:
            found = _call(session, "GET", f"{server}/api/v1/nodes", timeout_s)
            names = [str(item["metadata"]["name"]) for item in found["items"] if node in _addresses(item)]
            for each in names:
                _call(session, "DELETE", f"{server}/api/v1/nodes/{each}", timeout_s)
        except (requests.RequestException, ValueError, KeyError, TypeError) as error:
            raise NodeError(
                f"{node}: Kubernetes still lists it, for its API at {server} did not do what was asked "
                f"({type(error).__name__}). When it answers again: `kubectl delete node NODE`."
            ) from None
        finally:
            session.close()
    return names


def _session(kubeconfig: str, folder: Path) -> tuple[requests.Session, str]:
    """Return a session with the kubeconfig's certificates, which OpenSSL takes from files only."""
    try:
        document = yaml.safe_load(kubeconfig)
        server = str(document["clusters"][0]["cluster"]["server"]).rstrip("/")
        for part, (group, member, key) in _PARTS.items():
            file = folder / part
            file.touch(mode=0o600)
            file.write_bytes(base64.b64decode(document[group][0][member][key]))
    except (yaml.YAMLError, ValueError, KeyError, TypeError, IndexError):
        raise NodeError("the kubeconfig is not one that Talos makes") from None
    session = requests.Session()
    session.trust_env = False  # neither the internet's proxy nor its authorities
    session.verify = str(folder / "ca")
    session.cert = (str(folder / "certificate"), str(folder / "key"))
    return session, server


def _call(session: requests.Session, method: str, url: str, timeout_s: float) -> dict[str, Any]:
    answer = session.request(method, url, timeout=timeout_s, allow_redirects=False)
    if method == "DELETE" and answer.status_code == requests.codes.not_found:
        return {}
    answer.raise_for_status()
    document: dict[str, Any] = answer.json()
    return document


def _addresses(item: dict[str, Any]) -> list[str]:
    return [str(each["address"]) for each in item["status"].get("addresses", [])]
