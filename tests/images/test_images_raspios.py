# ruff: noqa: PLR0917 - fixtures come as arguments
"""Raspberry Pi OS: whose signature, which version, and unpacking; the images are real disks, but small."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import lzma
import shutil
import subprocess
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from image_support import MIB, Mirror, Signer, closing, leftovers, qcow2, stored

from layer1.images import artefact as artefacts
from layer1.images import cli, store
from layer1.images.artefact import (
    FLATCAR_POLICY,
    RASPIOS_POLICIES,
    Artefact,
    SignaturePolicy,
    flatcar,
    raspios,
)
from layer1.images.failure import ArtefactError
from layer1.images.lockfile import LockFile
from layer1.images.signature import read_keys

VERSION = "2025-10-01@2025-10-02"
SIGNED = datetime(2025, 10, 2, 3, 6, tzinfo=UTC)
FAMILY = "raspios_oldstable_lite_arm64"
FILE = "2025-10-01-raspios-bookworm-arm64-lite.img.xz"
PATH = f"/{FAMILY}/images/{FAMILY}-2025-10-02/{FILE}"
NAME = "raspios/bookworm/2025-10-01/lite-arm64.img.xz"


def pi_policy(signer: Signer) -> SignaturePolicy:
    return dataclasses.replace(
        RASPIOS_POLICIES[0][1], key_file=signer.key_file, primary_fingerprint=signer.primary
    )


@pytest.fixture(scope="session")
def raw(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A disk with the partition table of a Pi: FAT first, then Linux."""
    path = tmp_path_factory.mktemp("pi") / "disk.img"
    path.write_bytes(bytes(8 * MIB))
    program = shutil.which("sfdisk", path="/usr/sbin:/sbin:/usr/bin")
    assert program is not None
    table = "label: dos\nstart=2048, size=4096, type=c\nstart=6144, type=83\n"
    subprocess.run([program, "-q", str(path)], input=table.encode(), check=True, capture_output=True)
    data = bytearray(path.read_bytes())
    noise = b"".join(hashlib.sha512(b"pi %d" % i).digest() for i in range(4000))
    data[4 * MIB : 4 * MIB + len(noise)] = noise
    return bytes(data)


@dataclass
class Shelf:
    """The folder of one image on a mirror."""

    mirror: Mirror
    signer: Signer

    def put(self, packed: bytes, *, signer: Signer | None = None, when: datetime = SIGNED) -> None:
        digest = hashlib.sha256(packed).hexdigest()
        self.mirror.files = {
            PATH: packed,
            f"{PATH}.sig": (signer or self.signer).sign(packed, when),
            f"{PATH}.sha256": f"{digest}  {FILE}\n".encode(),
        }

    def artefact(self, policy: SignaturePolicy | None = None, **changes: object) -> Artefact:
        made = raspios("bookworm", VERSION, base_url=self.mirror.url, policy=policy or pi_policy(self.signer))
        return dataclasses.replace(made, **changes)


@pytest.fixture
def shelf(mirror: Mirror, signer: Signer, raw: bytes) -> Shelf:
    made = Shelf(mirror, signer)
    made.put(lzma.compress(raw, preset=0))
    return made


def refused(shelf, lock, cache, options, check, artefact=None) -> ArtefactError:
    with pytest.raises(ArtefactError) as caught:
        store.ensure(artefact or shelf.artefact(), lock, cache, options=options)
    assert caught.value.check == check, str(caught.value)
    assert stored(cache) == leftovers(cache) == []
    assert "way out" in str(caught.value)
    return caught.value


# --- names, addresses, keys


