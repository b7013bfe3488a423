# ruff: noqa: PLR0917 - fixtures come as arguments
"""What is refused, by name, and what is accepted."""

from __future__ import annotations

import bz2
import dataclasses
import gzip
import hashlib
import json
import stat
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from image_support import (
    BUILT,
    IMAGE,
    MIB,
    OLD_BUILT,
    OLD_VERSION,
    VERSION,
    Place,
    Release,
    Signer,
    closing,
    digests,
    disk,
    flatcar_disk,
    leftovers,
    qcow2,
    stored,
)

from layer1.errors import ImageError
from layer1.images import flatcar_version, inspect, store
from layer1.images.artefact import Artefact, flatcar, k3s_installer, local_image
from layer1.images.failure import ArtefactError
from layer1.images.lockfile import LockFile
from layer1.images.store import Options


def refused(
    place: Place, lock: LockFile, cache: Path, options: Options, check: str, artefact: Artefact | None = None
) -> ArtefactError:
    """The artefact is refused by that check, nothing stays, and the message is whole."""
    with pytest.raises(ArtefactError) as caught:
        store.ensure(artefact or place.artefact(), lock, cache, options=options)
    error = caught.value
    assert isinstance(error, ImageError)
    assert error.check == check, str(error)
    assert stored(cache) == []
    assert leftovers(cache) == []
    assert error.expected is not None
    assert error.found is not None
    assert VERSION in error.file
    assert "way out" in str(error)
    return error


def recovered(place: Place, release: Release, lock: LockFile, cache: Path, options: Options) -> None:
    """The positive control: the same run is accepted once the mirror is honest."""
    place.put(release.files)
    found = store.ensure(place.artefact(), lock, cache, options=options)
    assert found.path.read_bytes() == release.image
    assert found.verified_by == "signature"


def test_a_signed_release_is_accepted_and_stored_read_only(place, release, lock, cache, options):
    found = store.ensure(place.artefact(), lock, cache, options=options)
    assert found.sha512 == hashlib.sha512(release.image).hexdigest()
    assert found.path == cache / "blobs" / f"{found.sha512}.qcow2"
    assert found.size_bytes == len(release.image)
    assert found.virtual_size_bytes == 4 * MIB
    assert found.verified_by == "signature"
    assert found.version == VERSION
    assert stat.S_IMODE(found.path.stat().st_mode) == 0o400
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    assert stat.S_IMODE((cache / "records" / stored(cache)[1]).stat().st_mode) == 0o600
    assert leftovers(cache) == []
    assert json.loads(found.to_json())["path"] == str(found.path)


@pytest.mark.parametrize("at", [0, 100_000, -1])
def test_one_byte_changed(place, release, lock, cache, options, at):
    changed = bytearray(release.image)
    changed[at] ^= 1
    place.put(release.copy(**{IMAGE: bytes(changed)}))
    error = refused(place, lock, cache, options, "signature")
    assert "does not belong to these bytes" in str(error)
    recovered(place, release, lock, cache, options)


@pytest.mark.parametrize("keep", [0, 1, 100_000, -1])
def test_truncated(place, release, lock, cache, options, keep):
    place.put(release.copy(**{IMAGE: release.image[:keep]}))
    refused(place, lock, cache, options, "signature")
    recovered(place, release, lock, cache, options)


def test_wrong_signer(place, release, stranger, lock, cache, options):
    place.put(Release(stranger, release.image).files)
    error = refused(place, lock, cache, options, "signature")
    assert error.expected.endswith(place.policy.primary_fingerprint)
    recovered(place, release, lock, cache, options)


def test_wrong_signer_with_the_right_keys_in_one_ring(
    place, release, signer, stranger, lock, cache, options, tmp_path
):
    """A key file with a second key in it would let that one sign too."""
    both = tmp_path / "both.asc"
    both.write_bytes(signer.key_file.read_bytes() + stranger.key_file.read_bytes())
    policy = dataclasses.replace(place.policy, key_file=both)
    place.put(Release(stranger, release.image).files)
    with pytest.raises(ArtefactError) as caught:
        store.ensure(place.artefact(policy), lock, cache, options=options)
    assert caught.value.check == "key"
    assert stored(cache) == leftovers(cache) == []


def test_key_file_of_another_key(place, stranger, release, lock, cache, options):
    policy = dataclasses.replace(place.policy, key_file=stranger.key_file)
    place.put(Release(stranger, release.image).files)
    with pytest.raises(ArtefactError) as caught:
        store.ensure(place.artefact(policy), lock, cache, options=options)
    assert (caught.value.check, caught.value.found) == ("key", stranger.primary)


