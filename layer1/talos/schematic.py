"""The Image Factory's schematics: which Talos image, named by a digest that needs no factory.

A schematic's id is the SHA-256 of its canonical YAML, as siderolabs/image-factory writes it
(pkg/schematic/schematic.go: the fields in the order of the struct, empty ones left out, four spaces).

The public factory shows a schematic to everybody who has its id, so a secret can never be in one: the fields
that would hold it are refused, and so is every field that is not known here.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import requests
import yaml

from layer1.images.failure import ArtefactError
from layer1.paths import ASSETS

FACTORY_URL = "https://factory.talos.dev"
DEFAULT = ASSETS / "talos" / "schematic.yaml"
BOARDS = {board: ASSETS / "talos" / f"schematic-{board}.yaml" for board in ("rpi4", "rpi5")}

# What the factory's YAML writer leaves without quotes, on the narrow side; the rest is refused, not guessed.
_PLAIN = re.compile(r"(?!--)[A-Za-z0-9-][A-Za-z0-9_./=,:@+-]*(?<!:)")
_LETTER_FIRST = re.compile(r"[A-Za-z]")
# Several lines, which it writes as a block: no blank at the start or a line's end, no empty line last.
_BLOCK = re.compile(r"(?! )[ -~]*[!-~](\n+[ -~]*[!-~])*\n?")
_WORDS = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}
_ID = re.compile(r"[0-9a-f]{64}")
_PUBLIC = "and the factory shows every schematic to everybody; give the configuration to the running node"
_EMBEDDED = "embeddedMachineConfiguration"
_EMBEDDING_ARGUMENTS = ("talos.config.inline", "talos.config.early")


def read(path: Path = DEFAULT) -> str:
    """Return a schematic file's text.

    Raises:
        ArtefactError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ArtefactError(
            "schematic",
            str(path),
            f"cannot be read: {error}",
            remedy="name a file such as those in assets/talos",
        ) from None


def canonical(text: str) -> str:
    """Return a schematic's canonical YAML: comments, order and spelling gone.

    Texts that YAML would quote are refused: how the factory writes those is not reproduced here, and a wrong
    guess would name another image.

    Raises:
        ArtefactError: not YAML, an unknown field, one that would make a secret public, or a value whose
            canonical form is not known here.
    """
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise _fault(f"not YAML: {error}") from None
    top = _fields(document or {}, "schematic", ("owner", "overlay", "customization"))
    lines: list[str] = []
    if top.get("owner"):
        lines.append(f"owner: {_plain(top['owner'], 'owner')}")
    lines += _overlay(top.get("overlay") or {})
    inner = _customization(top.get("customization") or {})
    lines += ["customization:", *inner] if inner else ["customization: {}"]
    return "\n".join(lines) + "\n"


def schematic_id(text: str) -> str:
    """Return a schematic's id, 64 hexadecimal digits, without asking anybody.

    Raises:
        ArtefactError: as `canonical`.
    """
    return hashlib.sha256(canonical(text).encode()).hexdigest()


def compare(own_id: str, answer: str, factory: str) -> None:
    """Hold a factory's answer against the id computed here.

    Raises:
        ArtefactError: they differ; both are named.
    """
    if own_id != answer:
        raise ArtefactError(
            "schematic",
            factory,
            "the factory gives this schematic another id than Layer 1 computes",
            expected=own_id,
            found=answer[:200],
            remedy="use no image of it: either the factory does not build what the file says, or its rules "
            "changed; compare with the schematic that it shows",
        )


def confirm(text: str, factory: str = FACTORY_URL, *, timeout_s: float = 30.0) -> str:
    """Give a schematic to a factory, which must name it as Layer 1 does; return the id.

    A factory builds only what it was given once, so this also makes the image available.

    Args:
        text: the schematic; what goes out is its canonical form.
        factory: the factory's address.
        timeout_s: seconds for the connection, and between two parts of the answer.

    Raises:
        ArtefactError: no answer, another answer than an id, or another id.
    """
    own_id = schematic_id(text)
    url = f"{factory.rstrip('/')}/schematics"
    try:
        # A redirect would hand the request to somebody else.
        response = requests.post(url, data=canonical(text).encode(), timeout=timeout_s, allow_redirects=False)
        answer = response.json() if response.status_code == requests.codes.created else None
        found: object = f"status {response.status_code}"
    except requests.RequestException as error:
        # Not the whole error: it repeats addresses of proxies.
        answer, found = None, type(error).__name__
    value = answer.get("id") if isinstance(answer, dict) else None
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise ArtefactError(
            "schematic",
            url,
            "the factory did not answer with an id",
            expected=own_id,
            found=found,
            remedy="try again later, or take the image from a mirror with --base-url",
        )
    compare(own_id, value, url)
    return own_id


