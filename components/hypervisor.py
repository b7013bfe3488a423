"""Hypervisor: what a stack needs once on each libvirt host."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import pulumi

from components import _commands, _libvirt
from components._options import child_of
from layer1.supply import ImagePlan

TOKEN = "layer1:index:Hypervisor"  # noqa: S105 - a Pulumi type token


@dataclass(frozen=True, kw_only=True, slots=True)
class HypervisorArgs:
    """Arguments of `Hypervisor`.

    Attributes:
        uri: libvirt URI.
        prefix: name of the pool and the network.
        pool_directory: absolute path of a directory that does not exist yet; the stack makes and removes it.
        network_mode: libvirt's forward mode, `nat` or `none`.
        network_cidr: the nodes' network; its first address is the host's.
        bridge: name of the bridge, at most 15 characters.
        images: the images that nodes on this host start from.
    """

    uri: str
    prefix: str
    pool_directory: str
    network_mode: str
    network_cidr: str
    bridge: str
    images: Collection[ImagePlan]


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseImage:
    """An image on the host.

    Attributes:
        volume: the base volume, shared by every root disk that starts from it.
        facts: the image's part of the stack's output.
    """

    volume: _libvirt.Volume
    facts: pulumi.Output[dict[str, Any]]


class Hypervisor(pulumi.ComponentResource):
    """A host's connection, pool, network, and one base volume for each image."""

    provider: _libvirt.Provider
    """The connection."""
    pool: _libvirt.Pool
    """The stack's own pool."""
    network: _libvirt.Network
    """The nodes' network."""
    base_images: dict[str, BaseImage]
    """Each image by its plan's key."""
    uri: str
    """The libvirt URI."""

    def __init__(self, name: str, args: HypervisorArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(TOKEN, name, None, opts)
        self.uri = args.uri
        self.provider = _libvirt.provider(f"{name}-libvirt", args.uri, self)
        claim = _commands.task(
            f"{name}-claim",
            "claim-pool",
            {"uri": args.uri, "name": args.prefix, "directory": args.pool_directory},
            opts=child_of(self),
        )
        self.pool = _libvirt.pool(
            f"{name}-pool",
            args.prefix,
            args.pool_directory,
            # After the claim: libvirt would take over a directory that is somebody's.
            child_of(self, provider=self.provider, depends_on=[claim.resource], delete_before_replace=True),
        )
        self.network = _libvirt.network(
            f"{name}-network",
            args.prefix,
            mode=args.network_mode,
            cidr=args.network_cidr,
            bridge=args.bridge,
            opts=child_of(self, provider=self.provider, delete_before_replace=True),
        )
        if any(image.outlives for image in args.images):
            # Old base volumes are in no state any more; they go with the stack, before its pool does.
            _commands.task(
                f"{name}-bases",
                "keep-bases",
                {"uri": args.uri, "pool": self.pool.name, "prefix": "talos-"},
                undo="drop-bases",
                opts=child_of(self, depends_on=[self.pool]),
            )
        self.base_images = {image.key: self._base_image(name, image) for image in args.images}
        self.register_outputs({"pool": self.pool.name, "network": self.network.name})

    def _base_image(self, name: str, image: ImagePlan) -> BaseImage:
        fetched = _commands.task(f"{name}-{image.key}-image", "image", image.request, opts=child_of(self))
        facts = _commands.plain_facts(fetched.stdout)
        volume = _libvirt.uploaded_volume(
            f"{name}-{image.key}-base",
            image.file_name,
            self.pool.name,
            source=facts["path"],
            volume_format=image.volume_format,
            opts=child_of(
                self, provider=self.provider, delete_before_replace=True, retain_on_delete=image.outlives
            ),
        )
        return BaseImage(volume=volume, facts=facts)
