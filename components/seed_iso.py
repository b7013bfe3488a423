"""SeedIso: a node's first config, as an ISO of our own, uploaded as a volume.

Not `libvirt.CloudInitDisk`, whose Read downloads the ISO each time and hangs; docs/adr/0002-seed-iso.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pulumi

from components import _commands, _libvirt
from components._options import child_of

TOKEN = "layer1:index:SeedIso"  # noqa: S105 - a Pulumi type token


@dataclass(frozen=True, kw_only=True, slots=True)
class SeedIsoArgs:
    """Arguments of `SeedIso`.

    Attributes:
        file_name: name of the staged ISO; must differ whenever the content does, for bytes are not compared.
        label: ISO label, by which the guest finds it.
        files: text by path within the ISO; may be secret.
        pool: name of the libvirt pool.
        volume_name: the volume's name where it must outlast a changed content; by default the file's.
        provider: the connection to the host.
    """

    file_name: pulumi.Input[str]
    label: str
    files: Mapping[str, pulumi.Input[str]]
    pool: pulumi.Input[str]
    volume_name: pulumi.Input[str] | None = None
    provider: _libvirt.Provider


class SeedIso(pulumi.ComponentResource):
    """Makes the ISO (0600), uploads it as a volume (0600), and removes the local copy."""

    volume: _libvirt.Volume
    """The uploaded ISO."""

    def __init__(self, name: str, args: SeedIsoArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(TOKEN, name, None, opts)
        staged = _commands.task(
            f"{name}-iso",
            "seed",
            {"file_name": args.file_name, "label": args.label, "files": dict(args.files)},
            undo="seed-discard",
            triggers=[args.file_name],
            opts=child_of(self),
        )
        path = pulumi.Output.unsecret(staged.stdout)
        self.volume = _libvirt.uploaded_volume(
            f"{name}-volume",
            args.file_name if args.volume_name is None else args.volume_name,
            args.pool,
            source=path,
            volume_format="iso",
            # The provider adopts a volume of the same name: the old one must be gone first.
            opts=child_of(self, provider=args.provider, delete_before_replace=True),
        )
        _commands.task(
            f"{name}-unstage",
            "seed-unstage",
            {"path": path},
            triggers=[args.file_name],
            # Not before the upload, which reads the file.
            opts=child_of(self, depends_on=[self.volume]),
        )
        self.register_outputs({"volume_id": self.volume.id})