def test_expired_signer(place, release, lock, cache, options):
    expired = Signer("expired", created="20250101T000000", life="1y")
    with closing(expired):
        place.put(Release(expired, release.image, built=datetime(2025, 6, 1, tzinfo=UTC)).files)
        error = refused(place, lock, cache, options, "signature", place.artefact(expired.policy))
    assert "expired" in str(error)


def test_revoked_signer(place, release, lock, cache, options):
    revoked = Signer("revoked")
    with closing(revoked):
        place.put(Release(revoked, release.image).files)
        # Positive control: before its revocation the same key is good.
        store.ensure(place.artefact(revoked.policy), lock, cache / "before", options=options)
        revoked.revoke()
        error = refused(place, lock, cache, options, "signature", place.artefact(revoked.policy))
        assert "revoked" in str(error)
        # What was stored before is not used with the key as it is now.
        with pytest.raises(ArtefactError, match="revoked"):
            store.ensure(place.artefact(revoked.policy), lock, cache / "before", options=options)


def test_signature_of_another_file(place, release, lock, cache, options):
    place.put(release.copy(**{f"{IMAGE}.sig": release.files["version.txt.sig"]}))
    refused(place, lock, cache, options, "signature")
    recovered(place, release, lock, cache, options)


def test_signature_that_brings_its_own_text(place, release, signer, old_release, lock, cache, options):
    """gpgv then checks that text, says good, and leaves the image unread."""
    for own in (
        signer.inline(b"anything"),
        signer.clearsign(b"anything"),
        old_release.files[f"{IMAGE}.DIGESTS.asc"],
    ):
        place.put(release.copy(**{f"{IMAGE}.sig": own}))
        error = refused(place, lock, cache, options, "signature")
        assert "not a detached signature" in str(error)


@pytest.mark.parametrize("content", [b"", b"\x00" * 64, b"<html>not here</html>"])
def test_signature_that_is_none(place, release, lock, cache, options, content):
    place.put(release.copy(**{f"{IMAGE}.sig": content}))
    refused(place, lock, cache, options, "signature")


def test_two_signatures(place, release, stranger, lock, cache, options):
    own = release.files[f"{IMAGE}.sig"]
    for other in (own, stranger.sign(release.image)):
        place.put(release.copy(**{f"{IMAGE}.sig": own + other}))
        refused(place, lock, cache, options, "signature")


def test_weak_hash(place, release, signer, lock, cache, options):
    weak = signer.gpg("--digest-algo", "SHA1", "--detach-sign", data=release.image, when="20260812T030000")
    place.put(release.copy(**{f"{IMAGE}.sig": weak}))
    refused(place, lock, cache, options, "signature")


def test_digests_of_another_file(place, release, signer, lock, cache, options):
    other = signer.clearsign(digests(release.image, "flatcar_production_kubevirt_image.qcow2"))
    place.put(release.copy(**{f"{IMAGE}.DIGESTS.asc": other}))
    error = refused(place, lock, cache, options, "digests")
    assert "kubevirt" in error.found
    recovered(place, release, lock, cache, options)


def test_digests_of_another_version(place, release, old_release, lock, cache, options):
    place.put(release.copy(**{f"{IMAGE}.DIGESTS.asc": old_release.files[f"{IMAGE}.DIGESTS.asc"]}))
    error = refused(place, lock, cache, options, "digests")
    assert error.found == hashlib.sha512(release.image).hexdigest()
    recovered(place, release, lock, cache, options)


@pytest.mark.parametrize("before", [True, False])
def test_digests_outside_of_the_signed_text(place, release, signer, lock, cache, options, before):
    """The digest that fits stands before or after a signed text that names none."""
    line, signed = digests(release.image, IMAGE), signer.clearsign(b"nothing\n")
    place.put(release.copy(**{f"{IMAGE}.DIGESTS.asc": line + signed if before else signed + b"\n" + line}))
    refused(place, lock, cache, options, "digests")


def test_digests_unsigned_or_by_a_stranger(place, release, stranger, lock, cache, options):
    line = digests(release.image, IMAGE)
    for content in (line, stranger.clearsign(line)):
        place.put(release.copy(**{f"{IMAGE}.DIGESTS.asc": content}))
        refused(place, lock, cache, options, "signature")


