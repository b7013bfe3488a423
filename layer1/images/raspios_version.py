"""Which Raspberry Pi OS an image is: a signature covers an image's bytes, not its name.

Raspberry Pi signs every image by itself, and no signed text names an image's digest together with its
version. So a mirror can serve an old, genuinely signed image below a new version's address. Two facts tell:

1. The key is chosen by the version's date, so an image of the years of the first key is none of the second's.
2. The time that the signature covers: an image is signed when it is put onto the server. It must have been
   signed between 1 day before its file's date and 7 days after its folder's date. Images of one release are
   weeks apart, so another version's signature lies outside.

What remains: another image that was signed within those days, such as the one with the desktop, the one for
32 bits or that of the other release. What the image says inside tells these apart, and whoever writes a
board's image reads that (release, reference date and stage are on its first partition and in its root). A pin
closes it too: with one, only its exact bytes are used, and the time is not needed.

The SHA-256 beside the image is signed by nobody. It only tells a broken mirror from a broken download.
"""

from __future__ import annotations

import re
from datetime import datetime

from layer1.images.artefact import Artefact
from layer1.images.failure import ArtefactError
from layer1.images.flatcar_version import BoundBy


def bind(artefact: Artefact, signed_at: datetime, *, pinned: bool) -> BoundBy:
    """Decide that an image is the version it is fetched as, and say by what.

    Args:
        artefact: the image as asked for; it says when it may have been signed.
        signed_at: when the image was signed.
        pinned: whether a pin already names the bytes.

    Raises:
        ArtefactError: check "version".
    """
    if pinned:
        return "pin"
    first, last = artefact.signed_between or (signed_at, signed_at)
    if not first <= signed_at <= last:
        raise ArtefactError(
            "version",
            f"{artefact.name} ({artefact.file_name})",
            "the image was not signed when this version was published",
            expected=f"signed from {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC",
            found=f"signed {signed_at:%Y-%m-%d %H:%M} UTC",
            remedy="do not use this source: it serves another image under this name; where you know the "
            f"right digest from elsewhere, `{artefact.command('pin')} --sha512 DIGEST`",
        )
    return "signing time"


def check_sha256(document: bytes, file_name: str, sha256: str, shown: str) -> None:
    """Compare a digest with the SHA-256 in the file beside an image.

    Args:
        document: content of the `.sha256` file.
        file_name: the image.
        sha256: the digest found, 64 hexadecimal digits.
        shown: name of the `.sha256` file for messages.

    Raises:
        ArtefactError: check "digests": not one line about this file, or another digest.
    """
    text = document.decode("utf-8", "replace").strip()
    match = re.fullmatch(r"([0-9A-Fa-f]{64}) [ *](\S+)", text)
    if match is None or match[2] != file_name:
        raise ArtefactError(
            "digests",
            shown,
            f"does not name one SHA-256 of {file_name}",
            expected=f"one line: SHA-256 and {file_name}",
            found=text[:120] or "nothing",
            remedy="use another mirror: this digest belongs to another file",
        )
    if match[1].lower() != sha256:
        raise ArtefactError(
            "digests",
            shown,
            f"names another digest of {file_name}",
            expected=match[1].lower(),
            found=sha256,
            remedy="use another mirror: image and digest are not of the same release",
        )