def _overlay(value: Any) -> list[str]:  # noqa: ANN401
    overlay = _fields(value, "overlay", ("image", "name", "options"))
    if not overlay:
        return []
    if not overlay.get("image") or not overlay.get("name"):
        raise _fault("overlay needs image and name")
    lines = ["overlay:", *(f"    {key}: {_plain(overlay[key], key)}" for key in ("image", "name"))]
    known = ("configTxt", "configTxtAppend")
    options = _fields(overlay.get("options") or {}, "overlay.options", known)
    if options:
        lines.append("    options:")
    for key in sorted(options):
        lines += _text(options[key], key)
    return lines


def _customization(value: Any) -> list[str]:  # noqa: ANN401
    known = ("extraKernelArgs", "meta", "systemExtensions", "secureboot")
    fields = _fields(value, "customization", known)
    lines: list[str] = []
    if arguments := _items(fields.get("extraKernelArgs"), "extraKernelArgs"):
        for argument in arguments:
            if str(argument).startswith(_EMBEDDING_ARGUMENTS):
                raise _fault(f"extraKernelArgs: {str(argument).partition('=')[0]} holds secrets, {_PUBLIC}")
        lines += ["    extraKernelArgs:"]
        lines += [f"        - {_plain(argument, 'extraKernelArgs')}" for argument in arguments]
    if entries := _items(fields.get("meta"), "meta"):
        lines.append("    meta:")
        for entry in entries:
            meta = _fields(entry, "meta", ("key", "value"))
            key = meta.get("key")
            if type(key) is not int or not 0 <= key <= 255:
                raise _fault("meta: key must be a whole number between 0 and 255")
            lines += [f"        - key: {key}", f"          value: {_plain(meta.get('value'), 'meta')}"]
    extensions = _fields(fields.get("systemExtensions") or {}, "systemExtensions", ("officialExtensions",))
    if names := _items(extensions.get("officialExtensions"), "officialExtensions"):
        lines += ["    systemExtensions:", "        officialExtensions:"]
        lines += [f"            - {_plain(name, 'officialExtensions')}" for name in names]
    known_keys = "includeWellKnownCertificates"
    flag = _fields(fields.get("secureboot") or {}, "secureboot", (known_keys,)).get(known_keys) or False
    if not isinstance(flag, bool):
        raise _fault(f"{known_keys} must be true or false")
    return lines + (["    secureboot:", f"        {known_keys}: true"] if flag else [])


def _fields(value: Any, name: str, known: tuple[str, ...]) -> dict[str, Any]:  # noqa: ANN401
    if not isinstance(value, dict):
        raise _fault(f"{name} must be a mapping")
    if _EMBEDDED in value:
        raise _fault(f"{name} has {_EMBEDDED}, which holds secrets, {_PUBLIC}")
    if unknown := sorted(str(key) for key in value.keys() - set(known)):
        raise _fault(f"{name} has {', '.join(unknown)}, whose part in the id is not known here")
    return value


def _items(value: Any, name: str) -> list[Any]:  # noqa: ANN401
    if value is None:
        return []
    if not isinstance(value, list):
        raise _fault(f"{name} must be a list")
    return value


def _plain(value: Any, name: str) -> str:  # noqa: ANN401
    plain = isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _WORDS
    # Without a letter at the start or a '=' it might be a number or a date, which YAML would quote.
    if not plain or not (_LETTER_FIRST.match(value) or "=" in value):
        raise _fault(f"{name}: only a plain text is known here (letters, digits and _ . / = , : @ + -)")
    return str(value)


def _text(value: Any, key: str) -> list[str]:  # noqa: ANN401
    """Return an overlay's option, which may have several lines."""
    if not isinstance(value, str) or "\n" not in value:
        return [f"        {key}: {_plain(value, key)}"]
    if not _BLOCK.fullmatch(value):
        raise _fault(
            f"{key}: only plain lines are known here (no blank at the start or at a line's end, no tab, no "
            "empty line last)"
        )
    # The mark tells whether the text ends with its last line or with the line's end.
    mark = "|" if value.endswith("\n") else "|-"
    lines = value.removesuffix("\n").split("\n")
    return [f"        {key}: {mark}", *(f"            {line}" if line else "" for line in lines)]


def _fault(problem: str) -> ArtefactError:
    return ArtefactError(
        "schematic", "the schematic", problem, remedy="write it as the examples in assets/talos do"
    )
