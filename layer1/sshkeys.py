"""SSH keys: checking public ones that an operator gives, making the node's own from 32 random bytes."""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

PLACEHOLDER = "YOUR_SSH_PUBLIC_KEY"
_MIN_RSA_BITS = 3072
_ACCEPTED = {
    "ssh-ed25519": (32,),
    "ssh-rsa": (None, None),
    "ecdsa-sha2-nistp256": (8, 65),
    "ecdsa-sha2-nistp384": (8, 97),
    "ecdsa-sha2-nistp521": (8, 133),
    "sk-ssh-ed25519@openssh.com": (32, None),
    "sk-ecdsa-sha2-nistp256@openssh.com": (8, 65, None),
}
"""Each type with the lengths of the fields after its name; None where they vary."""


def _string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def _read_string(blob: bytes, offset: int) -> tuple[bytes, int]:
    end = offset + 4
    if end > len(blob):
        raise ValueError("ends early")
    (length,) = struct.unpack(">I", blob[offset:end])
    if end + length > len(blob):
        raise ValueError("ends early")
    return blob[end : end + length], end + length


def public_key_problem(text: str) -> str | None:  # noqa: PLR0911 - one return a rule
    """Say what is wrong with an `authorized_keys` line, or None when it is a usable public key.

    The text itself is never part of the answer: a private key may have been pasted by mistake.
    Wire format: RFC 4253 section 6.6, RFC 8709.
    """
    if PLACEHOLDER in text:
        return "is still the placeholder; put your own public key there (`cat ~/.ssh/id_ed25519.pub`)"
    if "PRIVATE KEY" in text:
        return (
            "is a private key; give the public half (the file that ends in .pub), and replace that key pair"
        )
    if not text.isprintable():
        return "holds line breaks or control characters; give one public key on one line"
    parts = text.split(" ", 2)
    if parts[0] not in _ACCEPTED:
        return (
            "must start with the key's type, such as ssh-ed25519 (no options before it; ssh-dss is refused)"
        )
    if len(parts) < 2:
        return "has a type but no key after it; give the whole line of the .pub file"
    try:
        return _blob_problem(parts[0], base64.b64decode(parts[1], validate=True))
    except (binascii.Error, ValueError):
        return "is not a whole key (its base64 part is damaged); copy the line of the .pub file again"


def _blob_problem(kind: str, blob: bytes) -> str | None:
    name, offset = _read_string(blob, 0)
    if name != kind.encode():
        return "names one type and holds another; copy the line of the .pub file again"
    fields: list[bytes] = []
    for length in _ACCEPTED[kind]:
        field, offset = _read_string(blob, offset)
        if length not in (None, len(field)):
            raise ValueError("a field has the wrong length")
        fields.append(field)
    if offset != len(blob):
        raise ValueError("goes on after its end")
    if kind == "ssh-rsa" and int.from_bytes(fields[1]).bit_length() < _MIN_RSA_BITS:
        return f"is an RSA key of fewer than {_MIN_RSA_BITS} bits; make one with `ssh-keygen -t ed25519`"
    return None


def fingerprint(public_key: str) -> str:
    """Return the SHA-256 fingerprint of a public key line, as `ssh-keygen -l` prints it."""
    digest = hashlib.sha256(base64.b64decode(public_key.split(" ")[1])).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def ed25519_public(seed: bytes, comment: str) -> str:
    """Return the public key line of the ed25519 key whose private half is `seed` (32 bytes)."""
    public = Ed25519PrivateKey.from_private_bytes(seed).public_key()
    raw = public.public_bytes(Encoding.Raw, PublicFormat.Raw)
    blob = _string(b"ssh-ed25519") + _string(raw)
    return f"ssh-ed25519 {base64.b64encode(blob).decode()} {comment}"


def ed25519_private(seed: bytes, comment: str) -> str:
    """Return the private key in OpenSSH's own format; the same seed always gives the same text.

    `cryptography` writes a random check value there, which would make every plan differ, hence this
    writer. Format: PROTOCOL.key of OpenSSH.
    """
    key = Ed25519PrivateKey.from_private_bytes(seed).public_key()
    public = key.public_bytes(Encoding.Raw, PublicFormat.Raw)
    check = hashlib.sha256(b"layer1 check value" + seed).digest()[:4]
    inner = check * 2 + _string(b"ssh-ed25519") + _string(public) + _string(seed + public)
    inner += _string(comment.encode())
    inner += bytes(range(1, 1 + -len(inner) % 8))
    blob = b"openssh-key-v1\x00" + _string(b"none") + _string(b"none") + _string(b"") + struct.pack(">I", 1)
    blob += _string(_string(b"ssh-ed25519") + _string(public)) + _string(inner)
    text = base64.b64encode(blob).decode()
    lines = [text[i : i + 70] for i in range(0, len(text), 70)]
    return "\n".join(["-----BEGIN OPENSSH PRIVATE KEY-----", *lines, "-----END OPENSSH PRIVATE KEY-----", ""])
