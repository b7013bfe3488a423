"""Talos images of the Image Factory: schematic, address, pin; the factory here is a small server."""

from __future__ import annotations

import argparse
import hashlib
import http.server
import json
import lzma
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from image_support import MIB, leftovers, stored

from layer1.images import cli, store
from layer1.images.artefact import talos
from layer1.images.failure import ArtefactError
from layer1.talos import schematic

DEFAULT_ID = "376567988ad370138ad8b2698212367b8edcb69b5fd68c80be1f2ec7d603b4ba"
PI_ID = "ee21ef4a5ef808a9b7484cc0dda0f25075021691c8c09a276591eedb638ea1f9"


# --- the schematic's id; the vectors are siderolabs/image-factory's own (pkg/schematic/schematic_test.go)
# and, for the Pi 5, the id that the factory gives its overlay.
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("customization: {}\n", DEFAULT_ID),
        ("", DEFAULT_ID),
        ("# a comment\n{}", DEFAULT_ID),
        ('customization: {"extraKernelArgs": []}', DEFAULT_ID),
        (
            "customization: {systemExtensions: {}, secureboot: {includeWellKnownCertificates: false}}",
            DEFAULT_ID,
        ),
        (
            '{"customization": {"extraKernelArgs": ["noapic", "nolapic"]}}',
            "9cba8e32753f91a16c1837ab8abf356af021706ef284aef07380780177d9a06c",
        ),
        (
            '{"customization": {"meta": [{"key": 10, "value": "foo"}], "systemExtensions": {}}}',
            "d308a2a5ee2277bed5fbaa104fcbc8d59122abfa737df987a95b4ca763459a7f",
        ),
        (
            '{"customization": {"secureboot": {"includeWellKnownCertificates": true}}}',
            "fa8e05f142a851d3ee568eb0a8e5841eaf6b0ebc8df9a63df16ac5ed2c04f3e6",
        ),
        (
            "customization: {systemExtensions: {officialExtensions: [siderolabs/qemu-guest-agent]}}",
            "ce4c980550dd2ab1b17bbf2b08801c7eb59418eafe8f279833297925d67c7515",
        ),
        ('{"overlay": {"name": "rpi_generic", "image": "siderolabs/sbc-raspberrypi"}}', PI_ID),
        ("customization: {}\noverlay: {image: siderolabs/sbc-raspberrypi, name: rpi_generic}", PI_ID),
        (
            "overlay:\n  image: siderolabs/sbc-raspberrypi\n  name: rpi_5\n",
            "a636242df247ad4aad2e36d1026d8d4727b716a3061749bd7b19651e548f65e4",
        ),
    ],
)
def test_known_ids(text, expected):
    assert schematic.schematic_id(text) == expected


def test_the_shipped_schematic_adds_nothing():
    assert schematic.canonical(schematic.read()) == "customization: {}\n"
    assert schematic.schematic_id(schematic.read()) == DEFAULT_ID


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[", "not YAML"),
        ("- a", "schematic must be a mapping"),
        ("customisation: {}", "has customisation"),
        ("customization: {bootloader: grub}", "customization has bootloader"),
        ("customization: {extraKernelArgs: a=1}", "must be a list"),
        ("customization: {extraKernelArgs: [1]}", "plain text"),
        ("customization: {extraKernelArgs: ['true']}", "plain text"),
        ("customization: {extraKernelArgs: ['1.5']}", "plain text"),
        ("customization: {extraKernelArgs: ['a b']}", "plain text"),
        ("customization: {extraKernelArgs: ['a: b']}", "plain text"),
        ("customization: {extraKernelArgs: ['a=1\n']}", "plain text"),
        ("customization: {meta: [{key: 256, value: a}]}", "between 0 and 255"),
        ("customization: {meta: [{key: true, value: a}]}", "between 0 and 255"),
        ("customization: {meta: [{key: 10}]}", "plain text"),
        ("customization: {secureboot: {includeWellKnownCertificates: 1}}", "true or false"),
        ("overlay: {name: rpi_5}", "needs image and name"),
        ("overlay: {name: rpi_5, image: a, options: {x: 1}}", "overlay has options"),
    ],
)
def test_an_id_is_never_guessed(text, words):
    with pytest.raises(ArtefactError) as caught:
        schematic.schematic_id(text)
    assert caught.value.check == "schematic"
    assert words in str(caught.value)


# --- a factory


@dataclass
class Factory:
    """Answers `POST /schematics` as it is told, and serves files."""

    url: str = ""
    status: int = 201
    answer: bytes | None = None
    files: dict[str, bytes] = field(default_factory=dict)
    posted: list[bytes] = field(default_factory=list)


