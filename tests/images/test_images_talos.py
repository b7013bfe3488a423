# ruff: noqa: PLR0917 - fixtures come as arguments
"""Talos images of the Image Factory: schematic, address, pin; the factory here is a small server."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import http.server
import json
import lzma
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from image_support import MIB, leftovers, stored

from layer1.images import cli, store
from layer1.images.artefact import TALOS_DISKS, talos
from layer1.images.failure import ArtefactError
from layer1.images.lockfile import LockFile
from layer1.talos import schematic

DEFAULT_ID = "376567988ad370138ad8b2698212367b8edcb69b5fd68c80be1f2ec7d603b4ba"
PI_ID = "ee21ef4a5ef808a9b7484cc0dda0f25075021691c8c09a276591eedb638ea1f9"
PI_5_ID = "a636242df247ad4aad2e36d1026d8d4727b716a3061749bd7b19651e548f65e4"


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
            PI_5_ID,
        ),
    ],
)
def test_known_ids(text, expected):
    assert schematic.schematic_id(text) == expected


def test_the_shipped_schematic_adds_nothing():
    assert schematic.canonical(schematic.read()) == "customization: {}\n"
    assert schematic.schematic_id(schematic.read()) == DEFAULT_ID


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, PI_ID),
        (
            {"configTxtAppend": "gpu_mem=16"},
            "b981222cac16a62ddf59b10ce2da437776cd67c057dd6f31771a1283c29528b9",
        ),
        (
            {"configTxtAppend": "gpu_mem=16\n"},
            "0b8f3f4be1d2b344b309195f61fa1245b92a2ee3713c3bcf0be3be1a535d5326",
        ),
        (
            {"configTxtAppend": "[pi4]\ngpu_mem=16\n# a comment: with 'quotes'\n"},
            "aff84bd6986ffc98afc46171e8db9835439357dc49a8f8abf73c54e74b637242",
        ),
        (
            {
                "configTxtAppend": "[pi4]\n\ngpu_mem=16",
                "configTxt": "arm_64bit=1\n  indented=1\ndtparam=i2c_arm=on,spi=on\n",
            },
            "fc764ca76aa0980f6f485e8afa9abd4622f38a5228ee48a13d8c457e9a99080a",
        ),
    ],
)
def test_the_ids_of_an_overlay_with_options(options, expected):
    """The ids are those of gopkg.in/yaml.v3, the factory's writer, over a struct such as the factory's."""
    overlay = {"options": options, "name": "rpi_generic", "image": "siderolabs/sbc-raspberrypi"}
    assert schematic.schematic_id(json.dumps({"overlay": overlay})) == expected


def test_owner_comes_first_then_overlay_then_customization():
    text = "customization: {extraKernelArgs: [a=1]}\noverlay: {name: rpi_5, image: a}\nowner: me"
    assert schematic.canonical(text) == (
        "owner: me\noverlay:\n    image: a\n    name: rpi_5\n"
        "customization:\n    extraKernelArgs:\n        - a=1\n"
    )


@pytest.mark.parametrize(("board", "expected"), [("rpi4", PI_ID), ("rpi5", PI_5_ID)])
def test_the_shipped_schematics_of_boards(board, expected):
    assert schematic.schematic_id(schematic.read(schematic.BOARDS[board])) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("customization: {embeddedMachineConfiguration: 'machine: {}'}", "customization has embedded"),
        ("embeddedMachineConfiguration: 'machine: {}'", "schematic has embedded"),
        ("customization: {extraKernelArgs: [a=1, talos.config.inline=KLUv]}", "talos.config.inline holds"),
        ("customization: {extraKernelArgs: [talos.config.early=KLUv]}", "talos.config.early holds"),
    ],
)
def test_a_schematic_never_holds_a_secret(text, words):
    with pytest.raises(ArtefactError) as caught:
        schematic.schematic_id(text)
    assert words in str(caught.value)
    assert "the factory shows every schematic to everybody" in str(caught.value)
    assert "KLUv" not in str(caught.value)


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
        ("overlay: {name: rpi_5, image: a, options: {x: 1}}", "overlay.options has x"),
        ("overlay: {name: rpi_5, image: a, options: [configTxt]}", "overlay.options must be a mapping"),
        ("overlay: {name: rpi_5, image: a, options: {configTxt: 1}}", "plain text"),
        ("overlay: {name: rpi_5, image: a, options: {configTxt: 'a b'}}", "plain text"),
        ("overlay: {name: rpi_5, image: a, options: {configTxt: ''}}", "plain text"),
        *(
            (
                json.dumps({"overlay": {"name": "rpi_5", "image": "a", "options": {"configTxt": text}}}),
                "plain lines",
            )
            for text in (
                "a \nb",
                " a\nb",
                "\na",
                "a\n\n",
                "a\n\tb",
                "a\r\nb",
                "a\nb ",
                "a\n \nb",
                "a\n\u00e9",
            )
        ),
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
        for disk in TALOS_DISKS
    }
    assert len(names) == 48
    assert PI_ID in talos("v1.13.4", "arm64", schematic_file=pi).url


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": "1.13.4"}, "not a Talos release"),
        ({"version": "latest"}, "not a Talos release"),
        ({"version": "v1.13.4/../v1.0.0"}, "not a Talos release"),
        ({"arch": "x86_64"}, "amd64 or arm64"),
        ({"disk": "raw.gz"}, "qcow2 or raw.xz or raw.zst"),
        ({"platform": "metal", "disk": "qcow2"}, "raw.xz or raw.zst"),
        ({"platform": "aws"}, "nocloud or metal"),
        ({"base_url": "ftp://mirror.example"}, "scheme is not supported"),
        ({"schematic_file": Path("/none.yaml")}, "cannot be read"),
    ],
)
def test_arguments_that_are_none(changes, words):
    with pytest.raises(ArtefactError) as caught:
        talos(**{"version": "v1.13.4", "arch": "amd64"} | changes)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("board", "identity"),
    [("rpi4", PI_ID), ("rpi5", PI_5_ID)],
)
def test_a_board_has_a_disk_of_the_platform_metal(board, identity):
    made = talos("v1.13.4", "arm64", platform="metal", schematic_file=schematic.BOARDS[board])
    assert made.name == f"talos/v1.13.4/{identity}/metal-arm64.raw.xz"
    assert made.url == f"https://factory.talos.dev/image/{identity}/v1.13.4/metal-arm64.raw.xz"
    assert (made.file_format, made.compression) == ("raw", "xz")
    assert made.command("pin") == (
        f"python -m layer1 image pin talos --version v1.13.4 --board {board} --disk raw.xz"
    )


def test_metal_without_a_board_says_all_words(tmp_path):
    other = tmp_path / "mine.yaml"
    other.write_text("overlay: {image: siderolabs/sbc-raspberrypi, name: rpi_5}")
    assert talos("v1.13.4", "arm64", platform="metal", schematic_file=other, disk="raw.zst").arguments == (
        *("talos", "--version", "v1.13.4", "--arch", "arm64", "--platform", "metal"),
        *("--schematic", str(other), "--disk", "raw.zst"),
    )


@pytest.fixture
def packed(factory, image):
    """The factory's qcow2, and a raw disk packed by xz and by zstd, also a board's; with a pinless lock."""
    raw = bytes(MIB) + hashlib.sha512(b"disk").digest() * 1000 + bytes(MIB - 64000)
    path, board = f"/image/{DEFAULT_ID}/v1.13.4/nocloud-amd64", f"/image/{PI_ID}/v1.13.4/metal-arm64"
    factory.files = {
        f"{path}.qcow2": image,
        f"{path}.raw.xz": lzma.compress(raw),
        f"{path}.raw.zst": zstd(raw),
        f"{board}.raw.xz": lzma.compress(raw),
    }
    return raw


def zstd(data: bytes) -> bytes:
    """Pack as the factory does: by the program, not by the library that unpacks."""
    return subprocess.run(["zstd", "-q", "-c"], input=data, capture_output=True, check=True).stdout


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


@pytest.mark.parametrize("keep", [0, 3, 40, -1])
def test_a_zst_disk_is_unpacked_whole_or_not_at_all(factory, packed, lock, cache, options, keep):
    artefact = talos("v1.13.4", "amd64", disk="raw.zst", base_url=factory.url)
    pinned = store.pin(artefact, lock, cache, options=options)
    assert pinned.entry.sha512 == hashlib.sha512(zstd(packed)).hexdigest()
    assert pinned.image.path.read_bytes() == packed
    (path,) = (path for path in factory.files if path.endswith(".zst"))
    factory.files[path] = factory.files[path][:keep]
    with pytest.raises(ArtefactError, match="cannot be unpacked"):
        store.pin(artefact, lock, cache / "cut", options=options)
    assert stored(cache / "cut") == leftovers(cache / "cut") == []


@pytest.mark.usefixtures("packed")
@pytest.mark.parametrize("tail", [b"junk", b"\x28\xb5\x2f\xfd" + b"\xff" * 20])
def test_a_zst_disk_with_something_behind_it(factory, lock, cache, options, tail):
    (path,) = (path for path in factory.files if path.endswith(".zst"))
    factory.files[path] += tail
    with pytest.raises(ArtefactError, match="cannot be unpacked"):
        store.pin(
            talos("v1.13.4", "amd64", disk="raw.zst", base_url=factory.url), lock, cache, options=options
        )


@pytest.mark.parametrize("disk", ["raw.xz", "raw.zst"])
def test_a_disk_that_unpacks_without_end(factory, lock, cache, options, disk):
    bomb = bytes(64 * MIB)
    path = f"/image/{DEFAULT_ID}/v1.13.4/nocloud-amd64.{disk}"
    factory.files = {path: zstd(bomb) if disk == "raw.zst" else lzma.compress(bomb)}
    assert len(factory.files[path]) < MIB // 16
    artefact = talos("v1.13.4", "amd64", disk=disk, base_url=factory.url)
    bounded = dataclasses.replace(artefact, max_virtual_size_bytes=MIB)
    with pytest.raises(ArtefactError, match="unpacks to more than allowed"):
        store.pin(bounded, lock, cache, options=options)
    assert stored(cache) == leftovers(cache) == []
    assert store.pin(artefact, lock, cache, options=options).image.size_bytes == 64 * MIB


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


def test_a_boards_image_is_refused_without_a_pin_by_the_command_that_pins_it(run, capsys, packed, lock):
    assert run("fetch", "--board", "rpi4") == 1
    command = capsys.readouterr().err.split("`")[1].split()
    assert command[3:8] == ["image", "pin", "talos", "--version", "v1.13.4"]
    assert command[8:12] == ["--board", "rpi4", "--disk", "raw.xz"]
    assert run("pin", *command[8:12]) == 0
    assert list(LockFile.load(lock.path).entries) == [f"talos/v1.13.4/{PI_ID}/metal-arm64.raw.xz"]
    assert run("fetch", "--board", "rpi4", "--json") == 0
    found = Path(json.loads(capsys.readouterr().out)["path"])
    assert found.read_bytes() == packed
    # The long form means the same file.
    schematic_file = str(schematic.BOARDS["rpi4"])
    assert run("verify", "--platform", "metal", "--arch", "arm64", "--schematic", schematic_file) == 0


@pytest.mark.parametrize(
    "words", [("--platform", "metal"), ("--arch", "arm64"), ("--schematic", str(schematic.DEFAULT))]
)
def test_a_board_says_platform_architecture_and_schematic(run, capsys, words):
    assert run("fetch", "--board", "rpi5", *words) == 1
    assert "says platform, architecture and schematic already" in capsys.readouterr().err


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
