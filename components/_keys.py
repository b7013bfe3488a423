"""SSH keys that a stack makes: a random seed that stays in the state, and what is derived from it."""

from __future__ import annotations

import base64

import pulumi
import pulumi_random as random

from components import _commands
from components._options import child_of
from layer1 import sshkeys


def key_seed(parent: pulumi.Resource, name: str) -> pulumi.Output[bytes]:
    """Make the 32 bytes that an ed25519 key follows from; secret."""
    return random.RandomBytes(name, length=32, opts=child_of(parent)).base64.apply(base64.b64decode)


def private_key(seed: pulumi.Output[bytes], user: str) -> pulumi.Output[str]:
    """Return the private key of a seed; secret."""
    return _commands.secret_text(seed.apply(lambda value: sshkeys.ed25519_private(value, user)))


def public_key(seed: pulumi.Output[bytes], name: str) -> pulumi.Output[str]:
    """Return the public line of a seed's key; no secret."""
    line: pulumi.Output[str] = pulumi.Output.unsecret(
        seed.apply(lambda value: sshkeys.ed25519_public(value, name))
    )
    return line
