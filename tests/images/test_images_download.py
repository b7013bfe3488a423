"""Networks and disks that fail: recovered where that is safe, else refused by name."""
# ruff: noqa: PLR0917 - fixtures come as arguments

from __future__ import annotations

import dataclasses
import errno
import hashlib
import http.server
import json
import os
import resource
import signal
import ssl
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from image_support import IMAGE, MIB, VERSION, Behaviour, Mirror, leftovers, stored

from layer1.images import download as module
from layer1.images import store
from layer1.images.download import Downloaded, Progress, Settings, discard, download, ignore_progress
from layer1.images.failure import ArtefactError
from layer1.images.store import Options

BODY = b"".join(hashlib.sha512(b"%d" % i).digest() for i in range(50_000))  # 3.2 MB, three chunks and a rest
PATH = "/file.img"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "partial"
    path.mkdir()
    return path


def take(mirror: Mirror, folder: Path, settings: Settings | None = None, **changes: object) -> Downloaded:
    arguments = {"max_bytes": 10 * MIB, "on_progress": ignore_progress, "retry_command": "again", **changes}
    settings = settings or Settings(sleep=lambda _: None, read_timeout_s=5.0)
    return download(mirror.url + PATH, folder, settings=settings, **arguments)


def whole(result: Downloaded) -> bool:
    content = result.path.read_bytes()
    return (
        content == BODY
        and result.sha512 == hashlib.sha512(BODY).hexdigest()
        and result.sha256 == hashlib.sha256(BODY).hexdigest()
        and result.size_bytes == len(BODY)
    )


@pytest.fixture
def served(mirror: Mirror) -> Mirror:
    mirror.files[PATH] = BODY
    return mirror


def ranges(mirror: Mirror) -> list[str | None]:
    return [headers.get("Range") for path, headers in mirror.requests if path == PATH]


def test_one_pass(served, folder):
    steps: list[Progress] = []
    assert whole(take(served, folder, on_progress=steps.append))
    assert ranges(served) == [None]
    assert steps[-1] == Progress(kind="done", file="file.img", done_bytes=len(BODY), total_bytes=len(BODY))
    assert [step.done_bytes for step in steps] == sorted(step.done_bytes for step in steps)
    assert sorted(path.suffix for path in folder.iterdir()) == [".part"]


@pytest.mark.parametrize("at", [0, 1, MIB, MIB + 1, 2 * MIB + 77, len(BODY) - 1])
def test_connection_cut_once_at(served, folder, at):
    served.script[PATH] = [Behaviour(cut_at=at)]
    assert whole(take(served, folder))
    assert len(ranges(served)) == 2
    if at:
        assert ranges(served)[1] == f"bytes={at}-"
        assert served.requests[1][1]["If-Range"] == '"one"'


def test_connection_cut_at_every_stage(served, folder):
    served.script[PATH] = [Behaviour(cut_at=at) for at in (0, 500_000, 1_500_000, len(BODY) - 1)]
    assert whole(take(served, folder))
    assert ranges(served) == [None, None, "bytes=500000-", "bytes=1500000-", f"bytes={len(BODY) - 1}-"]


def test_connection_cut_for_ever_then_taken_up_by_a_later_run(served, folder):
    served.default[PATH] = Behaviour(cut_at=700_000)
    with pytest.raises(ArtefactError) as caught:
        take(served, folder)
    assert caught.value.check == "download"
    assert "gave up after 5 attempts" in str(caught.value)
    assert caught.value.found == f"700000 of {len(BODY)} bytes"
    assert "`again`" in caught.value.remedy
    served.default.clear()
    served.requests.clear()
    assert whole(take(served, folder))
    assert ranges(served) == ["bytes=700000-"]


def test_waits_grow_and_are_bounded(served, folder):
    waits: list[float] = []
    served.default[PATH] = Behaviour(status=503)
    settings = Settings(sleep=waits.append, attempts=5, backoff_s=1.0, backoff_max_s=3.0)
    with pytest.raises(ArtefactError, match="HTTP 503"):
        take(served, folder, settings)
    assert len(waits) == 4
    for wait, base in zip(waits, (1, 2, 3, 3), strict=True):
        assert 0.5 * base <= wait <= 1.5 * base
    assert list(folder.iterdir()) == []


