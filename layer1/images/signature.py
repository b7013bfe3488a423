"""Signatures: gpgv decides, its status lines are read, and only the pinned key counts."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from layer1.images.artefact import SignaturePolicy
from layer1.images.failure import ArtefactError

WARN_BEFORE = timedelta(days=90)
_TIMEOUT_S = 600
_AGAIN = "nothing was kept; fetch it again, from another source if it happens twice"

# OpenPGP hash numbers that may carry a signature: SHA-256, SHA-384, SHA-512, SHA-224 (RFC 4880, 9.4).
_STRONG_HASHES = frozenset({"8", "9", "10", "11"})
_REFUSING = {
    "BADSIG": "the signature does not belong to these bytes",
    "EXPSIG": "the signature has expired",
    "EXPKEYSIG": "the signer's key has expired",
    "REVKEYSIG": "the signer's key was revoked",
    "ERRSIG": "the signature cannot be checked: its key is not the pinned one, or its algorithm is unknown",
    "NO_PUBKEY": "the signer is not the pinned key",
    "NODATA": "there is no signature in the signature file",
    "UNEXPECTED": "the signature file is malformed",
    "FAILURE": "gpgv failed",
}


@dataclass(frozen=True, slots=True)
class StatusLine:
    """One line of gpgv's `--status-fd`: keyword and arguments."""

    keyword: str
    arguments: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class SignatureFacts:
    """What gpgv vouches for.

    Attributes:
        primary: fingerprint of the signer's primary key.
        signing_key: fingerprint of the key or subkey that signed.
        signed_at: creation time that the signature itself covers, UTC.
    """

    primary: str
    signing_key: str
    signed_at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class SigningKey:
    """A key or subkey of the pinned key file that may sign.

    Attributes:
        fingerprint: 40 hexadecimal digits.
        expires_at: end of its life, UTC, or None.
        usable: neither revoked, disabled nor expired, as gpg sees it now.
    """

    fingerprint: str
    expires_at: datetime | None
    usable: bool


def parse_status(text: str) -> list[StatusLine]:
    """Return the status lines in gpgv's output; every other line is left out.

    Args:
        text: what gpgv wrote to its status descriptor.
    """
    lines = []
    # Not splitlines(): a user id may hold characters that Python takes for line ends.
    for line in text.split("\n"):
        prefix, _, rest = line.partition(" ")
        words = rest.split(" ")
        if prefix == "[GNUPG:]" and words[0]:
            lines.append(StatusLine(words[0], tuple(word for word in words[1:] if word)))
    return lines