def test_digests_that_name_the_file_twice():
    sha512 = hashlib.sha512(b"x").hexdigest()
    with pytest.raises(ArtefactError, match="2 of it"):
        store.check_digests(f"{sha512}  f\n{'0' * 128}  f\n", "f", sha512, "f.DIGESTS")
    store.check_digests(f"# SHA512 HASH\r\n{sha512}  f\r\n", "f", sha512, "f.DIGESTS")


def test_older_version_replayed_as_a_whole_directory(place, release, old_release, lock, cache, options):
    place.put(old_release.files)
    error = refused(place, lock, cache, options, "version")
    assert (error.expected, error.found) == (VERSION, OLD_VERSION)
    recovered(place, release, lock, cache, options)


def test_older_image_beside_the_new_version_file(place, release, old_release, lock, cache, options):
    new = {name: release.files[name] for name in ("version.txt", "version.txt.sig")}
    place.put({**old_release.files, **new})
    error = refused(place, lock, cache, options, "version")
    assert error.found == f"openstack {OLD_VERSION}"
    recovered(place, release, lock, cache, options)


def test_older_image_that_names_no_version(place, release, signer, lock, cache, options, tmp_path):
    silent = qcow2(disk([], b"", table=False), tmp_path)
    old = Release(signer, silent, OLD_VERSION, OLD_BUILT)
    new = {name: release.files[name] for name in ("version.txt", "version.txt.sig")}
    place.put({**old.files, **new})
    error = refused(place, lock, cache, options, "version")
    assert "2025-10-13" in error.found
    # Positive control: the same silent image, signed when its version.txt was.
    place.put(Release(signer, silent).files)
    store.ensure(place.artefact(), lock, cache, options=options)
    assert store.records(cache)[0].bound_by == "signing time"


@pytest.mark.parametrize(
    ("lag", "good"),
    [
        (timedelta(days=-2), False),
        (timedelta(hours=-20), True),
        (timedelta(days=6), True),
        (timedelta(days=8), False),
    ],
)
def test_window_of_signing(place, lag, good):
    silent = flatcar_version.Inside(oems=frozenset(), architectures=frozenset())
    if good:
        assert flatcar_version.bind(place.artefact(), silent, BUILT + lag, (VERSION, BUILT)) == "signing time"
    else:
        with pytest.raises(ArtefactError, match="was not signed when"):
            flatcar_version.bind(place.artefact(), silent, BUILT + lag, (VERSION, BUILT))


def test_version_file_changed_missing_or_of_a_stranger(place, release, stranger, lock, cache, options):
    text = release.files["version.txt"]
    place.put(release.copy(**{"version.txt": text + b"\n"}))
    refused(place, lock, cache, options, "signature")
    place.put(release.copy(**{"version.txt.sig": stranger.sign(text)}))
    refused(place, lock, cache, options, "signature")
    files = release.copy()
    del files["version.txt.sig"]
    place.put(files)
    assert refused(place, lock, cache, options, "download").found == "HTTP 404"


@pytest.mark.parametrize(
    "text", ["", "FLATCAR_VERSION=1.2.3\nFLATCAR_VERSION=4593.2.5\n", "# FLATCAR_VERSION=1\n"]
)
def test_version_file_that_names_no_single_version(text):
    with pytest.raises(ArtefactError, match="does not name one version"):
        flatcar_version.parse_version_txt(text, "version.txt")
    assert flatcar_version.parse_version_txt('A=1\nFLATCAR_VERSION="4593.2.5"\r\n', "version.txt") == VERSION


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        (flatcar_disk(boot=b"BOOTAA64EFI"), "arm64"),
        (flatcar_disk(oem="kubevirt"), f"kubevirt {VERSION}"),
        (
            flatcar_disk(version=f"{VERSION}+nightly-20260813-2100"),
            f"openstack {VERSION}+nightly-20260813-2100",
        ),
        (
            disk([b"oem-openstack-4593.2.5.raw", b"oem-openstack-4593.2.4.raw"], b""),
            "openstack 4593.2.4, openstack 4593.2.5",
        ),
    ],
    ids=["architecture", "flavour", "nightly", "two versions"],
)
def test_image_of_another_kind_signed_the_same_day(
    place, release, signer, lock, cache, options, tmp_path, raw, found
):
    place.put(Release(signer, qcow2(raw, tmp_path)).files)
    assert refused(place, lock, cache, options, "version").found == found
    recovered(place, release, lock, cache, options)


