"""TalosBoard: what a booted board with Talos gets over its API; part of a TalosCluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pulumi

from components import _commands
from components._options import child_of
from components._talos_config import machine_config_of
from layer1 import contract, identity
from layer1.model import BoardNode, StackConfig

TOKEN = "layer1:index:TalosBoard"  # noqa: S105 - a Pulumi type token


@dataclass(frozen=True, kw_only=True, slots=True)
class TalosBoardArgs:
    """Arguments of `TalosBoard`.

    Attributes:
        stack: the checked configuration.
        board: which of its boards; booted.
        image_facts: the image that its card was written from.
        secrets: the cluster's secrets; secret.
        talosconfig: the operator's access; secret.
        after: what must have ended well before this board is given a config.
    """

    stack: StackConfig
    board: BoardNode
    image_facts: pulumi.Output[dict[str, Any]]
    secrets: pulumi.Output[str]
    talosconfig: pulumi.Output[str]
    after: Sequence[pulumi.Resource]


class TalosBoard(pulumi.ComponentResource):
    """A board's machine config, handed over in maintenance mode the first time, by the API later."""

    node: pulumi.Output[dict[str, Any]]
    """The board's part of the stack's output `layer1`."""
    applied: pulumi.Resource
    """There once the board's API has answered and taken its machine config."""
    root_id: pulumi.Output[str]
    """Which board it is: the stack does not know when somebody puts another card into it."""
    running_id: pulumi.Output[str]
    """Another one is another machine config on the same board."""

    def __init__(self, name: str, args: TalosBoardArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(TOKEN, f"{name}-talos", None, opts)
        stack, board = args.stack, args.board
        config = machine_config_of(self, name, stack, board, args.secrets)
        self.applied = _commands.task(
            f"{name}-applied",
            "talos-first-config",
            {
                "talosconfig": args.talosconfig,
                "node": board.ip,
                "config": config,
                "fingerprint": board.maintenance_fingerprint,
                "timeout_s": stack.talos.bootstrap_timeout_s,
            },
            opts=child_of(self, depends_on=list(args.after)),
        ).resource
        self.root_id = pulumi.Output.from_input(board.uuid)
        self.running_id = pulumi.Output.unsecret(config.apply(identity.content_id))
        self.node = pulumi.Output.all(args.image_facts, self.applied.id).apply(
            lambda parts: contract.board_output(stack, board, ssh_host_key=None, image=parts[0])
        )
        self.register_outputs({"node": self.node})
