"""The stack's output `layer1`: what Layer 2 may rely on, versioned, without secrets."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from layer1.model import BoardNode, Node, Os, StackConfig
from layer1.walls import walls

SCHEMA_VERSION = 1
CONFIG_DIRECTORY = "/etc/rancher/k3s"
CONFIG_FILE = f"{CONFIG_DIRECTORY}/config.yaml"


class _Contract(BaseModel):
    # A reader tolerates what a later minor version adds; `schema_version` refuses what breaks.
    model_config = ConfigDict(extra="ignore", frozen=True)


class WallOutput(_Contract):
    """One wall: whether the plan builds it, and the stack's key that took it away."""

    on: bool
    text: str
    key: str | None


class ImageOutput(_Contract):
    """The image that a node started from."""

    name: str
    version: str
    sha512: str
    verified_by: str


class PathsOutput(_Contract):
    """What Layer 2 writes on the node, and as whom k3s finds it."""

    k3s_config_directory: str
    k3s_config: str


class NodeOutput(_Contract):
    """One node, for Layer 2; a Talos node has no SSH, no k3s and no path to write to.

    A node in a domain has a host, a domain and a MAC; a board of its own has `board` instead, and is there
    to be spoken to once it is `booted`.
    """

    name: str
    os: str
    role: str
    host: str | None
    board: str | None = None
    booted: bool = True
    address: str
    mac: str | None
    uuid: str
    domain: str | None
    ssh_user: str | None
    ssh_host_key: str | None
    paths: PathsOutput | None
    k3s_version: str | None
    image: ImageOutput
    walls: dict[str, WallOutput]


class Layer1Outputs(_Contract):
    """The whole output."""

    schema_version: Literal[1]
    stack: str
    nodes: dict[str, NodeOutput]


def node_output(
    stack: StackConfig, node: Node, *, domain: str, ssh_host_key: str | None, image: dict[str, Any]
) -> dict[str, Any]:
    """Make one node's part of the output, checked by its own model."""
    return _node(
        stack,
        node,
        {
            "host": node.host_name,
            "mac": node.mac,
            "domain": domain,
            "ssh_user": "core" if node.os == Os.FLATCAR else None,
            "ssh_host_key": ssh_host_key,
            "image": image,
        },
    )


def board_output(
    stack: StackConfig, board: BoardNode, *, ssh_host_key: str | None, image: dict[str, Any]
) -> dict[str, Any]:
    """Make one board's part of the output, checked by its own model."""
    return _node(
        stack,
        board,
        {
            "host": None,
            "board": str(board.board),
            "booted": board.booted,
            "mac": None,
            "domain": None,
            "ssh_user": stack.pi.user if board.os == Os.K3S_PIOS else None,
            "ssh_host_key": ssh_host_key,
            "image": image,
        },
    )


def _node(stack: StackConfig, node: Node | BoardNode, own: dict[str, Any]) -> dict[str, Any]:
    k3s = node.os != Os.TALOS
    paths = PathsOutput(k3s_config_directory=CONFIG_DIRECTORY, k3s_config=CONFIG_FILE)
    return NodeOutput.model_validate(
        {
            "name": node.name,
            "os": str(node.os),
            "role": str(node.role),
            "address": node.ip,
            "uuid": node.uuid,
            "paths": paths if k3s else None,
            "k3s_version": stack.k3s.version if k3s else None,
            "walls": {
                wall.name: WallOutput(on=wall.on, text=wall.text, key=wall.key) for wall in walls(stack, node)
            },
            **own,
        }
    ).model_dump(mode="json")


def outputs(stack: str, nodes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Make the whole output, checked by its own model."""
    return Layer1Outputs.model_validate(
        {"schema_version": SCHEMA_VERSION, "stack": stack, "nodes": nodes}
    ).model_dump(mode="json")