def judge(  # noqa: PLR0913 - what is judged, and by what
    status: list[StatusLine],
    exit_code: int,
    policy: SignaturePolicy,
    file: str,
    *,
    clearsigned: bool,
    detail: str = "",
) -> SignatureFacts:
    """Decide on gpgv's status lines.

    Accepted is exactly one signature, good, with a VALIDSIG whose last field is the pinned primary
    fingerprint, over a strong hash, of the expected class, with nothing against it and exit code 0.

    Args:
        status: gpgv's status lines (GnuPG doc/DETAILS).
        exit_code: gpgv's exit code.
        policy: whose signature is required.
        file: name of the signed file, for messages.
        clearsigned: whether the text is inside the signature file. A detached signature must bring no text
            of its own: gpgv would then check that text and leave the file unread.
        detail: gpgv's own words, for messages.

    Raises:
        ArtefactError: check "signature"; says why.
    """

    def refuse(problem: str, expected: object = None, found: object = None) -> ArtefactError:
        return ArtefactError("signature", file, problem, expected=expected, found=found, remedy=_AGAIN)

    by_keyword: dict[str, list[StatusLine]] = {}
    for line in status:
        by_keyword.setdefault(line.keyword, []).append(line)
    wanted = f"one good signature of primary key {policy.primary_fingerprint}"
    for keyword, reason in _REFUSING.items():
        if keyword in by_keyword:
            arguments = by_keyword[keyword][0].arguments
            raise refuse(reason, wanted, f"{keyword} {' '.join(arguments[:1])}".strip())
    valid, good = by_keyword.get("VALIDSIG", []), by_keyword.get("GOODSIG", [])
    if len(valid) != 1 or len(good) != 1 or len(by_keyword.get("NEWSIG", [])) > 1:
        found = f"{len(good)} good, {len(valid)} valid signatures{': ' + detail if detail else ''}"
        raise refuse("not exactly one valid signature", wanted, found)
    fields = valid[0].arguments
    if len(fields) != 10:
        raise refuse("gpgv's VALIDSIG line has another form", "10 fields", f"{len(fields)} fields")
    signing_key, created, hash_number, signature_class, primary = (fields[i] for i in (0, 2, 7, 8, 9))
    if primary != policy.primary_fingerprint:
        raise refuse("signed by another key", policy.primary_fingerprint, primary)
    if hash_number not in _STRONG_HASHES:
        raise refuse("signed over a weak hash", "SHA-224 or stronger", f"OpenPGP hash {hash_number}")
    plaintexts = len(by_keyword.get("PLAINTEXT", []))
    if clearsigned and (signature_class != "01" or plaintexts != 1):
        found = f"class {signature_class}, {plaintexts} texts"
        raise refuse("not one clearsigned text", "class 01, 1 text", found)
    if not clearsigned and (signature_class != "00" or plaintexts):
        found = f"class {signature_class}, {plaintexts} texts"
        raise refuse("not a detached signature of the file", "class 00, no text of its own", found)
    if exit_code != 0:
        raise refuse("gpgv refused", "exit code 0", f"exit code {exit_code}{': ' + detail if detail else ''}")
    try:
        # gpgv writes seconds since the epoch, or ISO 8601 basic form after 2106.
        signed_at = (
            datetime.strptime(created, "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
            if "T" in created
            else datetime.fromtimestamp(int(created), UTC)
        )
    except (ValueError, OverflowError, OSError):
        raise refuse("the time of signing cannot be read", "seconds since 1970", created) from None
    return SignatureFacts(primary=primary, signing_key=signing_key, signed_at=signed_at)


class Verifier:
    """gpgv with a keyring that holds the pinned key alone, in a private temporary folder.

    Use as a context manager: `with Verifier(policy) as verifier: verifier.detached(...)`.
    """

    def __init__(self, policy: SignaturePolicy) -> None:
        self.policy = policy
        self._stack = contextlib.ExitStack()
        self._folder = Path()

    def __enter__(self) -> Verifier:
        """Make the keyring.

        Raises:
            ArtefactError: the key file is missing, holds no key, another one, or more than one.
        """
        self._folder = self._stack.enter_context(_private_folder())
        try:
            _check_key(self.policy, self._folder)
            _run(
                ["gpg", "--dearmor", "--output", str(self._folder / "pinned.gpg"), str(self.policy.key_file)],
                self._folder,
                remedy=self.policy.key_remedy,
            )
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def detached(self, file: Path, signature: bytes, shown: str) -> SignatureFacts:
        """Check a detached signature over a file.

        Args:
            file: the signed file.
            signature: content of the `.sig` file.
            shown: name of the file for messages.

        Raises:
            ArtefactError: check "signature".
        """
        signature_file = self._folder / "file.sig"
        signature_file.write_bytes(signature)
        result = self._gpgv([str(signature_file), str(file.resolve())])
        return judge(*result[:2], self.policy, shown, clearsigned=False, detail=result[2])

    def clearsigned(self, document: bytes, shown: str) -> tuple[str, SignatureFacts]:
        """Check a clearsigned document and return the text that is signed, as gpgv gives it.

        Whatever stands before, after or between is not in that text.

        Args:
            document: content of the `.asc` file.
            shown: name of the file for messages.

        Raises:
            ArtefactError: check "signature".
        """
        source, output = self._folder / "document.asc", self._folder / "document.txt"
        source.write_bytes(document)
        output.unlink(missing_ok=True)
        result = self._gpgv(["--output", str(output), str(source)])
        facts = judge(*result[:2], self.policy, shown, clearsigned=True, detail=result[2])
        try:
            return output.read_text(encoding="utf-8"), facts
        except (OSError, ValueError) as error:
            raise ArtefactError(
                "signature", shown, f"the signed text cannot be read: {error}", remedy=_AGAIN
            ) from None

    def _gpgv(self, arguments: list[str]) -> tuple[list[StatusLine], int, str]:
        keyring = str(self._folder / "pinned.gpg")
        result = _run(
            ["gpgv", "--status-fd", "1", "--keyring", keyring, *arguments], self._folder, check=False
        )
        detail = " / ".join(line.strip() for line in result.stderr.splitlines()[-2:])
        return parse_status(result.stdout), result.returncode, detail


def read_keys(policy: SignaturePolicy) -> list[SigningKey]:
    """Return the keys of the pinned key file that may sign, with their ends of life.

    Raises:
        ArtefactError: the key file is missing, or is not the pinned key alone.
    """
    with _private_folder() as folder:
        return _check_key(policy, folder)


def expiry_warning(keys: list[SigningKey], key_file: Path, now: datetime) -> str | None:
    """Return one sentence when the last usable signing key ends within 90 days, else None.

    Args:
        keys: what `read_keys` returned.
        key_file: where they are, for the sentence.
        now: present time, with a time zone.
    """
    ends = [key.expires_at for key in keys if key.usable]
    if any(end is None for end in ends):
        return None
    last = max((end for end in ends if end is not None), default=None)
    advice = f"replace {key_file} by the signer's current key (same primary fingerprint)"
    if last is None or last <= now:
        return f"no key in {key_file} can sign any more: newer images will be refused; {advice}"
    if last - now <= WARN_BEFORE:
        left = (last - now).days
        return f"the signing key in {key_file} expires on {last:%Y-%m-%d}, in {left} days; {advice}"
    return None


def key_file_digest(policy: SignaturePolicy) -> str:
    """Return the SHA-256 of the key file: a changed key means that signatures are checked again.

    Raises:
        ArtefactError: the file cannot be read.
    """
    try:
        return hashlib.sha256(policy.key_file.read_bytes()).hexdigest()
    except OSError as error:
        raise ArtefactError(
            "key",
            str(policy.key_file),
            f"cannot be read: {error.strerror or error}",
            expected=f"the public key {policy.primary_fingerprint}",
            found="none",
            remedy=policy.key_remedy,
        ) from None


def install_key(source: Path, policies: Iterable[SignaturePolicy]) -> SignaturePolicy:
    """Put a downloaded public key into the place of the policy that pins it, and return that policy.

    Only the key itself is written: other people's signatures on it and subkeys that cannot sign are left out.

    Args:
        source: the file, armoured or binary.
        policies: those whose keys are sought.

    Raises:
        ArtefactError: check "key": the file holds another key, none, more than one, or cannot be read.
    """
    known = {policy.primary_fingerprint: policy for policy in policies}
    with _private_folder() as folder:
        found, _ = _list_keys(source, folder)
        if len(found) != 1 or found[0] not in known:
            raise ArtefactError(
                "key",
                str(source),
                "does not hold one pinned key and no other",
                expected=" or ".join(known),
                found=", ".join(found) or "no key",
                remedy="download the key again, from another source",
            )
        policy = known[found[0]]
        _run(["gpg", "--import", str(source)], folder, remedy=policy.key_remedy)
        export = ["--export-options", "export-minimal", "--output", str(folder / "key.asc")]
        _run(["gpg", "--armor", *export, "--export", found[0]], folder, remedy=policy.key_remedy)
        _check_key(replace(policy, key_file=folder / "key.asc"), folder)
        _write_atomically(policy.key_file, (folder / "key.asc").read_bytes())
    return policy


def _write_atomically(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.new")
    try:
        temporary.write_bytes(data)
        temporary.chmod(0o644)
        os.replace(temporary, path)  # noqa: PTH105 - says that it replaces
    except OSError as error:
        raise ArtefactError(
            "key", str(path), f"cannot be written: {error}", remedy="make its folder writable"
        ) from None
    finally:
        temporary.unlink(missing_ok=True)


def _check_key(policy: SignaturePolicy, folder: Path) -> list[SigningKey]:
    key_file_digest(policy)
    primaries, keys = _list_keys(policy.key_file, folder)
    if primaries != [policy.primary_fingerprint]:
        raise ArtefactError(
            "key",
            str(policy.key_file),
            "the key file does not hold the pinned key and no other",
            expected=policy.primary_fingerprint,
            found=", ".join(primaries) or "no key",
            remedy=policy.key_remedy,
        )
    return keys


def _list_keys(key_file: Path, folder: Path) -> tuple[list[str], list[SigningKey]]:
    """Return the fingerprints of the primary keys in a file, and the keys and subkeys that may sign."""
    listing = _run(["gpg", "--with-colons", "--show-keys", str(key_file)], folder, check=False).stdout
    primaries: list[str] = []
    keys: list[SigningKey] = []
    pending: list[str] | None = None
    for line in listing.split("\n"):
        fields = line.split(":")
        if fields[0] in {"pub", "sub", "sec", "ssb"} and len(fields) > 11:
            pending = fields
        elif fields[0] == "fpr" and len(fields) > 9 and pending is not None:
            if pending[0] in {"pub", "sec"}:
                primaries.append(fields[9])
            # Lower-case letters are the key's own abilities; capitals are those of the whole key.
            if "s" in pending[11]:
                end = pending[6]
                keys.append(
                    SigningKey(
                        fingerprint=fields[9],
                        expires_at=datetime.fromtimestamp(int(end), UTC) if end.isdigit() else None,
                        usable=pending[1] not in {"r", "e", "d", "i", "n"},
                    )
                )
            pending = None
    return primaries, keys


@contextlib.contextmanager
def _private_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="layer1-gpg-") as folder:
        yield Path(folder)


def _run(
    command: list[str], home: Path, *, check: bool = True, remedy: str = ""
) -> subprocess.CompletedProcess[str]:
    full = [command[0], "--homedir", str(home), *command[1:]]
    if command[0] == "gpg":
        full[1:1] = ["--batch", "--no-options", "--no-autostart", "--no-auto-check-trustdb"]
    install = f"install {command[0]} (on Debian and Ubuntu: apt install {command[0]})"
    try:
        result = subprocess.run(
            full,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ArtefactError("tool", command[0], f"cannot be run: {error}", remedy=install) from None
    if check and result.returncode != 0:
        last = (result.stderr.strip().splitlines() or ["no output"])[-1]
        raise ArtefactError("key", command[-1], f"{command[0]} failed: {last}", remedy=remedy)
    return result
