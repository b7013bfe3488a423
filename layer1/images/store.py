"""The store of verified files: named by their SHA-512, read-only, and recorded with what was checked.

Layout of the cache, all of it private to its owner (0700):
    blobs/SHA512.EXT     verified files, 0400; nothing gets here but by a rename after every check
    records/NAME.json    which blob an artefact is, what was checked, and the signatures, 0600
    partial/NAME/        incomplete and unverified files
    locks/NAME.lock      one fetch at a time for each artefact

A hit costs no network. The blob's content is hashed again, unless its modification time, change time, size
and inode are those recorded right after it was hashed: whoever can forge those is the owner of the cache or
root, and could as well forge the record. `verify` always hashes, and runs gpgv and qemu-img again.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from layer1.images import flatcar_version, raspios_version, signature
from layer1.images.artefact import Artefact, SignaturePolicy
from layer1.images.download import (
    CHUNK_BYTES,
    DISK_FULL,
    Downloaded,
    OnProgress,
    Progress,
    Settings,
    discard,
    download,
    download_bytes,
    ignore_progress,
)
from layer1.images.failure import ArtefactError
from layer1.images.inspect import check_format, unpack
from layer1.images.lockfile import Entry, LockFile

VerifiedBy = Literal["signature+pin", "signature", "pin", "manifest"]

_SIDECAR_BYTES = 256 * 1024
_EXTENSION = {"qcow2": "qcow2", "raw": "raw", "script": "sh"}
_LOCK_POLL_S = 0.2
_FETCH_AGAIN = "run the same command again: the file is fetched anew"


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifiedImage:
    """A file that may be used.

    Attributes:
        name: the artefact.
        path: the read-only file, absolute.
        sha512: its digest, of the unpacked file.
        size_bytes: its size.
        virtual_size_bytes: size of the disk it holds; None for a script.
        file_format: qcow2, raw or script.
        verified_by: what vouches for it.
        version: the artefact's version.
        warnings: sentences for the operator, such as a key that expires soon.
    """

    name: str
    path: Path
    sha512: str
    size_bytes: int
    virtual_size_bytes: int | None
    file_format: str
    verified_by: VerifiedBy
    version: str
    warnings: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Return all fields as one line of JSON."""
        return json.dumps({**asdict(self), "path": str(self.path)}, sort_keys=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """How to work, beyond what to fetch.

    Attributes:
        settings: limits of a download.
        lock_timeout_s: how long to wait for another fetch of the same artefact.
        now: present time; replaced in tests.
    """

    settings: Settings = field(default_factory=Settings)
    lock_timeout_s: float = 3600.0
    now: Callable[[], datetime] = lambda: datetime.now(UTC)


class Record(BaseModel):
    """What was checked for one stored artefact; the private side of the store."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    version: str
    url: str
    file_format: Literal["qcow2", "raw", "script"]
    source_sha512: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]
    source_size_bytes: Annotated[int, Field(gt=0)]
    sha512: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]
    size_bytes: Annotated[int, Field(gt=0)]
    virtual_size_bytes: int | None
    checks: tuple[str, ...]
    bound_by: Literal["inside", "signing time", "pin"] | None
    signed_by: str | None
    signed_at: datetime | None
    key_sha256: str | None
    signature: str | None
    digests: str | None
    stat: tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Pinned:
    """What `pin` found and wrote.

    Attributes:
        lock: the lock file as saved.
        entry: the new entry.
        image: the verified file.
        bound_by: what ties a signed image to its version, or None where nobody signs.
        changed: False when the lock file already said this.
    """

    lock: LockFile
    entry: Entry
    image: VerifiedImage
    bound_by: str | None
    changed: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class _Job:
    artefact: Artefact
    pin: str | None
    cache: Path
    options: Options
    on_progress: OnProgress

    @property
    def slug(self) -> str:
        return self.artefact.name.replace("/", "__")

    @property
    def record_path(self) -> Path:
        return self.cache / "records" / f"{self.slug}.json"

    @property
    def partial(self) -> Path:
        return self.cache / "partial" / self.slug

    def blob(self, sha512: str) -> Path:
        return self.cache / "blobs" / f"{sha512}.{_EXTENSION[self.artefact.file_format]}"

    def note(self, message: str) -> None:
        self.on_progress(Progress(kind="note", file=self.artefact.name, message=message))


def ensure(
    artefact: Artefact,
    lock: LockFile,
    cache: Path,
    *,
    on_progress: OnProgress = ignore_progress,
    options: Options | None = None,
) -> VerifiedImage:
    """Return the verified file of an artefact, fetching it where the cache has none.

    Args:
        artefact: what to fetch.
        lock: the pins.
        cache: the store's folder; made where it is missing.
        on_progress: called with every step.
        options: limits.

    Raises:
        ArtefactError: a check failed; nothing unverified stays under a name that a later run would use.
    """
    with _job(artefact, _pinned_sha512(artefact, lock), cache, on_progress, options) as job:
        record = _recorded(job) or _fetch(job)
        return _image(job, record)


def verify(
    artefact: Artefact,
    lock: LockFile,
    cache: Path,
    *,
    on_progress: OnProgress = ignore_progress,
    options: Options | None = None,
) -> VerifiedImage:
    """Check a stored file again from its bytes; no network.

    Its content is hashed and compared with the record, the pin, the manifest and the signed digests; gpgv
    checks the stored signature with the key as it is now; the format is checked. Of a file that was unpacked,
    the packed bytes are gone: the signed digests then vouch for the digest that was recorded at fetching.
    Where only the packed bytes are signed (Raspberry Pi OS), the record vouches for that signature as long as
    the key file is the one it was checked with.

    Raises:
        ArtefactError: it is not stored, or a check failed; what failed is removed from the store.
    """
    with _job(artefact, _pinned_sha512(artefact, lock), cache, on_progress, options) as job:
        record = _load_record(job)
        if record is None:
            raise ArtefactError(
                "cache",
                artefact.name,
                f"is not in the store at {cache}",
                remedy=f"`{artefact.command('fetch')}`",
            )
        if not _current(job, record):
            raise ArtefactError(
                "pinned digest",
                artefact.name,
                "was checked against another pin, manifest or signer, or its version was not bound",
                expected=job.pin or artefact.sha512 or "checks that hold without a pin",
                found=record.source_sha512,
                remedy=f"`{artefact.command('fetch')}`",
            )
        blob = job.blob(record.sha512)
        try:
            record = _rehash(job, record, blob)
            if artefact.signature is not None:
                record = _recheck_signature(job, artefact.signature, record, blob)
            check_format(blob, artefact)
        except ArtefactError as error:
            # A missing program, or a key that has expired since, says nothing against the file.
            expired = (error.found or "").startswith(("EXPKEYSIG", "EXPSIG"))
            if error.check in {"cache", "signature", "digests", "format"} and not expired:
                _forget(job, record)
            raise
        return _image(job, record)


def pin(  # noqa: PLR0913 - the operator's words, one each
    artefact: Artefact,
    lock: LockFile,
    cache: Path,
    *,
    sha512: str | None = None,
    overwrite: bool = False,
    on_progress: OnProgress = ignore_progress,
    options: Options | None = None,
) -> Pinned:
    """Fetch an artefact, check all that can be checked, and write its digest to the lock file.

    Args:
        artefact: what to pin.
        lock: the lock file; it is read again before it is written.
        cache: the store's folder.
        sha512: digest of the file as fetched, known from elsewhere; then it must be that.
        overwrite: whether an entry with another digest may be replaced.
        on_progress: called with every step.
        options: limits.

    Raises:
        ArtefactError: a check failed, another digest is pinned, or only plain http would vouch.
    """
    if sha512 is not None and not re.fullmatch(r"[0-9a-f]{128}", sha512):
        raise ArtefactError(
            "arguments",
            "--sha512",
            "not a SHA-512",
            expected="128 hexadecimal digits in lower case",
            found=sha512[:140],
            remedy="copy the digest from where it is published",
        )
    vouched = artefact.signature is not None or artefact.sha512 is not None or sha512 is not None
    parts = urlsplit(artefact.url)
    # On the loopback interface nobody stands between.
    if not vouched and parts.scheme == "http" and parts.hostname not in {"127.0.0.1", "::1", "localhost"}:
        raise ArtefactError(
            "unpinned",
            artefact.url,
            "nobody signs it, and plain http lets anybody on the way change it",
            expected="an https or file address, or --sha512",
            found="http",
            remedy=f"`{artefact.command('pin')} --sha512 DIGEST`, with the digest from a source you trust",
        )
    with _job(artefact, sha512, cache, on_progress, options) as job:
        # Without a digest from elsewhere a stored file counts only if it was bound without a pin.
        record = None if not vouched else _recorded(job)
        record = record or _fetch(job)
        image = _image(job, record)
    if artefact.signature is not None:
        image = replace(image, verified_by="signature+pin")
    entry = Entry(
        url=artefact.url,
        sha512=record.source_sha512,
        size_bytes=record.source_size_bytes,
        file_format=artefact.file_format,
        virtual_size_bytes=record.virtual_size_bytes,
        signed_by=record.signed_by,
        signed_at=record.signed_at,
        pinned_at=job.options.now().astimezone(UTC).replace(microsecond=0),
    )
    with _exclusive_folder(lock.path.parent):
        fresh = LockFile.load(lock.path)
        old = fresh.entries.get(artefact.name)
        if old is not None and old.sha512 == entry.sha512:
            return Pinned(lock=fresh, entry=old, image=image, bound_by=record.bound_by, changed=False)
        if old is not None and not overwrite:
            raise ArtefactError(
                "pinned digest",
                artefact.name,
                "another digest is pinned already",
                expected=old.sha512,
                found=entry.sha512,
                remedy=f"find out why it changed; `{artefact.command('pin')} --replace` writes the new one",
            )
        fresh = fresh.with_entry(artefact.name, entry)
        fresh.save()
    return Pinned(lock=fresh, entry=entry, image=image, bound_by=record.bound_by, changed=True)


def records(cache: Path) -> list[Record]:
    """Return what the store holds, by name; a damaged record is left out."""
    found = []
    for path in sorted((cache / "records").glob("*.json")):
        with contextlib.suppress(OSError, ValidationError):
            found.append(Record.model_validate_json(path.read_bytes()))
    return found


# --- fetching


def _pinned_sha512(artefact: Artefact, lock: LockFile) -> str | None:
    """Return the pinned digest; refuse what nothing at all would vouch for."""
    entry = lock.entries.get(artefact.name)
    if entry is None and artefact.signature is None and artefact.sha512 is None:
        raise ArtefactError(
            "unpinned",
            artefact.name,
            "nobody signs it, and the lock file does not pin it",
            expected=f"an entry in {lock.path}",
            found="none",
            remedy=f"`{artefact.command('pin')}`, then review and commit the entry",
        )
    if entry is not None and entry.file_format != artefact.file_format:
        raise ArtefactError(
            "pinned digest",
            artefact.name,
            f"{lock.path} pins it in another format",
            expected=entry.file_format,
            found=artefact.file_format,
            remedy=f"`{artefact.command('pin')} --replace`",
        )
    return entry.sha512 if entry else None


def _fetch(job: _Job) -> Record:
    """Download, check everything, and only then give the file its name."""
    artefact = job.artefact
    if artefact.signature is not None:
        signature.read_keys(artefact.signature)  # a missing key is told before the long download
    old = _load_record(job)
    source = download(
        artefact.url,
        job.partial,
        max_bytes=artefact.max_download_bytes,
        settings=job.options.settings,
        on_progress=job.on_progress,
        retry_command=artefact.command("fetch"),
    )
    unpacked = job.partial / "unpacked"
    try:
        _check_digest(job, source)
        facts, sidecars = None, _Sidecars()
        if artefact.signature is not None:
            facts, sidecars, said = _check_signature(job, artefact.signature, source)
        result = source
        if artefact.compression != "none":
            unpacked.unlink(missing_ok=True)
            result = unpack(source.path, unpacked, artefact)
        virtual_size = check_format(result.path, artefact)
        bound_by = _bind(job, facts, said, result.path) if facts is not None else None
        blob = job.blob(result.sha512)
        result.path.chmod(0o400)
        result.path.replace(blob)
        _sync_folder(blob.parent)
        record = Record(
            name=artefact.name,
            version=artefact.version,
            url=artefact.url,
            file_format=artefact.file_format,
            source_sha512=source.sha512,
            source_size_bytes=source.size_bytes,
            sha512=result.sha512,
            size_bytes=result.size_bytes,
            virtual_size_bytes=virtual_size,
            checks=_checks(job, bound_by),
            bound_by=bound_by,
            signed_by=facts.primary if facts else None,
            signed_at=facts.signed_at if facts else None,
            key_sha256=signature.key_file_digest(artefact.signature) if artefact.signature else None,
            signature=sidecars.signature,
            digests=sidecars.digests,
            stat=_stat(blob),
        )
        _save_record(job, record)
        if old is not None and old.sha512 != record.sha512:
            _remove_unused(job, old.sha512)
        return record
    finally:
        discard(artefact.url, job.partial)
        unpacked.unlink(missing_ok=True)


def _bind(
    job: _Job, facts: signature.SignatureFacts, said: tuple[str, datetime] | None, image: Path
) -> flatcar_version.BoundBy:
    """Decide that a signed image is of the version it is fetched as, and say by what."""
    if job.artefact.signed_between is not None:
        return raspios_version.bind(job.artefact, facts.signed_at, pinned=job.pin is not None)
    inside = flatcar_version.read_inside(image, job.artefact, job.partial)
    return flatcar_version.bind(job.artefact, inside, facts.signed_at, said)


def _check_digest(job: _Job, source: Downloaded) -> None:
    artefact = job.artefact
    if artefact.size_bytes not in {None, source.size_bytes}:
        raise ArtefactError(
            "manifest",
            artefact.url,
            "has another size than its manifest says",
            expected=f"{artefact.size_bytes} bytes",
            found=f"{source.size_bytes} bytes",
            remedy="build the image again",
        )
    if artefact.sha512 not in {None, source.sha512}:
        raise ArtefactError(
            "manifest",
            artefact.url,
            "is not the file of its manifest",
            expected=artefact.sha512,
            found=source.sha512,
            remedy="build the image again",
        )
    if job.pin not in {None, source.sha512}:
        raise ArtefactError(
            "pinned digest",
            f"{artefact.name} ({artefact.url})",
            "is not the pinned file",
            expected=job.pin,
            found=source.sha512,
            remedy="do not use this source; where the change is known and wanted, "
            f"`{artefact.command('pin')} --replace`",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Sidecars:
    signature: str | None = None
    digests: str | None = None


def _check_signature(
    job: _Job, policy: SignaturePolicy, source: Downloaded
) -> tuple[signature.SignatureFacts, _Sidecars, tuple[str, datetime] | None]:
    artefact = job.artefact
    with signature.Verifier(policy) as verifier:
        signed = _sidecar(job, artefact.url + policy.signature_suffix)
        facts = verifier.detached(source.path, signed, artefact.url)
        digests = None
        if policy.digests_suffix is not None:
            digests = _sidecar(job, artefact.url + policy.digests_suffix)
            _check_signed_digests(artefact, policy.digests_suffix, verifier, digests, source.sha512)
        if policy.sha256_suffix is not None:
            sha256_url = artefact.url + policy.sha256_suffix
            raspios_version.check_sha256(
                _sidecar(job, sha256_url), artefact.file_name, source.sha256, sha256_url
            )
        said = None
        # A pin names the bytes, and with them the version.
        if job.pin is None and policy.version_file is not None:
            said = _signed_version(job, policy, policy.version_file, verifier)
    encoded = _Sidecars(
        signature=base64.b64encode(signed).decode(),
        digests=None if digests is None else base64.b64encode(digests).decode(),
    )
    return facts, encoded, said


def _check_signed_digests(
    artefact: Artefact, suffix: str, verifier: signature.Verifier, document: bytes, sha512: str
) -> None:
    url = artefact.url + suffix
    text, _ = verifier.clearsigned(document, url)
    check_digests(text, artefact.file_name, sha512, url)


def _signed_version(
    job: _Job, policy: SignaturePolicy, version_file: str, verifier: signature.Verifier
) -> tuple[str, datetime]:
    """Return what the signed version file says, and when it was signed."""
    url = job.artefact.sibling(version_file)
    document = _sidecar(job, url)
    local = job.partial / "version.txt"
    local.write_bytes(document)
    try:
        facts = verifier.detached(local, _sidecar(job, url + policy.signature_suffix), url)
    finally:
        local.unlink()
    return flatcar_version.parse_version_txt(document.decode("utf-8", "replace"), url), facts.signed_at


def _sidecar(job: _Job, url: str) -> bytes:
    return download_bytes(
        url,
        job.partial,
        max_bytes=_SIDECAR_BYTES,
        settings=job.options.settings,
        retry_command=job.artefact.command("fetch"),
    )


def check_digests(text: str, file_name: str, sha512: str, shown: str) -> None:
    """Compare a digest with the SHA-512 that a signed DIGESTS text names for a file.

    Args:
        text: the signed text, as gpgv gave it.
        file_name: the file whose digest is sought.
        sha512: the digest found, 128 hexadecimal digits.
        shown: name of the DIGESTS file for messages.

    Raises:
        ArtefactError: check "digests": no such entry, more than one, or another digest.
    """
    # The text names MD5 and SHA-1 too; the length tells SHA-512.
    pattern = re.compile(r"^([0-9A-Fa-f]{128}) [ *](\S+)$", re.MULTILINE)
    named = [
        digest.lower() for digest, name in pattern.findall(text.replace("\r\n", "\n")) if name == file_name
    ]
    if len(named) != 1:
        others = sorted({name for _, name in pattern.findall(text)})
        raise ArtefactError(
            "digests",
            shown,
            f"does not name one SHA-512 of {file_name}",
            expected=f"one SHA-512 of {file_name}",
            found=f"{len(named)} of it; names {', '.join(others) or 'no file'}",
            remedy="use another mirror: these digests belong to another file",
        )
    if named[0] != sha512:
        raise ArtefactError(
            "digests",
            shown,
            f"names another digest of {file_name}",
            expected=named[0],
            found=sha512,
            remedy="use another mirror: image and digests are not of the same release",
        )


# --- what is stored


def _recorded(job: _Job) -> Record | None:
    """Return the record of a stored file that still holds, else None; a changed file is removed."""
    record = _load_record(job)
    if record is None or not _current(job, record):
        return None
    blob = job.blob(record.sha512)
    if not blob.exists():
        return None
    try:
        if _stat(blob) != record.stat:
            record = _rehash(job, record, blob)
    except ArtefactError as error:
        job.note(f"{str(error).splitlines()[0]}; it is fetched again")
        _forget(job, record)
        return None
    policy = job.artefact.signature
    if policy is None or record.key_sha256 == signature.key_file_digest(policy):
        return record
    try:
        return _recheck_signature(job, policy, record, blob)
    except ArtefactError as error:
        if error.check in {"tool", "key"}:
            raise
        job.note(f"the key file has changed: {str(error).splitlines()[0]}; it is fetched again")
        return None


def _current(job: _Job, record: Record) -> bool:
    """Tell whether a record's checks are those that would be made now."""
    artefact = job.artefact
    if record.name != artefact.name or record.file_format != artefact.file_format:
        return False
    if job.pin not in {None, record.source_sha512} or artefact.sha512 not in {None, record.source_sha512}:
        return False
    policy = artefact.signature
    if policy is None:
        return True
    if record.signed_by != policy.primary_fingerprint:
        return False
    # What a pin bound to its version is not bound once the pin is gone.
    return job.pin is not None or record.bound_by != "pin"


def _rehash(job: _Job, record: Record, blob: Path) -> Record:
    """Hash a stored file; return its record with the new times."""
    sha512 = hashlib.sha512()
    try:
        if blob.is_symlink():
            raise OSError("is a symbolic link")  # noqa: TRY301 - told as any other fault of the file
        with blob.open("rb") as stream:
            before = _stat(blob)
            while data := stream.read(CHUNK_BYTES):
                sha512.update(data)
    except OSError as error:
        raise ArtefactError("cache", str(blob), f"cannot be read: {error}", remedy=_FETCH_AGAIN) from None
    if sha512.hexdigest() != record.sha512:
        raise ArtefactError(
            "cache",
            str(blob),
            "the stored file was changed",
            expected=record.sha512,
            found=sha512.hexdigest(),
            remedy=_FETCH_AGAIN,
        )
    # The times of before the hashing: a write meanwhile shows as a difference next time.
    if blob.stat().st_mode & 0o777 != 0o400:
        blob.chmod(0o400)
        before = _stat(blob)
    if before != record.stat:
        record = record.model_copy(update={"stat": before})
        _save_record(job, record)
    return record


def _recheck_signature(job: _Job, policy: SignaturePolicy, record: Record, blob: Path) -> Record:
    """Check the stored signatures with the key as it is now; return the record that says so."""
    artefact = job.artefact
    key = signature.key_file_digest(policy)
    packed = artefact.compression != "none"
    if packed and policy.digests_suffix is None and record.key_sha256 != key:
        raise ArtefactError(
            "signature",
            artefact.name,
            "the key file has changed, and the packed file that is signed is not kept",
            expected=f"the key file with SHA-256 {record.key_sha256}",
            found=key,
            remedy=_FETCH_AGAIN,
        )
    with signature.Verifier(policy) as verifier:
        if not packed:
            verifier.detached(blob, base64.b64decode(record.signature or ""), artefact.name)
        if policy.digests_suffix is not None:
            digests = base64.b64decode(record.digests or "")
            _check_signed_digests(artefact, policy.digests_suffix, verifier, digests, record.source_sha512)
    if record.key_sha256 != key:
        record = record.model_copy(update={"key_sha256": key})
        _save_record(job, record)
    return record


def _load_record(job: _Job) -> Record | None:
    try:
        return Record.model_validate_json(job.record_path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError):
        job.note(f"the record {job.record_path.name} is damaged; it is not used")
        return None


def _save_record(job: _Job, record: Record) -> None:
    temporary = job.record_path.with_suffix(".tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(record.model_dump_json(indent=1).encode())
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(job.record_path)
    finally:
        temporary.unlink(missing_ok=True)


def _forget(job: _Job, record: Record) -> None:
    """Drop a record, then its blob: a blob without a record is never used."""
    with contextlib.suppress(OSError):
        job.record_path.unlink(missing_ok=True)
        _remove_unused(job, record.sha512)


def _remove_unused(job: _Job, sha512: str) -> None:
    if not any(other.sha512 == sha512 for other in records(job.cache)):
        with contextlib.suppress(OSError):
            job.blob(sha512).unlink(missing_ok=True)


def _image(job: _Job, record: Record) -> VerifiedImage:
    artefact = job.artefact
    warnings: tuple[str, ...] = ()
    if artefact.signature is not None:
        policy = artefact.signature
        sentence = signature.expiry_warning(signature.read_keys(policy), policy.key_file, job.options.now())
        warnings = (sentence,) if sentence else ()
    return VerifiedImage(
        name=artefact.name,
        path=job.blob(record.sha512).absolute(),
        sha512=record.sha512,
        size_bytes=record.size_bytes,
        virtual_size_bytes=record.virtual_size_bytes,
        file_format=record.file_format,
        verified_by=_verified_by(job),
        version=artefact.version,
        warnings=warnings,
    )


def _verified_by(job: _Job) -> VerifiedBy:
    if job.artefact.signature is not None:
        return "signature" if job.pin is None else "signature+pin"
    return "manifest" if job.artefact.sha512 is not None else "pin"


def _checks(job: _Job, bound_by: str | None) -> tuple[str, ...]:
    checks = ["format"]
    policy = job.artefact.signature
    if policy is not None:
        checks.append("signature")
        checks += ["digests"] if policy.digests_suffix is not None else []
        checks += ["sha256 file"] if policy.sha256_suffix is not None else []
    if bound_by is not None:
        checks.append(f"version by {bound_by}")
    if job.artefact.sha512 is not None:
        checks.append("manifest")
    if job.pin is not None:
        checks.append("pinned digest")
    return tuple(sorted(checks))


# --- folders and locks


@contextlib.contextmanager
def _job(
    artefact: Artefact, pin_sha512: str | None, cache: Path, on_progress: OnProgress, options: Options | None
) -> Iterator[_Job]:
    job = _Job(
        artefact=artefact,
        pin=pin_sha512,
        cache=cache.absolute(),
        options=options or Options(),
        on_progress=on_progress,
    )
    _prepare(job.cache)
    with _locked(job):
        try:
            job.partial.mkdir(mode=0o700, exist_ok=True)
            for stale in job.partial.glob("inside-*"):
                shutil.rmtree(stale, ignore_errors=True)
            yield job
        except OSError as error:
            raise ArtefactError(
                "disk space" if error.errno in DISK_FULL else "cache",
                error.filename or str(job.cache),
                f"the store cannot be used: {error}",
                remedy="check room, owner and mode of the cache folder, or choose another with --cache",
            ) from None


def _prepare(cache: Path) -> None:
    remedy = f"make {cache} a folder of your own (chown, chmod 700), or choose another with --cache"
    try:
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in (cache, *(cache / part for part in ("blobs", "records", "partial", "locks"))):
            folder.mkdir(mode=0o700, exist_ok=True)
            status = folder.stat()
            if status.st_uid != os.geteuid():
                raise ArtefactError(
                    "cache",
                    str(folder),
                    "belongs to somebody else",
                    expected=f"owner {os.geteuid()}",
                    found=f"owner {status.st_uid}",
                    remedy=remedy,
                )
            if status.st_mode & 0o077:
                folder.chmod(0o700)
    except OSError as error:
        raise ArtefactError("cache", str(cache), f"cannot be used: {error}", remedy=remedy) from None


@contextlib.contextmanager
def _locked(job: _Job) -> Iterator[None]:
    path = job.cache / "locks" / f"{job.slug}.lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ArtefactError(
            "cache", str(path), f"cannot be opened: {error}", remedy="check the cache"
        ) from None
    try:
        _acquire(descriptor, job)
        yield
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, job: _Job) -> None:
    end = time.monotonic() + job.options.lock_timeout_s
    told = False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pass
        else:
            return
        if not told:
            job.note("another process works on it; waiting")
            told = True
        if time.monotonic() > end:
            raise ArtefactError(
                "lock",
                job.artefact.name,
                "another process works on it",
                expected=f"the end of that within {job.options.lock_timeout_s:g} s",
                found="it goes on",
                remedy="wait for it or end it, then run the command again",
            )
        time.sleep(_LOCK_POLL_S)


@contextlib.contextmanager
def _exclusive_folder(folder: Path) -> Iterator[None]:
    """Keep a second `pin` from writing between our reading and our writing."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ArtefactError(
            "lock file", str(folder), f"cannot be opened: {error}", remedy="check the path given with --lock"
        ) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _stat(path: Path) -> tuple[int, int, int, int]:
    status = path.stat(follow_symlinks=False)
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