def test_names_are_found_in_real_file_systems(place, tmp_path):
    tree, part = tmp_path / "oem" / "sysext", tmp_path / "oem.img"
    tree.mkdir(parents=True)
    (tree / f"oem-openstack-{VERSION}.raw").write_bytes(b"\x01" * 100_000)
    (tree / "active-oem-openstack").touch()
    part.touch()
    subprocess.run(["truncate", "-s", "128M", part], check=True)
    subprocess.run(["mkfs.btrfs", "-q", "--rootdir", tmp_path / "oem", part], check=True)
    efi = tmp_path / "efi.img"
    subprocess.run(["truncate", "-s", "40M", efi], check=True)
    subprocess.run(["mkfs.vfat", efi], check=True, capture_output=True)
    (tmp_path / "shim").write_bytes(b"x")
    subprocess.run(["mmd", "-i", efi, "::EFI", "::EFI/boot"], check=True)
    subprocess.run(["mcopy", "-i", efi, tmp_path / "shim", "::EFI/boot/bootx64.efi"], check=True)
    raw = tmp_path / "disk.raw"
    subprocess.run(["truncate", "-s", "200M", raw], check=True)
    table = "label: gpt\nstart=2048, size=81920, name=EFI-SYSTEM\nstart=83968, size=262144, name=OEM\n"
    subprocess.run(["sfdisk", "-q", raw], input=table.encode(), check=True)
    for source, seek in ((efi, 2048), (part, 83968)):
        subprocess.run(
            ["dd", f"if={source}", f"of={raw}", f"seek={seek}", "conv=notrunc,sparse"],
            check=True,
            capture_output=True,
        )
    image = tmp_path / "disk,with comma.img"
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", "-c", "-o", "compat=0.10", raw, image], check=True)
    inside = flatcar_version.read_inside(image, place.artefact(), tmp_path)
    assert inside.oems == {("openstack", VERSION)}
    assert inside.architectures == {"amd64"}


# --- format


def test_qcow2_with_a_backing_file(place, release, signer, lock, cache, options, tmp_path):
    base, top = tmp_path / "base.raw", tmp_path / "top.qcow2"
    base.write_bytes(bytes(MIB))
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(base), "-F", "raw", str(top)], check=True
    )
    place.put(Release(signer, top.read_bytes()).files)
    assert "backing file" in str(refused(place, lock, cache, options, "format"))
    recovered(place, release, lock, cache, options)


def test_qcow2_with_a_data_file(place, signer, lock, cache, options, tmp_path):
    top = tmp_path / "top.qcow2"
    settings = f"data_file={tmp_path / 'data.raw'},data_file_raw=on"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", settings, str(top), "1M"], check=True)
    place.put(Release(signer, top.read_bytes()).files)
    assert "data file" in str(refused(place, lock, cache, options, "format"))


@pytest.mark.parametrize("kind", ["backing", "data"])
def test_qemu_img_never_sees_an_image_that_names_a_file(place, tmp_path, monkeypatch, kind):
    base, top = tmp_path / "base.raw", tmp_path / "top.qcow2"
    base.write_bytes(bytes(MIB))
    words = ["-b", str(base), "-F", "raw"] if kind == "backing" else ["-o", f"data_file={base}"]
    size = [] if kind == "backing" else ["1M"]
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *words, str(top), *size], check=True)
    asked: list[object] = []
    monkeypatch.setattr(inspect, "run_qemu_img", lambda *words: asked.append(words) or "{}")
    with pytest.raises(ArtefactError, match=f"has a {kind} file"):
        inspect.check_format(top, place.artefact())
    assert asked == []


def test_qemu_img_itself_refuses_backing_files(place, tmp_path, monkeypatch):
    """The second line of defence holds where the first is taken away."""
    base, top = tmp_path / "base.raw", tmp_path / "top.qcow2"
    base.write_bytes(bytes(MIB))
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(base), "-F", "raw", str(top)], check=True
    )
    monkeypatch.setattr(inspect, "_check_qcow2_header", lambda *_: None)
    with pytest.raises(ArtefactError, match="has a backing file"):
        inspect.check_format(top, place.artefact())


def test_another_format(place, signer, lock, cache, options):
    place.put(Release(signer, bytes(MIB)).files)
    assert "not a qcow2" in str(refused(place, lock, cache, options, "format"))


def test_raw_disk_that_begins_as_a_qcow2(place, image, tmp_path):
    """Whoever probes the format later would take it for one."""
    path = tmp_path / "disk.raw"
    artefact = dataclasses.replace(place.artefact(), file_format="raw")
    path.write_bytes(bytes(len(image)))
    assert inspect.check_format(path, artefact) == len(image)
    path.write_bytes(image)
    with pytest.raises(ArtefactError, match="begins as a qcow2"):
        inspect.check_format(path, artefact)