@pytest.fixture
def factory(monkeypatch) -> Iterator[Factory]:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    made = Factory()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            made.posted.append(body)
            answer = made.answer
            if answer is None:
                answer = json.dumps({"id": hashlib.sha256(body).hexdigest()}).encode()
            self.reply(made.status, answer)

        def do_GET(self) -> None:
            body = made.files.get(self.path)
            self.reply(404 if body is None else 200, body or b"")

        def reply(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield made
    server.shutdown()
    server.server_close()
    thread.join()


def test_the_factory_gets_the_canonical_form_and_must_agree(factory):
    assert schematic.confirm("# mine\n{}", factory.url + "/") == DEFAULT_ID
    assert factory.posted == [b"customization: {}\n"]
    factory.answer = json.dumps({"id": PI_ID}).encode()
    with pytest.raises(ArtefactError, match="another id than Layer 1 computes") as caught:
        schematic.confirm("{}", factory.url)
    assert (caught.value.expected, caught.value.found) == (DEFAULT_ID, PI_ID)
    assert factory.url in str(caught.value)


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (400, b'{"id": "%s"}' % DEFAULT_ID.encode()),
        (302, b""),
        (201, b"<html>"),
        (201, b"[]"),
        (201, b"{}"),
        (201, b'{"id": 1}'),
        (201, b'{"id": "abc"}'),
    ],
)
def test_an_answer_that_is_none(factory, status, answer):
    factory.status, factory.answer = status, answer
    with pytest.raises(ArtefactError, match="did not answer with an id"):
        schematic.confirm("{}", factory.url)


def test_a_factory_that_is_not_there():
    with pytest.raises(ArtefactError, match="did not answer with an id") as caught:
        schematic.confirm("{}", "http://127.0.0.1:9")
    assert caught.value.found == "ConnectionError"


# --- the artefact


def test_addresses():
    assert talos("v1.13.4", "amd64").url == (
        f"https://factory.talos.dev/image/{DEFAULT_ID}/v1.13.4/nocloud-amd64.qcow2"
    )
    other = talos(
        "v1.13.4", "arm64", secure_boot=True, disk="raw.xz", base_url="https://mirror.example/talos/"
    )
    assert other.url == (
        f"https://mirror.example/talos/image/{DEFAULT_ID}/v1.13.4/nocloud-arm64-secureboot.raw.xz"
    )
    assert (other.file_format, other.compression, other.arch) == ("raw", "xz", "arm64")
    assert other.command("pin") == (
        "python -m layer1 image pin talos --version v1.13.4 --arch arm64 --disk raw.xz --secure-boot "
        "--base-url https://mirror.example/talos"
    )


def test_every_image_has_a_name_of_its_own(tmp_path):
    pi = tmp_path / "pi.yaml"
    pi.write_text("overlay: {image: siderolabs/sbc-raspberrypi, name: rpi_generic}")
    names = {
        talos(version, arch, schematic_file=file, secure_boot=boot, disk=disk).name
        for version in ("v1.13.4", "v1.13.5")
        for arch in ("amd64", "arm64")
        for file in (schematic.DEFAULT, pi)
        for boot in (False, True)
        for disk in ("qcow2", "raw.xz")
    }
    assert len(names) == 32
    assert PI_ID in talos("v1.13.4", "arm64", schematic_file=pi).url


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": "1.13.4"}, "not a Talos release"),
        ({"version": "latest"}, "not a Talos release"),
        ({"version": "v1.13.4/../v1.0.0"}, "not a Talos release"),
        ({"arch": "x86_64"}, "amd64 or arm64"),
        ({"disk": "raw.zst"}, "qcow2 or raw.xz"),
        ({"base_url": "ftp://mirror.example"}, "scheme is not supported"),
        ({"schematic_file": Path("/none.yaml")}, "cannot be read"),
    ],
)
def test_arguments_that_are_none(changes, words):
    with pytest.raises(ArtefactError) as caught:
        talos(**{"version": "v1.13.4", "arch": "amd64"} | changes)
    assert words in str(caught.value)


@pytest.fixture
def packed(factory, image):
    """The factory's qcow2, and a raw disk packed by xz; with a pinless lock."""
    raw = bytes(MIB) + hashlib.sha512(b"disk").digest() * 1000 + bytes(MIB - 64000)
    path = f"/image/{DEFAULT_ID}/v1.13.4/nocloud-amd64"
    factory.files = {f"{path}.qcow2": image, f"{path}.raw.xz": lzma.compress(raw)}
    return raw


