"""Finds secrets that are not marked as such: they would be in the state, the log and the outputs as they are.

Only what has a known form can be found: a plain random word looks like any other word.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from typing import Any

from policy.planned import Planned

_FORMS = {
    "a private key": re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY"),
    "an age key": re.compile(r"AGE-SECRET-KEY-1"),
    "a secret of Talos": re.compile(
        r"(aescbc|secretbox)EncryptionSecret[\"']?\s*:|(bootstraptoken|trustdinfo)[\"']?\s*:", re.IGNORECASE
    ),
    "a token of a cluster": re.compile(
        r"token[\"']?\s*:\s*[\"']?[a-z0-9]{6}\.[a-z0-9]{16}\b|\bK10[0-9a-f]{64}::|client-key-data\s*:\s*\S"
    ),
    "the hash of a password": re.compile(r"\$(?:5|6|y|gy|2[aby])\$[./A-Za-z0-9$=,]{8}"),
    "an address with a password": re.compile(r"[a-z]://[^\s/:@]+:[^\s/@]+@"),
}
# How "-----BEGIN " begins in base64; whether a key or a certificate follows, only decoding tells.
_ENCODED = re.compile(r"LS0tLS1CRUdJTi[A-Za-z0-9+/]{34}")


def leaks(planned: Planned) -> Iterator[str]:
    """Say which values of a resource hold a secret in plain text; never the value itself."""
    for place, text in _texts("", planned.values):
        for form in _forms(text):
            yield f"{place}: holds {form} in plain text; mark it with pulumi.Output.secret"


def _forms(text: str) -> Iterator[str]:
    decoded = "\n".join(map(_decoded, _ENCODED.findall(text)))
    for form, pattern in _FORMS.items():
        if pattern.search(text) or pattern.search(decoded):
            yield form


def _decoded(encoded: str) -> str:
    try:
        return base64.b64decode(encoded).decode("ascii", errors="replace")
    except binascii.Error:
        return ""


def _texts(place: str, value: Any) -> Iterator[tuple[str, str]]:  # noqa: ANN401 - any JSON value
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts(f"{place}.{key}" if place else str(key), item)
    elif isinstance(value, list):
        for position, item in enumerate(value):
            yield from _texts(f"{place}[{position}]", item)