def test_disk_larger_than_allowed(place, signer, lock, cache, options, tmp_path):
    top = tmp_path / "top.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(top), "33G"], check=True)
    place.put(Release(signer, top.read_bytes()).files)
    assert "larger disk" in str(refused(place, lock, cache, options, "format"))


def test_snapshots_and_encryption(place, image, tmp_path):
    path = tmp_path / "with.qcow2"
    path.write_bytes(image)
    inspect.check_format(path, place.artefact())
    subprocess.run(["qemu-img", "snapshot", "-c", "one", str(path)], check=True)
    with pytest.raises(ArtefactError, match="internal snapshots"):
        inspect.check_format(path, place.artefact())
    changed = bytearray(image)
    changed[35] = 2
    path.write_bytes(changed)
    with pytest.raises(ArtefactError, match="encrypted"):
        inspect.check_format(path, place.artefact())


# --- compression


@pytest.mark.parametrize(("suffix", "pack"), [("gz", gzip.compress), ("bz2", bz2.compress)])
def test_packed_image_is_verified_then_unpacked(mirror, signer, image, lock, cache, options, suffix, pack):
    name = f"{IMAGE}.{suffix}"
    packed = pack(image)
    place = Place(mirror, signer.policy)
    place.put(Release(signer, packed, name=name).files)
    artefact = flatcar(VERSION, "amd64", "openstack", mirror.url, compression=suffix, policy=signer.policy)
    found = store.ensure(artefact, lock, cache, options=options)
    assert found.path.read_bytes() == image
    assert leftovers(cache) == []
    assert store.verify(artefact, lock, cache, options=options) == found
    # Cut short and then signed: the signature is good, the packing is not.
    place.put(Release(signer, packed[:-20], name=name).files)
    with pytest.raises(ArtefactError, match="cannot be unpacked") as caught:
        store.ensure(artefact, lock, cache / "other", options=options)
    assert caught.value.check == "format"
    assert stored(cache / "other") == leftovers(cache / "other") == []


def test_packed_image_that_unpacks_without_end(place, tmp_path):
    source = tmp_path / "bomb.gz"
    source.write_bytes(gzip.compress(bytes(8 * MIB)))
    artefact = dataclasses.replace(place.artefact(), compression="gz", max_virtual_size_bytes=2 * MIB)
    with pytest.raises(ArtefactError, match="unpacks to more than allowed"):
        inspect.unpack(source, tmp_path / "out", artefact)
    assert not (tmp_path / "out").exists()


# --- pins


def test_pin_then_fetch(place, release, lock, cache, options):
    pinned = store.pin(place.artefact(), lock, cache, options=options)
    assert pinned.changed
    assert pinned.bound_by == "inside"
    entry = pinned.entry
    assert entry.sha512 == hashlib.sha512(release.image).hexdigest()
    assert (entry.signed_by, entry.signed_at) == (place.policy.primary_fingerprint, BUILT)
    text = lock.path.read_text()
    assert text.startswith("# head\n# of the file\nversion: 1\n")
    again = LockFile.load(lock.path)
    assert again.entries == pinned.lock.entries
    assert store.ensure(place.artefact(), again, cache, options=options).verified_by == "signature+pin"
    assert not store.pin(place.artefact(), again, cache, options=options).changed
    assert lock.path.read_text() == text


def test_pinned_digest_refuses_a_good_signature_over_other_bytes(
    place, signer, lock, cache, options, tmp_path
):
    pinned = store.pin(place.artefact(), lock, tmp_path / "first", options=options).lock
    other = qcow2(flatcar_disk() + bytes(MIB), tmp_path)
    place.put(Release(signer, other).files)
    error = refused(place, pinned, cache, options, "pinned digest")
    assert error.found == hashlib.sha512(other).hexdigest()
    # Positive control: without the pin this image is good.
    store.ensure(place.artefact(), lock, tmp_path / "second", options=options)
    with pytest.raises(ArtefactError, match="another digest is pinned already"):
        store.pin(place.artefact(), pinned, tmp_path / "second", options=options)
    store.pin(place.artefact(), pinned, tmp_path / "second", overwrite=True, options=options)
    assert LockFile.load(lock.path).entries[place.artefact().name].sha512 == hashlib.sha512(other).hexdigest()