@pytest.mark.parametrize(
    ("release", "version", "url"),
    [
        # Addresses that Raspberry Pi published; Bookworm's folder changed when Trixie came.
        (
            "bookworm",
            "2025-05-13",
            "raspios_lite_arm64/images/raspios_lite_arm64-2025-05-13/2025-05-13-raspios-bookworm",
        ),
        (
            "bookworm",
            "2025-10-01@2025-10-02",
            f"{FAMILY}/images/{FAMILY}-2025-10-02/2025-10-01-raspios-bookworm",
        ),
        (
            "bookworm",
            "2026-04-13@2026-04-14",
            f"{FAMILY}/images/{FAMILY}-2026-04-14/2026-04-13-raspios-bookworm",
        ),
        ("bookworm", "2026-10-06", f"{FAMILY}/images/{FAMILY}-2026-10-06/2026-10-06-raspios-bookworm"),
        (
            "trixie",
            "2025-12-04",
            "raspios_lite_arm64/images/raspios_lite_arm64-2025-12-04/2025-12-04-raspios-trixie",
        ),
    ],
)
def test_addresses(release, version, url):
    made = raspios(release, version)
    assert made.url == f"https://downloads.raspberrypi.com/{url}-arm64-lite.img.xz"
    assert made.command("fetch") == (
        f"python -m layer1 image fetch raspios --release {release} --version {version}"
    )
    assert (made.file_format, made.compression, made.arch) == ("raw", "xz", "arm64")
    assert (made.name, made.version) == (f"raspios/{release}/{version[:10]}/lite-arm64.img.xz", version)
    LockFile.parse("version: 1\nentries: {}", Path("lock")).with_entry(made.name, None)


@pytest.mark.parametrize(
    ("version", "fingerprint"),
    [
        ("2023-10-10", "54C3DD610D9D1B4AF82A37758738CD6B956F460C"),
        ("2025-10-01@2025-10-02", "54C3DD610D9D1B4AF82A37758738CD6B956F460C"),
        ("2025-11-23@2025-11-24", "54C3DD610D9D1B4AF82A37758738CD6B956F460C"),
        ("2025-11-24", "F4AADD86C4687D69AE04543E796C114AD12B2292"),
        ("2026-10-06", "F4AADD86C4687D69AE04543E796C114AD12B2292"),
    ],
)
def test_the_key_is_chosen_by_the_date(version, fingerprint):
    policy = raspios("bookworm", version).signature
    assert policy.primary_fingerprint == fingerprint
    assert policy.sha256_suffix == ".sha256"


@pytest.mark.parametrize(
    ("release", "version", "words"),
    [
        ("bullseye", "2023-05-03", "bookworm or trixie"),
        ("Bookworm", "2025-05-13", "bookworm or trixie"),
        ("bookworm", "latest", "an alias"),
        ("bookworm", "2025-13-01", "not a version"),
        ("bookworm", "2025-02-30", "not a version"),
        ("bookworm", "20250513", "not a version"),
        ("bookworm", "2025-05-13@", "not a version"),
        ("bookworm", "2025-05-13@2025-05-12", "not a version"),
        ("bookworm", "2025-05-13@2025-06-14", "not a version"),
        ("bookworm", "2025-05-13@2025-05-13@2025-05-13", "not a version"),
        ("bookworm", "2025-05-13/../x", "not a version"),
        ("bookworm", "2025-05-13\n", "not a version"),
    ],
)
def test_arguments_that_are_none(release, version, words):
    with pytest.raises(ArtefactError) as caught:
        raspios(release, version)
    assert caught.value.check == "arguments"
    assert words in str(caught.value)


def test_the_first_key_is_in_the_repository():
    (key,) = read_keys(RASPIOS_POLICIES[0][1])
    assert key.fingerprint == "54C3DD610D9D1B4AF82A37758738CD6B956F460C"
    assert key.expires_at is not None
    assert key.expires_at.date() == date(2031, 4, 7)


def test_flatcar_keeps_all_its_files(signer):
    assert FLATCAR_POLICY.digests_suffix == ".DIGESTS.asc"
    assert FLATCAR_POLICY.version_file == "version.txt"
    with pytest.raises(ValueError, match="both files"):
        flatcar("4593.2.5", "amd64", policy=pi_policy(signer))


# --- what is accepted, and what is refused


def test_a_signed_image_is_unpacked_and_stored(shelf, raw, lock, cache, options):
    found = store.ensure(shelf.artefact(), lock, cache, options=options)
    assert found.path.read_bytes() == raw
    assert found.path.suffix == ".raw"
    assert found.virtual_size_bytes == found.size_bytes == len(raw)
    assert (found.verified_by, found.version) == ("signature", VERSION)
    (record,) = store.records(cache)
    assert record.bound_by == "signing time"
    assert record.checks == ("format", "sha256 file", "signature", "version by signing time")
    assert leftovers(cache) == []
    before = len(shelf.mirror.requests)
    assert store.ensure(shelf.artefact(), lock, cache, options=options) == found
    assert store.verify(shelf.artefact(), lock, cache, options=options) == found
    assert len(shelf.mirror.requests) == before