def test_a_part_changed_on_disk_is_not_trusted(served, folder, place, lock, cache, options, release):
    """Resuming hashes the part again; a part with other bytes ends at the signature, and leaves nothing."""
    path = place.image_path
    place.mirror.default[path] = Behaviour(cut_at=100_000)
    with pytest.raises(ArtefactError):
        store.ensure(place.artefact(), lock, cache, options=options)
    part = next((cache / "partial").rglob("*.part"))
    part.write_bytes(b"x" * 100_000)
    place.mirror.default.clear()
    with pytest.raises(ArtefactError) as caught:
        store.ensure(place.artefact(), lock, cache, options=options)
    assert caught.value.check == "signature"
    assert stored(cache) == leftovers(cache) == []
    assert store.ensure(place.artefact(), lock, cache, options=options).path.read_bytes() == release.image


def cut(served: Mirror, folder: Path) -> None:
    served.default[PATH] = Behaviour(cut_at=700_000)
    with pytest.raises(ArtefactError):
        take(served, folder)
    served.default.clear()
    served.requests.clear()


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"url": 1}', "[" * 50_000])
def test_a_part_with_a_damaged_description_is_dropped(served, folder, content):
    cut(served, folder)
    next(folder.glob("*.json")).write_text(content)
    assert whole(take(served, folder))
    assert ranges(served) == [None]


def test_a_part_of_another_address_is_not_used(served, folder):
    cut(served, folder)
    description = next(folder.glob("*.json"))
    description.write_text(
        json.dumps({**json.loads(description.read_text()), "url": "http://elsewhere/file.img"})
    )
    assert whole(take(served, folder))
    assert ranges(served) == [None]


def test_a_part_larger_than_the_file_is_dropped(served, folder):
    cut(served, folder)
    next(folder.glob("*.part")).write_bytes(BODY + b"more")
    assert whole(take(served, folder))
    assert ranges(served) == [None]


def test_a_whole_part_is_fetched_again(served, folder):
    """Killed after the last byte and before the rename: there is no range to ask for."""
    cut(served, folder)
    next(folder.glob("*.part")).write_bytes(BODY)
    assert whole(take(served, folder))
    assert ranges(served) == [None]


def test_a_file_that_changed_meanwhile_starts_anew(served, folder):
    cut(served, folder)
    served.default[PATH] = Behaviour(etag='"two"')
    assert whole(take(served, folder))
    assert ranges(served) == ["bytes=700000-"]


def test_a_server_that_ignores_range_starts_anew(served, folder):
    cut(served, folder)
    served.default[PATH] = Behaviour(ignore_range=True)
    assert whole(take(served, folder))


def test_a_server_that_continues_with_another_file(served, folder):
    """Status 206 in spite of If-Range, another ETag: the two halves are not put together."""
    cut(served, folder)
    served.script[PATH] = [Behaviour(etag='"two"', range_off_by=0)]
    original = served.answer

    def careless(handler: http.server.BaseHTTPRequestHandler) -> None:
        if "If-Range" in handler.headers:
            handler.headers.replace_header("If-Range", '"two"')
        original(handler)

    served.answer = careless
    assert whole(take(served, folder))
    assert ranges(served)[1] is None


def test_a_server_that_continues_elsewhere(served, folder):
    cut(served, folder)
    served.script[PATH] = [Behaviour(range_off_by=5)]
    assert whole(take(served, folder))
    assert ranges(served) == ["bytes=700000-", None]


@pytest.mark.parametrize("etag", ['W/"one"', None, "one"])
def test_no_resume_without_a_strong_validator(served, folder, etag):
    served.script[PATH] = [Behaviour(cut_at=700_000, etag=etag)]
    assert whole(take(served, folder))
    assert ranges(served) == [None, None]
    served.default[PATH] = Behaviour(cut_at=700_000, etag=etag)
    with pytest.raises(ArtefactError):
        take(served, folder)
    assert list(folder.glob("*.json")) == []


