"""The lock file: which bytes each pinned artefact is."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

import yaml
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from layer1.images.failure import ArtefactError

_MAX_BYTES = 1024**2
_REMEDY = "correct the entry, or remove it and write it again with `python -m layer1 image pin …`"

Name = Annotated[
    str, Field(pattern=r"^[a-z0-9][A-Za-z0-9.+_-]*(/[A-Za-z0-9][A-Za-z0-9.+_-]*)+$", max_length=200)
]
_NAME: TypeAdapter[str] = TypeAdapter(Name)


class Entry(BaseModel):
    """One pinned artefact.

    Attributes:
        url: where it was fetched when it was pinned; another source may serve the same bytes.
        sha512: SHA-512 of the file as fetched, 128 hexadecimal digits.
        size_bytes: its size.
        file_format: qcow2, raw or script.
        virtual_size_bytes: size of the disk it holds; absent for a script.
        signed_by: primary fingerprint of the signer, absent where nobody signs.
        signed_at: when it was signed, UTC.
        pinned_at: when the entry was written, UTC.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: Annotated[str, Field(pattern=r"^(https?|file)://\S+$")]
    sha512: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]
    size_bytes: Annotated[int, Field(gt=0)]
    file_format: Literal["qcow2", "raw", "script"]
    virtual_size_bytes: Annotated[int, Field(gt=0)] | None = None
    signed_by: Annotated[str, Field(pattern=r"^[0-9A-F]{40}$")] | None = None
    signed_at: AwareDatetime | None = None
    pinned_at: AwareDatetime


class _Loader(yaml.BaseLoader):
    """YAML without surprises: text only, no aliases, no key twice."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.constructor.ConstructorError(
                None,
                None,
                "aliases are not allowed",
                self.peek_event().start_mark,  # type: ignore[no-untyped-call]
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002, RUF100
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key is not a word", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key.value!r} is there twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


@dataclass(frozen=True, kw_only=True, slots=True)
class LockFile:
    """The pinned artefacts and the comment at the head of the file.

    Attributes:
        path: the file; it need not exist before the first `save`.
        entries: entry by artefact name.
        header: the comment lines at the top, kept as they are.
    """

    path: Path
    entries: Mapping[str, Entry] = field(default_factory=lambda: MappingProxyType({}))
    header: str = ""

    @classmethod
    def load(cls, path: Path) -> LockFile:
        """Read and check a lock file.

        Args:
            path: the file; a missing one is an error, so that a typing mistake cannot unpin anything.

        Raises:
            ArtefactError: not readable, not YAML, or an entry is wrong; every wrong entry is named.
        """
        try:
            with path.open("rb") as stream:
                data = stream.read(_MAX_BYTES + 1)
            text = data.decode("utf-8")
        except (OSError, ValueError) as error:
            raise _fault(path, f"cannot be read: {error}") from None
        if len(data) > _MAX_BYTES:
            raise _fault(path, f"larger than {_MAX_BYTES} bytes")
        return cls.parse(text, path)

    @classmethod
    def parse(cls, text: str, path: Path) -> LockFile:
        """Check the text of a lock file; `path` is for messages and for `save`.

        Raises:
            ArtefactError: not YAML, or an entry is wrong; every wrong entry is named.
        """
        try:
            document = yaml.load(text, _Loader)  # noqa: S506 - a BaseLoader: it makes text only
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise _fault(path, f"not YAML: {error}") from None
        if not isinstance(document, dict) or set(document) != {"version", "entries"}:
            raise _fault(path, "must hold the keys 'version' and 'entries' and no other")
        if document["version"] != "1":
            raise _fault(path, "unknown version of the lock file", expected="1", found=document["version"])
        raw = document["entries"]
        if raw in ("", "{}"):
            raw = {}
        if not isinstance(raw, dict):
            raise _fault(path, "'entries' must be a mapping from artefact name to entry")
        entries: dict[str, Entry] = {}
        faults: list[str] = []
        for name, value in raw.items():
            try:
                entries[_NAME.validate_python(name)] = Entry.model_validate(value)
            except ValidationError as error:
                faults += [
                    f"entry {name!r}: {'.'.join(map(str, fault['loc'])) or 'name or form'}: {fault['msg']}"
                    for fault in error.errors()
                ]
        if faults:
            raise _fault(path, "; ".join(faults))
        return cls(path=path, entries=MappingProxyType(entries), header=_header(text))

    def with_entry(self, name: str, entry: Entry) -> LockFile:
        """Return a lock file that has this entry too, or instead of the one of that name."""
        _NAME.validate_python(name)
        return LockFile(
            path=self.path, header=self.header, entries=MappingProxyType({**self.entries, name: entry})
        )

    def text(self) -> str:
        """Return the file's text: header, then the entries in the order of their names."""
        entries = {
            name: {
                key: value
                for key, value in self.entries[name].model_dump(mode="json").items()
                if value is not None
            }
            for name in sorted(self.entries)
        }
        body = yaml.safe_dump(
            {"version": 1, "entries": entries}, sort_keys=False, default_flow_style=False, width=200
        )
        return self.header + body

    def save(self) -> None:
        """Write the file in one step: a reader sees the old text or the new one, never half.

        Raises:
            ArtefactError: the folder cannot be written.
        """
        temporary: str | None = None
        try:
            descriptor, temporary = tempfile.mkstemp(prefix=f".{self.path.name}.", dir=self.path.parent)
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                stream.write(self.text())
                stream.flush()
                os.fchmod(stream.fileno(), 0o644)
                os.fsync(stream.fileno())
            Path(temporary).replace(self.path)
        except OSError as error:
            if temporary is not None:
                with contextlib.suppress(OSError):
                    Path(temporary).unlink()
            raise ArtefactError(
                "lock file",
                str(self.path),
                f"cannot be written: {error}",
                remedy="make its folder writable and have room on it, then run the command again",
            ) from None


def _header(text: str) -> str:
    return "".join(_comments(text))


def _comments(text: str) -> Iterator[str]:
    for line in text.splitlines(keepends=True):
        if line.strip() and not line.startswith("#"):
            return
        yield line if line.endswith("\n") else line + "\n"


def _fault(path: Path, problem: str, *, expected: object = None, found: object = None) -> ArtefactError:
    return ArtefactError("lock file", str(path), problem, expected=expected, found=found, remedy=_REMEDY)