@pytest.mark.parametrize("at", [0, 50_000, -1])
def test_one_byte_changed(shelf, lock, cache, options, at):
    changed = bytearray(shelf.mirror.files[PATH])
    changed[at] ^= 1
    digest = hashlib.sha256(changed).hexdigest()
    # Whoever changes the image changes the digest beside it too.
    shelf.mirror.files |= {PATH: bytes(changed), f"{PATH}.sha256": f"{digest}  {FILE}\n".encode()}
    error = refused(shelf, lock, cache, options, "signature")
    assert "does not belong to these bytes" in str(error)


def test_wrong_signer(shelf, raw, stranger, lock, cache, options):
    shelf.put(lzma.compress(raw), signer=stranger)
    error = refused(shelf, lock, cache, options, "signature")
    assert error.expected.endswith(shelf.signer.primary)


def test_expired_signer(shelf, raw, lock, cache, options):
    expired = Signer("expired", created="20240101T000000", life="1y")
    with closing(expired):
        shelf.put(lzma.compress(raw), signer=expired, when=datetime(2024, 6, 1, tzinfo=UTC))
        error = refused(shelf, lock, cache, options, "signature", shelf.artefact(pi_policy(expired)))
    assert "expired" in str(error)


@pytest.mark.parametrize(
    ("sidecar", "words"),
    [
        (b"0" * 64 + f"  {FILE}\n".encode(), "names another digest"),
        (b"0" * 64 + b"  other.img.xz\n", "does not name one SHA-256"),
        (b"0" * 64, "does not name one SHA-256"),
        (b"", "does not name one SHA-256"),
        (b"\xff\xfe", "does not name one SHA-256"),
        ((b"0" * 64 + f"  {FILE}\n".encode()) * 2, "does not name one SHA-256"),
    ],
)
def test_wrong_digest_beside_it(shelf, lock, cache, options, sidecar, words):
    shelf.mirror.files[f"{PATH}.sha256"] = sidecar
    assert words in str(refused(shelf, lock, cache, options, "digests"))


@pytest.mark.parametrize("missing", [".sig", ".sha256"])
def test_a_file_beside_it_is_missing(shelf, lock, cache, options, missing):
    del shelf.mirror.files[PATH + missing]
    refused(shelf, lock, cache, options, "download")


@pytest.mark.parametrize(
    "when", [datetime(2025, 5, 13, 9, 0, tzinfo=UTC), datetime(2025, 11, 24, tzinfo=UTC)]
)
def test_an_older_or_newer_image_under_this_name(shelf, raw, lock, cache, options, when):
    shelf.put(lzma.compress(raw), when=when)
    error = refused(shelf, lock, cache, options, "version")
    assert error.expected == "signed from 2025-09-30 00:00 to 2025-10-09 00:00 UTC"
    assert f"{when:%Y-%m-%d}" in error.found
    assert "--sha512" in error.remedy


@pytest.mark.parametrize(
    ("when", "good"),
    [
        (datetime(2025, 9, 29, 23, 59, 59, tzinfo=UTC), False),
        (datetime(2025, 9, 30, tzinfo=UTC), True),
        (datetime(2025, 10, 9, tzinfo=UTC), True),
        (datetime(2025, 10, 9, 0, 0, 1, tzinfo=UTC), False),
    ],
)
def test_the_days_in_which_it_may_have_been_signed(shelf, raw, lock, cache, options, when, good):
    shelf.put(lzma.compress(raw, preset=0), when=when)
    if good:
        assert store.ensure(shelf.artefact(), lock, cache, options=options).verified_by == "signature"
    else:
        refused(shelf, lock, cache, options, "version")


