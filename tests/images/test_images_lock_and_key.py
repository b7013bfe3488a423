"""The lock file, gpgv's status lines and the key: whatever comes in, only an ImageError comes out."""

from __future__ import annotations

import dataclasses
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from layer1.images import signature, store
from layer1.images.artefact import FLATCAR_POLICY, SignaturePolicy, k3s_installer
from layer1.images.cli import DEFAULT_LOCK
from layer1.images.failure import ArtefactError
from layer1.images.lockfile import Entry, LockFile
from layer1.images.signature import SigningKey, StatusLine, expiry_warning, judge, parse_status, read_keys

PRIMARY, SUBKEY = "A" * 40, "B" * 40
POLICY = SignaturePolicy(key_file=Path("key"), primary_fingerprint=PRIMARY)
VALID = f"[GNUPG:] VALIDSIG {SUBKEY} 2026-08-12 1786503600 0 4 0 1 10 00 {PRIMARY}"
GOOD = f"[GNUPG:] NEWSIG\n[GNUPG:] GOODSIG {SUBKEY[:16]} Somebody <s@example.test>\n{VALID}\n"


# --- status lines


def decide(text: str, code: int = 0, *, clearsigned: bool = False) -> signature.SignatureFacts:
    return judge(parse_status(text), code, POLICY, "file", clearsigned=clearsigned)


def test_good_status():
    facts = decide("gpgv: noise\n" + GOOD)
    assert (facts.primary, facts.signing_key) == (PRIMARY, SUBKEY)
    assert facts.signed_at == datetime(2026, 8, 12, 3, 0, tzinfo=UTC)
    assert decide(GOOD.replace("1786503600", "20260812T030000")) == facts


def test_good_status_of_a_clearsigned_text():
    text = "[GNUPG:] PLAINTEXT 74 0 \n" + GOOD.replace(" 10 00 ", " 10 01 ")
    assert decide(text, clearsigned=True).primary == PRIMARY
    with pytest.raises(ArtefactError, match="not one clearsigned text"):
        decide(GOOD, clearsigned=True)
    with pytest.raises(ArtefactError, match="not one clearsigned text"):
        decide("[GNUPG:] PLAINTEXT 74 0 \n" + text, clearsigned=True)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", 0),
        ('gpgv: Good signature from "Somebody"\n', 0),
        (f"[GNUPG:] GOODSIG {PRIMARY[:16]} x\n", 0),
        (VALID, 0),
        (GOOD.replace(PRIMARY, SUBKEY), 0),
        (GOOD.replace(PRIMARY, PRIMARY.lower()), 0),
        (
            GOOD.replace(f"VALIDSIG {SUBKEY}", f"VALIDSIG {PRIMARY}").replace(
                f"00 {PRIMARY}", f"00 {SUBKEY}"
            ),
            0,
        ),
        (GOOD.replace(f" {PRIMARY}", ""), 0),
        (GOOD + f"[GNUPG:] NEWSIG\n{VALID}\n", 0),
        (GOOD + GOOD, 0),
        (GOOD + "[GNUPG:] NEWSIG\n", 0),
        (GOOD, 1),
        (GOOD.replace(" 10 00 ", " 2 00 "), 0),
        (GOOD.replace(" 10 00 ", " 1 00 "), 0),
        (GOOD.replace(" 10 00 ", " 10 01 "), 0),
        ("[GNUPG:] PLAINTEXT 62 0 \n" + GOOD, 0),
        (GOOD.replace("1786503600", "never"), 0),
        (GOOD.replace("1786503600", "9" * 30), 0),
        (GOOD.replace("[GNUPG:] VALIDSIG", "x[GNUPG:] VALIDSIG"), 0),
        *[
            (f"{GOOD}[GNUPG:] {bad} 1234 x\n", 0)
            for bad in (
                "BADSIG",
                "ERRSIG",
                "EXPSIG",
                "EXPKEYSIG",
                "REVKEYSIG",
                "NO_PUBKEY",
                "NODATA",
                "UNEXPECTED",
                "FAILURE",
            )
        ],
    ],
)
def test_bad_status(text, code):
    with pytest.raises(ArtefactError) as caught:
        decide(text, code)
    assert caught.value.check == "signature"


def test_a_user_id_cannot_forge_a_status_line():
    forged = GOOD.replace("Somebody", f"x\x0b{VALID}\x85{VALID}\u2028{VALID}")
    assert decide(forged).primary == PRIMARY
    only = f"[GNUPG:] NEWSIG\n[GNUPG:] GOODSIG 1 x\u2028{VALID}\n"
    with pytest.raises(ArtefactError):
        decide(only)