def test_pin_with_a_digest_from_elsewhere(place, release, old_release, lock, cache, options):
    sha512 = hashlib.sha512(release.image).hexdigest()
    with pytest.raises(ArtefactError) as caught:
        store.pin(place.artefact(), lock, cache, sha512="0" * 128, options=options)
    assert caught.value.check == "pinned digest"
    assert lock.path.read_text().endswith("entries: {}\n")
    with pytest.raises(ArtefactError, match="not a SHA-512"):
        store.pin(place.artefact(), lock, cache, sha512="0" * 127, options=options)
    files = release.copy()
    del files["version.txt"]
    place.put(files)
    assert store.pin(place.artefact(), lock, cache, sha512=sha512, options=options).bound_by == "pin"
    # What a pin bound is not good without it.
    assert stored(cache)
    with pytest.raises(ArtefactError) as caught:
        store.ensure(place.artefact(), lock, cache, options=options)
    assert caught.value.found == "HTTP 404"
    # And a digest does not make an old image a new one.
    place.put(old_release.files)
    old = hashlib.sha512(old_release.image).hexdigest()
    with pytest.raises(ArtefactError) as caught:
        store.pin(place.artefact(), lock, cache, sha512=old, options=options)
    assert caught.value.check == "version"


def test_signature_is_checked_with_a_pin_too(place, release, stranger, lock, cache, options, tmp_path):
    pinned = store.pin(place.artefact(), lock, tmp_path / "first", options=options).lock
    place.put(Release(stranger, release.image).files)
    refused(place, pinned, cache, options, "signature")


def test_unsigned_artefact_needs_a_pin(mirror, lock, cache, options):
    mirror.files["/install.sh"] = b"#!/bin/sh\necho k3s\n"
    artefact = k3s_installer("v1.34.1+k3s1", f"{mirror.url}/install.sh")
    with pytest.raises(ArtefactError) as caught:
        store.ensure(artefact, lock, cache, options=options)
    assert caught.value.check == "unpinned"
    assert "image pin k3s-installer --version v1.34.1+k3s1" in str(caught.value)
    assert mirror.requests == []
    with pytest.raises(ArtefactError, match="does not pin it"):
        store.verify(artefact, lock, cache, options=options)
    pinned = store.pin(artefact, lock, cache, options=options)
    found = store.ensure(artefact, pinned.lock, cache, options=options)
    assert (found.verified_by, found.virtual_size_bytes) == ("pin", None)
    assert mirror.count("/install.sh") == 1
    mirror.files["/install.sh"] = b"#!/bin/sh\necho evil\n"
    with pytest.raises(ArtefactError) as caught:
        store.ensure(artefact, pinned.lock, cache / "other", options=options)
    assert caught.value.check == "pinned digest"
    # A failed pin takes nothing away from what is good.
    mirror.files.clear()
    with pytest.raises(ArtefactError, match="HTTP 404"):
        store.pin(artefact, pinned.lock, cache, options=options)
    assert store.ensure(artefact, pinned.lock, cache, options=options) == found


@pytest.mark.parametrize("content", [b"<html>", b"#!/bin/sh\n\0", b""])
def test_script_that_is_none(mirror, lock, cache, options, content):
    mirror.files["/install.sh"] = content
    with pytest.raises(ArtefactError) as caught:
        store.pin(k3s_installer("v1.34.1+k3s1", f"{mirror.url}/install.sh"), lock, cache, options=options)
    assert caught.value.check == "format"


def test_unsigned_artefact_over_plain_http_is_not_pinned_on_sight(lock, cache, options):
    artefact = k3s_installer("v1.34.1+k3s1", "http://mirror.example/install.sh")
    with pytest.raises(ArtefactError, match="plain http lets anybody"):
        store.pin(artefact, lock, cache, options=options)


def test_k3s_default_address():
    assert k3s_installer("v1.34.1+k3s1").url == (
        "https://raw.githubusercontent.com/k3s-io/k3s/v1.34.1%2Bk3s1/install.sh"
    )


# --- local images


@pytest.fixture
def manifest(tmp_path: Path, image: bytes) -> Callable[..., Path]:
    folder = tmp_path / "a folder,with a comma"
    folder.mkdir()
    (folder / "guest #1.qcow2").write_bytes(image)

    def write(**changes: object) -> Path:
        document = {
            "name": "practice-guest",
            "version": "2026.11",
            "arch": "amd64",
            "format": "qcow2",
            "path": "guest #1.qcow2",
            "size_bytes": len(image),
            "sha512": hashlib.sha512(image).hexdigest(),
            "virtual_size_bytes": 4 * MIB,
        }
        path = folder / "manifest.json"
        path.write_text(json.dumps({**document, **changes}))
        return path

    return write