@pytest.mark.usefixtures("packed")
def test_an_image_nobody_signs_needs_a_pin(factory, image, lock, cache, options):
    artefact = talos("v1.13.4", "amd64", base_url=factory.url)
    with pytest.raises(ArtefactError) as caught:
        store.ensure(artefact, lock, cache, options=options)
    assert caught.value.check == "unpinned"
    assert f"`{artefact.command('pin')}`" in str(caught.value)
    assert "python -m layer1 image pin talos --version v1.13.4" in str(caught.value)
    pinned = store.pin(artefact, lock, cache, options=options)
    found = store.ensure(artefact, pinned.lock, cache, options=options)
    assert (found.verified_by, found.path.read_bytes()) == ("pin", image)
    factory.files = {path: data + b"x" for path, data in factory.files.items()}
    with pytest.raises(ArtefactError, match="is not the pinned file"):
        store.ensure(artefact, pinned.lock, cache / "other", options=options)


def test_an_xz_disk_is_checked_as_packed_then_unpacked(factory, packed, lock, cache, options):
    artefact = talos("v1.13.4", "amd64", disk="raw.xz", base_url=factory.url)
    pinned = store.pin(artefact, lock, cache, options=options)
    path = next(iter(path for path in factory.files if path.endswith(".xz")))
    assert pinned.entry.sha512 == hashlib.sha512(factory.files[path]).hexdigest()
    assert pinned.image.path.read_bytes() == packed
    assert pinned.image.virtual_size_bytes == len(packed)
    assert leftovers(cache) == []
    # Cut short: the digest tells where it is pinned, the packing where nothing is.
    factory.files[path] = factory.files[path][:-20]
    with pytest.raises(ArtefactError, match="is not the pinned file"):
        store.ensure(artefact, pinned.lock, cache / "cut", options=options)
    with pytest.raises(ArtefactError, match="cannot be unpacked"):
        store.pin(artefact, lock, cache / "fresh", options=options)
    assert stored(cache / "fresh") == leftovers(cache / "fresh") == []


@pytest.mark.usefixtures("packed")
def test_a_copy_on_disk_needs_no_network(factory, lock, cache, options, tmp_path):
    for path, data in factory.files.items():
        (tmp_path / "mirror" / path[1:]).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mirror" / path[1:]).write_bytes(data)
    artefact = talos("v1.13.4", "amd64", base_url=f"file://{tmp_path}/mirror")
    pinned = store.pin(artefact, lock, cache, options=options)
    assert pinned.image.verified_by == "pin"


# --- the command line


@pytest.fixture
def run(lock, cache, factory):
    parser = argparse.ArgumentParser(prog="layer1")
    cli.add_parser(parser.add_subparsers(required=True))

    def call(verb: str, *words: str) -> int:
        words = (*words, "--base-url", factory.url, "--version", "v1.13.4")
        places = ("--lock", str(lock.path), "--cache", str(cache))
        arguments = parser.parse_args(["image", verb, "talos", *words, *places])
        return arguments.run(arguments)

    return call


def test_pin_asks_the_factory_and_shows_what_it_pins_and_from_where(run, capsys, factory, packed, image):
    assert run("fetch") == 1
    assert "image pin talos --version v1.13.4" in capsys.readouterr().err
    assert run("pin", "--factory", factory.url) == 0
    shown = capsys.readouterr().err
    assert f"{factory.url} names the schematic as Layer 1 does: {DEFAULT_ID}" in shown
    assert f"{factory.url}/image/{DEFAULT_ID}/v1.13.4/nocloud-amd64.qcow2" in shown
    assert hashlib.sha512(image).hexdigest() in shown
    assert "nobody's signature: read it before you commit the entry" in shown
    assert run("fetch", "--factory", factory.url) == 0
    # Only a pin asks, and a mirror is no factory.
    assert run("pin") == 0
    assert len(factory.posted) == 1


def test_nothing_is_pinned_where_the_factory_names_another_image(run, capsys, factory, packed, lock):
    factory.answer = json.dumps({"id": PI_ID}).encode()
    before = lock.path.read_text()
    assert run("pin", "--factory", factory.url) == 1
    assert f"expected: {DEFAULT_ID}\n  found:    {PI_ID}" in capsys.readouterr().err
    assert lock.path.read_text() == before


def test_the_public_factory_is_asked_where_it_is_the_source(monkeypatch, lock, cache, capsys):
    asked = []

    def refuse(text: str, factory: str) -> str:
        asked.append(factory)
        raise ArtefactError("schematic", factory, "not asked in a test", remedy="none")

    monkeypatch.setattr(schematic, "confirm", refuse)
    parser = argparse.ArgumentParser(prog="layer1")
    cli.add_parser(parser.add_subparsers(required=True))
    words = ["image", "pin", "talos", "--version", "v1.13.4", "--lock", str(lock.path), "--cache", str(cache)]
    arguments = parser.parse_args(words)
    assert arguments.run(arguments) == 1
    assert asked == ["https://factory.talos.dev"]