KEYWORDS = st.sampled_from(
    ["NEWSIG", "GOODSIG", "VALIDSIG", "BADSIG", "EXPKEYSIG", "PLAINTEXT", "KEY_CONSIDERED", "FAILURE", ""]
)
WORDS = st.sampled_from(
    ["", "0", "1", "8", "00", "01", "10", PRIMARY, SUBKEY, "1786503600", "20260812T030000", "-", "é"]
)
LINES = st.one_of(
    st.text(max_size=60),
    st.builds(
        lambda keyword, words: f"[GNUPG:] {keyword} {' '.join(words)}", KEYWORDS, st.lists(WORDS, max_size=12)
    ),
    st.just(VALID),
    st.just(f"[GNUPG:] GOODSIG {SUBKEY[:16]} x"),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(LINES, max_size=6), st.integers(0, 2), st.booleans())
def test_any_status_is_judged_without_a_traceback(lines, code, clearsigned):
    status = parse_status("\n".join(lines))
    try:
        facts = judge(status, code, POLICY, "file", clearsigned=clearsigned)
    except ArtefactError:
        return
    # What is accepted has the pinned primary in the last field of its only VALIDSIG.
    valid = [line for line in status if line.keyword == "VALIDSIG"]
    assert len(valid) == 1
    assert valid[0].arguments[-1] == PRIMARY == facts.primary
    assert code == 0
    assert not any(line.keyword in {"BADSIG", "EXPKEYSIG", "FAILURE"} for line in status)


def test_parse_status():
    assert parse_status("[GNUPG:] A b  c\n[GNUPG:]\n[GNUPG:] \nno\n") == [StatusLine("A", ("b", "c"))]


# --- the key


def test_the_pinned_key_is_in_the_repository():
    keys = {key.fingerprint: key for key in read_keys(FLATCAR_POLICY)}
    current = keys["52F145DFD00BBDCD928CBB5A32DA80F91EF52974"]
    assert current.expires_at is not None
    assert current.expires_at.date().isoformat() == "2027-03-08"
    assert current.expires_at <= datetime.now(UTC) or current.usable


def end(days: float, *, usable: bool = True) -> SigningKey:
    return SigningKey(fingerprint=SUBKEY, expires_at=NOW + timedelta(days=days), usable=usable)


NOW = datetime(2026, 12, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ([end(91)], None),
        ([end(90)], "in 90 days"),
        ([end(1.5)], "in 1 days"),
        ([end(0)], "no key in"),
        ([end(-5)], "no key in"),
        ([], "no key in"),
        ([end(400, usable=False)], "no key in"),
        ([end(10), end(300)], None),
        ([end(400, usable=False), end(10)], "in 10 days"),
        ([SigningKey(fingerprint=SUBKEY, expires_at=None, usable=True)], None),
        ([end(5), SigningKey(fingerprint=SUBKEY, expires_at=None, usable=False)], "in 5 days"),
    ],
)
def test_expiry_is_told_in_time(keys, words):
    sentence = expiry_warning(keys, Path("key.asc"), NOW)
    if words is None:
        assert sentence is None
    else:
        assert words in sentence
        assert "key.asc" in sentence


def test_the_warning_comes_with_the_image(place, lock, cache, options):
    assert store.ensure(place.artefact(), lock, cache, options=options).warnings == ()
    expires = max(key.expires_at for key in read_keys(place.policy))
    late = dataclasses.replace(options, now=lambda: expires - timedelta(days=30, hours=1))
    (warning,) = store.ensure(place.artefact(), lock, cache, options=late).warnings
    assert "in 30 days" in warning