def test_local_image(manifest, lock, cache, options, image):
    found = store.ensure(local_image(manifest()), lock, cache, options=options)
    assert (found.verified_by, found.version) == ("manifest", "2026.11")
    assert found.path.read_bytes() == image
    assert store.verify(local_image(manifest()), lock, cache, options=options) == found
    # A rebuilt image of the same version is another file.
    with pytest.raises(ArtefactError) as caught:
        store.ensure(local_image(manifest(sha512="0" * 128)), lock, cache, options=options)
    assert caught.value.check == "manifest"


@pytest.mark.parametrize(
    ("changes", "check"),
    [
        ({"size_bytes": 1}, "manifest"),
        ({"virtual_size_bytes": MIB}, "format"),
        ({"format": "raw"}, "format"),
        ({"path": "not-there.qcow2"}, "download"),
        ({"path": "."}, "download"),
    ],
)
def test_local_image_that_is_not_its_manifest(manifest, lock, cache, options, changes, check):
    with pytest.raises(ArtefactError) as caught:
        store.ensure(local_image(manifest(**changes)), lock, cache, options=options)
    assert caught.value.check == check
    assert stored(cache) == leftovers(cache) == []


@pytest.mark.parametrize(
    "changes", [{"sha512": "abc"}, {"arch": "riscv"}, {"size_bytes": "12"}, {"name": "../x"}]
)
def test_manifest_that_is_none(manifest, changes):
    with pytest.raises(ArtefactError) as caught:
        local_image(manifest(**changes))
    assert next(iter(changes)) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"[1]", b"\xff", b"[" * 100_000])
def test_manifest_that_is_not_json(tmp_path, content):
    path = tmp_path / "manifest.json"
    with pytest.raises(ArtefactError, match="cannot be read"):
        local_image(path)
    path.write_bytes(content)
    with pytest.raises(ArtefactError):
        local_image(path)


# --- the cache


def test_a_hit_needs_no_network(place, lock, cache, options, mirror):
    first = store.ensure(place.artefact(), lock, cache, options=options)
    asked = len(mirror.requests)
    mirror.files.clear()
    assert store.ensure(place.artefact(), lock, cache, options=options) == first
    assert store.verify(place.artefact(), lock, cache, options=options) == first
    assert len(mirror.requests) == asked


def test_a_changed_blob_is_fetched_again(place, release, lock, cache, options, mirror):
    found = store.ensure(place.artefact(), lock, cache, options=options)
    changed = bytearray(release.image)
    changed[-1] ^= 1
    found.path.chmod(0o600)
    found.path.write_bytes(changed)
    found.path.chmod(0o400)
    notes: list[str] = []
    again = store.ensure(
        place.artefact(), lock, cache, options=options, on_progress=lambda step: notes.append(step.message)
    )
    assert again.path.read_bytes() == release.image
    assert mirror.count(place.image_path) == 2
    assert any("the stored file was changed" in note for note in notes)


def test_verify_tells_a_changed_blob_and_removes_it(place, release, lock, cache, options):
    found = store.ensure(place.artefact(), lock, cache, options=options)
    before = found.path.stat()
    found.path.chmod(0o600)
    found.path.write_bytes(release.image[:-1] + b"x")
    with pytest.raises(ArtefactError) as caught:
        store.verify(place.artefact(), lock, cache, options=options)
    assert caught.value.check == "cache"
    assert before.st_size == len(release.image)
    assert stored(cache) == []
    with pytest.raises(ArtefactError, match="is not in the store"):
        store.verify(place.artefact(), lock, cache, options=options)


def test_a_touched_blob_is_hashed_and_kept(place, lock, cache, options, mirror):
    found = store.ensure(place.artefact(), lock, cache, options=options)
    found.path.chmod(0o644)
    assert store.ensure(place.artefact(), lock, cache, options=options) == found
    assert mirror.count(place.image_path) == 1
    assert stat.S_IMODE(found.path.stat().st_mode) == 0o400


def test_a_record_without_its_blob_or_damaged(place, lock, cache, options, mirror):
    found = store.ensure(place.artefact(), lock, cache, options=options)
    found.path.unlink()
    store.ensure(place.artefact(), lock, cache, options=options)
    next((cache / "records").glob("*.json")).write_text("{}")
    store.ensure(place.artefact(), lock, cache, options=options)
    assert mirror.count(place.image_path) == 3