def test_resume_by_date(served, folder):
    date = "Wed, 12 Aug 2026 03:00:00 GMT"
    served.default[PATH] = Behaviour(etag=None, last_modified=date)
    served.script[PATH] = [Behaviour(cut_at=700_000, etag=None, last_modified=date)]
    assert whole(take(served, folder))
    assert served.requests[1][1]["If-Range"] == date


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_http_errors_that_stay_are_not_tried_again(served, folder, status):
    served.default[PATH] = Behaviour(status=status)
    with pytest.raises(ArtefactError) as caught:
        take(served, folder)
    assert (caught.value.check, caught.value.found) == ("download", f"HTTP {status}")
    assert len(ranges(served)) == 1
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("status", [408, 416, 429, 500, 502, 503, 504])
def test_http_errors_that_pass_are_tried_again(served, folder, status):
    served.script[PATH] = [Behaviour(status=status), Behaviour(status=status)]
    assert whole(take(served, folder))
    assert len(ranges(served)) == 3


def test_server_that_is_not_there(folder, mirror):
    mirror.close()
    with pytest.raises(ArtefactError, match=r"connection failed .*Connection refused"):
        take(mirror, folder, Settings(attempts=2, sleep=lambda _: None))
    assert list(folder.iterdir()) == []


def test_server_that_says_nothing(served, folder):
    served.default[PATH] = Behaviour(stall_s=30)
    began = time.monotonic()
    with pytest.raises(ArtefactError, match="gave up after 2 attempts"):
        take(served, folder, Settings(attempts=2, sleep=lambda _: None, read_timeout_s=0.2))
    assert time.monotonic() - began < 5


def test_time_limit_for_all_attempts(served, folder):
    served.default[PATH] = Behaviour(cut_at=1)
    with pytest.raises(ArtefactError, match=r"time limit of 0 s reached"):
        take(served, folder, Settings(total_timeout_s=0.0, sleep=lambda _: None))


def test_length_that_promises_too_much(served, folder):
    served.default[PATH] = Behaviour(length_off_by=10)
    with pytest.raises(ArtefactError) as caught:
        take(served, folder)
    assert caught.value.expected == f"{len(BODY) + 10} bytes"


def test_length_that_promises_too_little_ends_at_the_signature(place, release, lock, cache, options):
    place.mirror.script[place.image_path] = [Behaviour(length_off_by=-10)]
    with pytest.raises(ArtefactError) as caught:
        store.ensure(place.artefact(), lock, cache, options=options)
    assert caught.value.check == "signature"
    assert stored(cache) == leftovers(cache) == []
    store.ensure(place.artefact(), lock, cache, options=options)


def test_cut_without_a_length_ends_at_the_signature(place, lock, cache, options):
    """Nothing in the protocol tells this cut."""
    place.mirror.script[place.image_path] = [Behaviour(no_length=True, cut_at=100_000)]
    with pytest.raises(ArtefactError) as caught:
        store.ensure(place.artefact(), lock, cache, options=options)
    assert caught.value.check == "signature"
    assert stored(cache) == leftovers(cache) == []
    place.mirror.default[place.image_path] = Behaviour(no_length=True)
    store.ensure(place.artefact(), lock, cache, options=options)


@pytest.mark.parametrize("how", [Behaviour(), Behaviour(no_length=True)])
def test_longer_than_allowed(served, folder, how):
    served.default[PATH] = how
    with pytest.raises(ArtefactError) as caught:
        take(served, folder, max_bytes=MIB)
    assert caught.value.check == "size"
    assert list(folder.iterdir()) == []


def test_packed_transfer_is_not_accepted(served, folder):
    served.default[PATH] = Behaviour(encoding="gzip")
    with pytest.raises(ArtefactError, match="packs the transfer"):
        take(served, folder)


# --- redirects


def test_redirects_are_followed(served, folder):
    served.files["/other"] = BODY
    served.script[PATH] = [Behaviour(location="/other")]
    assert whole(take(served, folder))