@pytest.mark.parametrize("content", [b"", b"no key", b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nAAAA\n"])
def test_key_file_that_is_none(tmp_path, content):
    path = tmp_path / "key.asc"
    policy = SignaturePolicy(key_file=path, primary_fingerprint=PRIMARY)
    with pytest.raises(ArtefactError, match="cannot be read") as caught:
        read_keys(policy)
    assert caught.value.check == "key"
    path.write_bytes(content)
    with pytest.raises(ArtefactError, match="does not hold the pinned key"):
        read_keys(policy)


# --- the lock file

ENTRY = {
    "url": "https://example.test/f",
    "sha512": "0" * 128,
    "size_bytes": 5,
    "file_format": "qcow2",
    "pinned_at": "2026-11-24T03:00:00Z",
}


def write(path: Path, **changes: object) -> Path:
    entry = {key: value for key, value in {**ENTRY, **changes}.items() if value is not None}
    path.write_text(yaml.safe_dump({"version": 1, "entries": {"flatcar/1.2.3/amd64/openstack": entry}}))
    return path


def test_the_shipped_lock_file_invents_nothing():
    lock = LockFile.load(DEFAULT_LOCK)
    assert lock.header.startswith("#")
    for entry in lock.entries.values():
        assert len(entry.sha512) == 128


def test_round_trip_keeps_header_and_sorts(tmp_path):
    path = tmp_path / "lock.yaml"
    path.write_text("# one\n\n# two\nversion: 1\nentries: {}\n# gone\n")
    lock = LockFile.load(path)
    entry = Entry.model_validate(ENTRY)
    for name in ("z/1", "a/1", "m/1"):
        lock = lock.with_entry(name, entry)
    lock.save()
    assert path.read_text().startswith("# one\n\n# two\nversion: 1\nentries:\n  a/1:\n")
    again = LockFile.load(path)
    assert list(again.entries) == ["a/1", "m/1", "z/1"]
    assert again.entries["m/1"] == entry
    again.save()
    assert LockFile.load(path) == again
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sha512": "0" * 127}, "sha512"),
        ({"sha512": "G" * 128}, "sha512"),
        ({"sha512": None}, "sha512"),
        ({"size_bytes": 0}, "size_bytes"),
        ({"size_bytes": "many"}, "size_bytes"),
        ({"url": "ftp://x"}, "url"),
        ({"file_format": "vmdk"}, "file_format"),
        ({"signed_by": "abc"}, "signed_by"),
        ({"pinned_at": "2026-11-24T03:00:00"}, "pinned_at"),
        ({"pinned_at": "yesterday"}, "pinned_at"),
        ({"sha256": "0"}, "sha256"),
    ],
)
def test_wrong_entries_are_named(tmp_path, changes, words):
    LockFile.load(write(tmp_path / "lock.yaml"))
    with pytest.raises(ArtefactError) as caught:
        LockFile.load(write(tmp_path / "lock.yaml", **changes))
    assert caught.value.check == "lock file"
    assert "entry 'flatcar/1.2.3/amd64/openstack'" in str(caught.value)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "version: 1",
        "version: 2\nentries: {}",
        "version: 1\nentries: {}\nmore: 1",
        "version: 1\nentries: [1]",
        "version: 1\nentries: {../x: {}}",
        "version: 1\nentries: {a/b: 7}",
        "version: 1\nversion: 1\nentries: {}",
        "version: 1\nentries: {a/b: {url: x, url: y}}",
        "version: 1\nentries: &a {b/c: *a}",
        "version: 1\nentries: {[a]: b}",
        "version: 1\nentries: !!python/object:os.system {}",
        "a: b: c",
        "\x00",
        "version: 1\nentries: " + "{a: " * 5000,
    ],
)
def test_texts_that_are_no_lock_file(text):
    if "!!python" in text:
        # A tag makes nothing here: the loader knows text only.
        assert LockFile.parse(text, Path("lock.yaml")).entries == {}
        return
    with pytest.raises(ArtefactError) as caught:
        LockFile.parse(text, Path("lock.yaml"))
    assert caught.value.check == "lock file"


def test_an_alias_is_refused_though_its_entry_is_good():
    good = "version: 1\nentries:\n  a/b: " + str(ENTRY) + "\n"
    assert set(LockFile.parse(good, Path("lock.yaml")).entries) == {"a/b"}
    with pytest.raises(ArtefactError, match="aliases are not allowed"):
        LockFile.parse(good.replace("a/b: ", "a/b: &x ") + "  c/d: *x\n", Path("lock.yaml"))


def test_files_that_are_no_lock_file(tmp_path):
    path = tmp_path / "lock.yaml"
    with pytest.raises(ArtefactError, match="cannot be read"):
        LockFile.load(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ArtefactError, match="cannot be read"):
        LockFile.load(path)
    path.write_bytes(b"#" * (1024**2 + 1))
    with pytest.raises(ArtefactError, match="larger than"):
        LockFile.load(path)


def test_save_where_nothing_can_be_written(tmp_path):
    lock = LockFile(path=tmp_path / "not-there" / "lock.yaml")
    with pytest.raises(ArtefactError) as caught:
        lock.save()
    assert caught.value.check == "lock file"


SCALARS = st.one_of(st.text(max_size=20), st.sampled_from(["1", "0" * 128, *map(str, ENTRY.values())]))
ENTRIES = st.dictionaries(st.one_of(st.sampled_from(list(ENTRY)), st.text(max_size=10)), SCALARS, max_size=6)
DOCUMENTS = st.fixed_dictionaries(
    {
        "version": st.sampled_from([1, "1", 2]),
        "entries": st.dictionaries(
            st.sampled_from(["a/b", "a", "../b", ""]), st.one_of(ENTRIES, SCALARS), max_size=3
        ),
    }
)


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        st.text(max_size=200),
        DOCUMENTS.map(yaml.safe_dump),
        st.just(yaml.safe_dump({"version": 1, "entries": {"a/b": ENTRY}})),
    )
)
def test_any_lock_text_is_read_without_a_traceback(text):
    try:
        lock = LockFile.parse(text, Path("lock.yaml"))
    except ArtefactError as error:
        assert error.check == "lock file"  # noqa: PT017 - either outcome is good
    else:
        assert LockFile.parse(lock.text(), lock.path) == lock


def test_two_pins_at_once_lose_nothing(place, lock, cache, options, mirror):
    """Each reads the file again before it writes."""
    mirror.files["/install.sh"] = b"#!/bin/sh\n"
    artefacts = [k3s_installer(f"v1.3{n}.0+k3s1", f"{mirror.url}/install.sh") for n in range(4)]
    threads = [
        threading.Thread(target=store.pin, args=(artefact, lock, cache), kwargs={"options": options})
        for artefact in artefacts
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(LockFile.load(lock.path).entries) == [artefact.name for artefact in artefacts]