def test_a_pin_binds_what_the_time_does_not(shelf, raw, lock, cache, options):
    packed = lzma.compress(raw)
    shelf.put(packed, when=datetime(2025, 11, 24, tzinfo=UTC))
    with pytest.raises(ArtefactError, match="is not the pinned file"):
        store.pin(shelf.artefact(), lock, cache, sha512="0" * 128, options=options)
    pinned = store.pin(
        shelf.artefact(), lock, cache, sha512=hashlib.sha512(packed).hexdigest(), options=options
    )
    assert (pinned.bound_by, pinned.image.verified_by) == ("pin", "signature+pin")
    assert pinned.entry.signed_by == shelf.signer.primary
    assert store.ensure(shelf.artefact(), pinned.lock, cache, options=options).path.read_bytes() == raw
    # Without the pin the stored file is bound by nothing, and the mirror's is refused.
    with pytest.raises(ArtefactError, match="was not signed when this version was published"):
        store.ensure(shelf.artefact(), lock, cache, options=options)


# --- unpacking


@pytest.mark.parametrize("keep", [30, 100_000, -1])
def test_a_packed_file_cut_short_before_it_was_signed(shelf, lock, cache, options, keep):
    shelf.put(shelf.mirror.files[PATH][:keep])
    assert "cannot be unpacked" in str(refused(shelf, lock, cache, options, "format"))


def test_a_signed_file_that_unpacks_to_more_than_a_card(shelf, lock, cache, options):
    shelf.put(lzma.compress(bytes(40 * MIB)))
    small = shelf.artefact(max_virtual_size_bytes=8 * MIB)
    assert "unpacks to more than allowed" in str(refused(shelf, lock, cache, options, "format", small))
    assert store.ensure(shelf.artefact(), lock, cache, options=options).size_bytes == 40 * MIB
    assert shelf.artefact().max_virtual_size_bytes == 8 * 1024**3


def test_a_disk_that_would_open_another_file(shelf, raw, lock, cache, options, tmp_path):
    shelf.put(lzma.compress(qcow2(raw, tmp_path)))
    assert "begins as a qcow2" in str(refused(shelf, lock, cache, options, "format"))


# --- what is stored


def test_a_changed_store_is_seen(shelf, raw, lock, cache, options):
    found = store.ensure(shelf.artefact(), lock, cache, options=options)
    found.path.chmod(0o600)
    found.path.write_bytes(raw[:-1] + b"x")
    with pytest.raises(ArtefactError, match="the stored file was changed"):
        store.verify(shelf.artefact(), lock, cache, options=options)
    assert stored(cache) == []
    assert store.ensure(shelf.artefact(), lock, cache, options=options).path.read_bytes() == raw


def test_another_key_file_means_another_fetch(shelf, lock, cache, options, tmp_path):
    key_file = tmp_path / "key.asc"
    key_file.write_bytes(shelf.signer.key_file.read_bytes())
    mine = shelf.artefact(dataclasses.replace(pi_policy(shelf.signer), key_file=key_file))
    store.ensure(mine, lock, cache, options=options)
    # The same key with a line more: only the packed bytes could be checked again, and they are gone.
    key_file.write_bytes(b"a comment\n" + key_file.read_bytes())
    fetched = shelf.mirror.count(PATH)
    assert store.ensure(mine, lock, cache, options=options).verified_by == "signature"
    assert shelf.mirror.count(PATH) == fetched + 1
    key_file.write_bytes(b"another\n" + key_file.read_bytes())
    with pytest.raises(ArtefactError, match="the packed file that is signed is not kept"):
        store.verify(mine, lock, cache, options=options)
    assert stored(cache) == []


# --- the key that the operator brings, and the command line


@pytest.fixture
def own_keys(monkeypatch, signer, stranger, tmp_path) -> list[Path]:
    """Two pinned keys, of which neither is there yet."""
    keys = [tmp_path / "keys" / "old.asc", tmp_path / "keys" / "new.asc"]
    keys[0].parent.mkdir()
    pinned = [
        (since, dataclasses.replace(policy, key_file=key, primary_fingerprint=owner.primary))
        for (since, policy), key, owner in zip(RASPIOS_POLICIES, keys, (signer, stranger), strict=True)
    ]
    monkeypatch.setattr(artefacts, "RASPIOS_POLICIES", tuple(pinned))
    return keys


@pytest.fixture
def run(lock, cache, shelf):
    parser = argparse.ArgumentParser(prog="layer1")
    cli.add_parser(parser.add_subparsers(required=True))

    def call(*words: str) -> int:
        places = () if words[0] == "key" else ("--lock", str(lock.path), "--cache", str(cache))
        arguments = parser.parse_args(["image", *words, *places])
        return arguments.run(arguments)

    return call