def test_verify_reads_the_stored_signature(place, lock, cache, options, stranger, release):
    store.ensure(place.artefact(), lock, cache, options=options)
    path = next((cache / "records").glob("*.json"))
    record = json.loads(path.read_text())
    record["signature"] = "AAAA"
    path.write_text(json.dumps(record))
    with pytest.raises(ArtefactError) as caught:
        store.verify(place.artefact(), lock, cache, options=options)
    assert caught.value.check == "signature"
    assert stored(cache) == []


def test_a_renewed_key_file_needs_no_second_download(place, lock, cache, options, mirror, signer, tmp_path):
    key = tmp_path / "key.asc"
    key.write_bytes(signer.key_file.read_bytes())
    artefact = place.artefact(dataclasses.replace(place.policy, key_file=key))
    found = store.ensure(artefact, lock, cache, options=options)
    before = store.records(cache)[0].key_sha256
    key.write_bytes(key.read_bytes() + b"\n")
    assert store.ensure(artefact, lock, cache, options=options) == found
    assert store.records(cache)[0].key_sha256 != before
    assert mirror.count(place.image_path) == 1


def test_a_blob_alone_is_not_taken_for_good(place, release, lock, cache, options, mirror):
    """A file of the right name that nobody recorded."""
    store.ensure(place.artefact(), lock, cache, options=options)
    next((cache / "records").glob("*.json")).unlink()
    blob = next((cache / "blobs").iterdir())
    blob.unlink()
    blob.write_bytes(b"planted")
    found = store.ensure(place.artefact(), lock, cache, options=options)
    assert found.path.read_bytes() == release.image
    assert mirror.count(place.image_path) == 2


def test_cache_that_cannot_be_used(place, lock, tmp_path, options):
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtefactError) as caught:
        store.ensure(place.artefact(), lock, tmp_path / "file", options=options)
    assert caught.value.check == "cache"


def test_missing_programs_are_named(place, lock, cache, options, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ArtefactError) as caught:
        store.ensure(place.artefact(), lock, cache, options=options)
    assert (caught.value.check, caught.value.file) == ("tool", "gpg")
    assert "apt install gpg" in str(caught.value)


# --- arguments


@pytest.mark.parametrize(
    "arguments",
    [
        ("current", "amd64", "openstack", "https://m"),
        ("4593.2.5/../..", "amd64", "openstack", "https://m"),
        (VERSION, "riscv64", "openstack", "https://m"),
        (VERSION, "amd64", "vmware", "https://m"),
        (VERSION, "amd64", "openstack", "ftp://m"),
        (VERSION, "amd64", "openstack", "https://"),
        (VERSION, "amd64", "openstack", "https://u:secret@m"),
        (VERSION, "amd64", "openstack", "https://m/?a=b"),
        (VERSION, "amd64", "openstack", "file://host/path"),
        (VERSION, "amd64", "openstack", "https://m:port"),
        (VERSION, "amd64", "openstack", "https://[m"),
        (VERSION, "amd64", "openstack", "https://m/a b"),
    ],
)
def test_arguments_that_are_none(arguments):
    with pytest.raises(ArtefactError) as caught:
        flatcar(*arguments)
    assert caught.value.check == "arguments"
    assert "secret" not in str(caught.value)


def test_file_names_by_flavour():
    urls = {
        flavour: flatcar(VERSION, "arm64", flavour).url for flavour in ("kubevirt", "qemu_uefi", "proxmoxve")
    }
    base = f"https://stable.release.flatcar-linux.net/arm64-usr/{VERSION}"
    assert urls == {
        "kubevirt": f"{base}/flatcar_production_kubevirt_image.qcow2",
        "qemu_uefi": f"{base}/flatcar_production_qemu_uefi_image.img",
        "proxmoxve": f"{base}/flatcar_production_proxmoxve_image.img",
    }


def test_air_gapped_copy(signer, release, lock, cache, options, tmp_path):
    folder = tmp_path / "usb stick" / "amd64-usr" / VERSION
    folder.mkdir(parents=True)
    for name, content in release.files.items():
        (folder / name).write_bytes(content)
    base = (tmp_path / "usb stick").as_uri()
    artefact = flatcar(VERSION, "amd64", "openstack", base, policy=signer.policy)
    assert store.ensure(artefact, lock, cache, options=options).verified_by == "signature"
    (folder / f"{IMAGE}.sig").unlink()
    with pytest.raises(ArtefactError, match="cannot be opened"):
        store.ensure(artefact, lock, cache / "other", options=options)
    assert stored(cache / "other") == leftovers(cache / "other") == []
