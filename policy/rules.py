"""Every rule by its name; policy/__main__.py gives them to the engine."""

from __future__ import annotations

from policy import commands, domains, plain_secrets, storage, weaker
from policy.planned import Rule

RULES = (
    Rule(
        name="domain-guarantees",
        description="A domain carries the hardening sheet, and its arguments fit it.",
        kinds=frozenset({domains.DOMAIN}),
        check=domains.guarantees,
    ),
    Rule(
        name="domain-devices",
        description="A domain has no device but its disks, its seed and its network card.",
        kinds=frozenset({domains.DOMAIN}),
        check=domains.devices,
    ),
    Rule(
        name="volume-source",
        description="A volume's content is a verified image, a seed made here, or another volume by its id.",
        kinds=frozenset({storage.VOLUME}),
        check=storage.source,
    ),
    Rule(
        name="volume-private",
        description="Nobody but QEMU and root reads a volume or lists the pool.",
        kinds=frozenset({storage.VOLUME, storage.POOL}),
        check=storage.private,
    ),
    Rule(
        name="protected-data",
        description="A data disk cannot be deleted by a plan.",
        kinds=frozenset({storage.VOLUME}),
        check=storage.protected,
    ),
    Rule(
        name="command-secret",
        description="What a command prints is secret, and is not logged.",
        kinds=frozenset({commands.LOCAL}),
        check=commands.silent,
    ),
    Rule(
        name="host-keys",
        description="The key of every other machine is checked.",
        kinds=frozenset({commands.LIBVIRT, commands.LOCAL, *commands.REMOTE}),
        check=commands.host_keys,
    ),
    Rule(
        name="plain-secret",
        description="No secret is in plain text.",
        kinds=None,
        check=plain_secrets.leaks,
    ),
)
# Not in a lab.
STRONG_WALLS = Rule(
    name="strong-walls",
    description="A domain has every wall.",
    kinds=frozenset({domains.DOMAIN}),
    check=weaker.domain_walls,
)
# Over the whole stack, which has the outputs too, and what each resource is made from.
PLAIN_OUTPUT = Rule(
    name="plain-output",
    description="No secret is in a plain output.",
    kinds=None,
    check=plain_secrets.leaks,
)
OWN_PARTS = (
    Rule(
        name="own-base",
        description="A volume begins as a volume of the stack.",
        kinds=frozenset({storage.VOLUME}),
        check=storage.own_base,
    ),
    Rule(
        name="own-parts",
        description="A domain has volumes and networks of the stack.",
        kinds=frozenset({domains.DOMAIN}),
        check=domains.own_parts,
    ),
)
STRONG_CHOICES = "strong-choices"