def words_of(shelf: Shelf) -> tuple[str, ...]:
    return ("raspios", "--version", VERSION, "--base-url", shelf.mirror.url)


def test_from_no_key_to_a_pinned_image(run, capsys, shelf, signer, own_keys, lock, cache):
    assert run("fetch", *words_of(shelf)) == 1
    shown = capsys.readouterr().err
    assert f"key check failed for {own_keys[0]}: cannot be read: No such file" in shown
    assert f"expected: the public key {signer.primary}" in shown
    assert "python -m layer1 image key raspios --file key.asc" in shown
    assert shelf.mirror.requests == [], "told before the long download"
    assert run("key", "raspios", "--file", str(signer.key_file)) == 0
    assert signer.primary in capsys.readouterr().err
    assert not own_keys[1].exists()
    assert own_keys[0].stat().st_mode & 0o777 == 0o644
    assert run("pin", *words_of(shelf)) == 0
    shown = capsys.readouterr().err
    for word in (signer.primary, "2025-10-02 03:06 UTC", "bound by signing time", NAME):
        assert word in shown
    assert LockFile.load(lock.path).entries[NAME].virtual_size_bytes == 8 * MIB
    assert run("fetch", *words_of(shelf)) == 0
    assert f"{NAME}: verified by signature+pin" in capsys.readouterr().err
    assert run("verify", *words_of(shelf)) == 0
    assert run("list") == 0
    assert f"{NAME}: pinned; fetched, 8.0 MiB" in capsys.readouterr().out


@pytest.mark.usefixtures("own_keys")
def test_the_command_in_a_message_is_the_one_to_run(run, capsys, shelf, signer):
    assert run("key", "raspios", "--file", str(signer.key_file)) == 0
    assert run("verify", *words_of(shelf)) == 1
    command = capsys.readouterr().err.rsplit("`", 2)[1].split()
    assert command[:5] == ["python", "-m", "layer1", "image", "fetch"]
    assert run(*command[4:]) == 0


@pytest.mark.usefixtures("own_keys")
def test_a_list_tells_of_a_key_that_ends(run, capsys, signer, monkeypatch):
    assert run("key", "raspios", "--file", str(signer.key_file)) == 0
    capsys.readouterr()
    end = max(key.expires_at for key in read_keys(pi_policy(signer)))
    late = dataclasses.replace(store.Options(), now=lambda: end - timedelta(days=10, hours=1))
    monkeypatch.setattr(cli.store, "Options", lambda: late)
    assert run("list") == 0
    assert "in 10 days" in capsys.readouterr().err


def test_a_binary_key_will_do(run, signer, own_keys, tmp_path):
    binary = tmp_path / "key.gpg"
    binary.write_bytes(signer.gpg("--export", signer.primary))
    assert run("key", "raspios", "--file", str(binary)) == 0
    assert own_keys[0].read_bytes().startswith(b"-----BEGIN PGP PUBLIC KEY BLOCK-----")


def test_other_keys_are_not_taken(run, capsys, signer, stranger, own_keys, tmp_path):
    third = Signer("third")
    with closing(third):
        both = tmp_path / "both.asc"
        both.write_bytes(signer.key_file.read_bytes() + stranger.key_file.read_bytes())
        nothing = tmp_path / "nothing.asc"
        nothing.write_bytes(b"")
        page = tmp_path / "page.html"
        page.write_bytes(b"<html>not found</html>")
        for file, found in (
            (third.key_file, third.primary),
            (both, f"{signer.primary}, {stranger.primary}"),
            (nothing, "no key"),
            (page, "no key"),
            (tmp_path / "none.asc", "no key"),
        ):
            assert run("key", "raspios", "--file", str(file)) == 1
            shown = capsys.readouterr().err
            assert f"expected: {signer.primary} or {stranger.primary}" in shown
            assert f"found:    {found}" in shown
    assert list(own_keys[0].parent.iterdir()) == []


def test_a_secret_key_is_refused(run, signer, own_keys, tmp_path):
    secret = tmp_path / "secret.asc"
    secret.write_bytes(signer.gpg("--armor", "--export-secret-keys", signer.primary))
    assert run("key", "raspios", "--file", str(secret)) == 1
    assert list(own_keys[0].parent.iterdir()) == []
