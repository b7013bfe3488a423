"""PiBareMetalNode: a Raspberry Pi without a hypervisor, from its image file to the running board."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pulumi

from components import _commands
from components._keys import key_seed, private_key, public_key
from components._options import child_of
from layer1 import contract
from layer1.butane import InstallerPin
from layer1.model import BoardNode, Os, StackConfig
from layer1.pi import stack as pi_stack

TOKEN = "layer1:index:PiBareMetalNode"  # noqa: S105 - a Pulumi type token


@dataclass(frozen=True, kw_only=True, slots=True)
class PiBareMetalNodeArgs:
    """Arguments of `PiBareMetalNode`.

    Attributes:
        stack: the checked configuration.
        board: which of its boards.
        installer: the pinned k3s installer; None for a board with Talos.
    """

    stack: StackConfig
    board: BoardNode
    installer: InstallerPin | None = None


class PiBareMetalNode(pulumi.ComponentResource):
    """One board: its image file, the card it is written to where one is named, and the board once it runs.

    A Talos board that is booted gets its config, and its part of the stack's output, from `TalosCluster`.
    """

    node: pulumi.Output[dict[str, Any]]
    """The board's part of the stack's output `layer1`."""
    medium: pulumi.Output[dict[str, Any]]
    """The image file, what it was made from, and what the operator does next."""
    image_facts: pulumi.Output[dict[str, Any]]
    """The verified image that the file was made from."""
    status_private_key: pulumi.Output[str] | None
    """SSH key of the user layer1-status, who may run one read-only script; secret. None with Talos."""

    def __init__(
        self, name: str, args: PiBareMetalNodeArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__(TOKEN, name, None, opts)
        stack, board = args.stack, args.board
        self.status_private_key = None
        settings: pulumi.Output[dict[str, Any]] | None = None
        host_public: pulumi.Output[str] | None = None
        if board.os == Os.K3S_PIOS and args.installer is not None:
            installer = args.installer
            host_seed, status_seed, apply_seed = (
                key_seed(self, f"{name}-{kind}-key") for kind in ("host", "status", "apply")
            )
            self.status_private_key = private_key(status_seed, "layer1-status")
            host_public = public_key(host_seed, board.name)
            settings = pulumi.Output.secret(
                pulumi.Output.all(host_seed, status_seed, apply_seed).apply(
                    lambda seeds: pi_stack.settings(
                        stack,
                        board,
                        installer,
                        host_seed=seeds[0],
                        status_seed=seeds[1],
                        apply_seed=seeds[2],
                    )
                )
            )
        made = _commands.task(
            f"{name}-image",
            "pi-image",
            {
                "board": str(board.board),
                "image": pi_stack.image_request(stack, board),
                "settings": settings,
                **pi_stack.image_file(stack, board),
            },
            undo="pi-image-discard",
            opts=child_of(self),
        )
        written = _commands.plain_facts(made.stdout)
        self.image_facts = written.apply(lambda facts: facts["image"])
        if board.device is not None and not board.booted:
            # Only a card that is not yet in its board; nothing is ever written on destroy.
            _commands.task(
                f"{name}-flash",
                "pi-flash",
                {
                    "image_file": written.apply(lambda facts: facts["image_file"]),
                    "sha256": written.apply(lambda facts: facts["sha256"]),
                    "device": board.device,
                    "confirm_erase": board.confirm_erase,
                },
                opts=child_of(self),
            )
        answered: pulumi.Output[str] | None = None
        if board.booted and settings is not None:
            answered = _commands.task(
                f"{name}-applied",
                "pi-apply",
                {
                    "hostname": board.name,
                    "address": board.ip,
                    "host_key": host_public,
                    "apply_key": private_key(apply_seed, "layer1-apply"),
                    "status_key": self.status_private_key,
                    "timeout_s": board.ready_timeout_s,
                    "settings": settings,
                },
                opts=child_of(self, depends_on=[made.resource]),
            ).resource.id
        self.medium = written.apply(lambda facts: {**facts, "next": pi_stack.next_step(board)})
        self.node = pulumi.Output.all(host_public, self.image_facts, answered).apply(
            lambda parts: contract.board_output(stack, board, ssh_host_key=parts[0], image=parts[1])
        )
        self.register_outputs({"node": self.node})