@pytest.mark.parametrize("there", ["file:///etc/passwd", "ftp://host/file", "gopher://host"])
def test_redirect_to_another_scheme(served, folder, there):
    served.default[PATH] = Behaviour(location=there)
    with pytest.raises(ArtefactError) as caught:
        take(served, folder)
    assert (caught.value.check, caught.value.found) == ("download", there)


def test_redirect_without_end(served, folder):
    served.default[PATH] = Behaviour(location=PATH)
    with pytest.raises(ArtefactError, match="redirects without end"):
        take(served, folder)
    assert len(ranges(served)) == 6


@pytest.fixture
def secure(served: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    """The same server behind TLS, with a certificate that the client trusts."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    )
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command.split(), *names], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    made = Mirror(context)
    made.files = served.files
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    try:
        yield made
    finally:
        made.close()


def test_redirect_from_https_to_http(served, secure, folder):
    assert whole(take(secure, folder))
    secure.default[PATH] = Behaviour(location=served.url + PATH)
    with pytest.raises(ArtefactError) as caught:
        take(secure, folder)
    assert caught.value.expected == "https://…"
    assert served.requests == []


def test_certificate_that_nobody_vouches_for(secure, folder, monkeypatch):
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    with pytest.raises(ArtefactError, match="CERTIFICATE_VERIFY_FAILED"):
        take(secure, folder, Settings(attempts=2, sleep=lambda _: None))


# --- disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    path = tmp_path / "small"
    path.mkdir()
    mounted = os.geteuid() == 0 and (
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(path)], check=False, capture_output=True
        ).returncode
        == 0
    )
    if not mounted:
        pytest.skip("mounting a small file system needs root")
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


def test_disk_too_small_is_told_before(served, small_disk):
    with pytest.raises(ArtefactError) as caught:
        take(served, small_disk)
    assert caught.value.check == "disk space"
    assert "is too full" in str(caught.value)
    assert list(small_disk.iterdir()) == []


def test_disk_full_while_writing(served, small_disk):
    served.default[PATH] = Behaviour(no_length=True)
    with pytest.raises(ArtefactError) as caught:
        take(served, small_disk)
    assert caught.value.check == "disk space"
    assert "became full" in str(caught.value)
    assert list(small_disk.iterdir()) == []


def test_disk_full_in_the_store(place, small_disk, lock, options, release):
    cache = small_disk / "cache"
    place.mirror.default[place.image_path] = Behaviour(no_length=True)
    (small_disk / "filler").write_bytes(bytes(2 * MIB - 200_000))
    with pytest.raises(ArtefactError) as caught:
        store.ensure(place.artefact(), lock, cache, options=options)
    assert caught.value.check == "disk space"
    assert stored(cache) == leftovers(cache) == []
    (small_disk / "filler").unlink()
    store.ensure(place.artefact(), lock, cache, options=options)


def test_file_size_limit_while_writing(served, folder):
    """As a quota: it holds for the process, not for the disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, hard))
    try:
        with pytest.raises(ArtefactError) as caught:
            take(served, folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert caught.value.check == "disk space"
    assert list(folder.iterdir()) == []


def test_folder_that_cannot_be_written(served, folder):
    with pytest.raises(ArtefactError) as caught:
        take(served, folder / "not-there")
    assert caught.value.check == "cache"


def test_every_full_disk_has_the_same_name():
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        with pytest.raises(ArtefactError) as caught, module._disk_errors("u"):
            raise OSError(number, "full")
        assert caught.value.check == "disk space"


# --- one after the other


def test_two_fetches_at_once(place, lock, cache, options, release):
    place.mirror.default[place.image_path] = Behaviour(stall_s=0.5)
    results: list[object] = []
    notes: list[str] = []

    def run() -> None:
        try:
            results.append(
                store.ensure(
                    place.artefact(),
                    lock,
                    cache,
                    options=options,
                    on_progress=lambda step: notes.append(step.message),
                )
            )
        except BaseException as error:  # noqa: BLE001 - shown by the assertion below
            results.append(error)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert [getattr(result, "sha512", result) for result in results] == [
        hashlib.sha512(release.image).hexdigest()
    ] * 3
    assert place.mirror.count(place.image_path) == 1
    assert "another process works on it; waiting" in notes


def test_two_processes_at_once_and_one_killed(place, lock, cache, options, release, signer):
    """The first dies in the middle: its lock goes with it, and its part is taken up."""
    program = textwrap.dedent(f"""
        import pathlib, sys
        from layer1.images import store
        from layer1.images.artefact import SignaturePolicy, flatcar
        from layer1.images.lockfile import LockFile
        policy = SignaturePolicy(
            key_file=pathlib.Path({str(signer.key_file)!r}), primary_fingerprint={signer.primary!r})
        artefact = flatcar({VERSION!r}, "amd64", "openstack", {place.mirror.url!r}, policy=policy)
        store.ensure(artefact, LockFile.load(pathlib.Path({str(lock.path)!r})), pathlib.Path({str(cache)!r}))
    """)
    place.mirror.script[place.image_path] = [Behaviour(cut_at=150_000), Behaviour(stall_s=60)]
    first = subprocess.Popen([sys.executable, "-c", program], cwd=Path(store.__file__).parents[2])
    try:
        end = time.monotonic() + 20
        while place.mirror.count(place.image_path) < 2 and time.monotonic() < end:
            time.sleep(0.05)
        quick = dataclasses.replace(options, lock_timeout_s=0.3)
        with pytest.raises(ArtefactError) as caught:
            store.ensure(place.artefact(), lock, cache, options=quick)
        assert caught.value.check == "lock"
    finally:
        first.kill()
        first.wait()
    assert stored(cache) == []
    assert leftovers(cache) != []
    found = store.ensure(place.artefact(), lock, cache, options=options)
    assert found.path.read_bytes() == release.image
    assert place.mirror.requests[-5][1].get("Range") == "bytes=150000-"


def test_two_flavours_at_once_do_not_share_parts(place, signer, release, lock, cache, options):
    """Both need the same version.txt."""
    second = dataclasses.replace(place.artefact(), name="flatcar/other", url=place.artefact().url)
    failures: list[BaseException] = []

    def run(artefact: object) -> None:
        try:
            store.ensure(artefact, lock, cache, options=options)
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=run, args=(one,)) for one in (place.artefact(), second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert failures == []
    assert len(stored(cache)) == 3


@pytest.mark.parametrize(
    "name", [IMAGE, f"{IMAGE}.sig", f"{IMAGE}.DIGESTS.asc", "version.txt", "version.txt.sig"]
)
@pytest.mark.parametrize("status", [404, 500])
def test_any_file_that_is_not_given(place, release, lock, cache, waits, name, status):
    path = place.image_path.replace(IMAGE, name)
    place.mirror.default[path] = Behaviour(status=status)
    options = Options(settings=Settings(sleep=waits.append, attempts=2))
    with pytest.raises(ArtefactError) as caught:
        store.ensure(place.artefact(), lock, cache, options=options)
    assert caught.value.check == "download"
    assert caught.value.file.endswith(f"/{VERSION}/{name}")
    assert stored(cache) == leftovers(cache) == []
    place.mirror.default.clear()
    assert store.ensure(place.artefact(), lock, cache, options=options).path.read_bytes() == release.image


@pytest.mark.parametrize("name", [f"{IMAGE}.sig", f"{IMAGE}.DIGESTS.asc", "version.txt", "version.txt.sig"])
def test_any_small_file_cut(place, release, lock, cache, options, name):
    path = place.image_path.replace(IMAGE, name)
    place.mirror.script[path] = [Behaviour(cut_at=0), Behaviour(cut_at=10)]
    assert store.ensure(place.artefact(), lock, cache, options=options).path.read_bytes() == release.image


def test_interrupted_by_the_operator(served, folder):
    def stop(step: Progress) -> None:
        if step.done_bytes > MIB:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        take(served, folder, on_progress=stop)
    served.requests.clear()
    assert whole(take(served, folder))
    assert ranges(served)[0] is not None


def test_discard_and_no_resume(served, folder):
    cut(served, folder)
    assert whole(take(served, folder, resume=False))
    assert ranges(served) == [None]
    discard(served.url + PATH, folder)
    assert list(folder.iterdir()) == []
