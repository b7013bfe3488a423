"""Signers, images, releases and a server that misbehaves on demand; all of it real but the content."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import shutil
import ssl
import struct
import subprocess
import tempfile
import threading
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from layer1.images.artefact import Artefact, SignaturePolicy, flatcar

VERSION = "4593.2.5"
OLD_VERSION = "4230.2.4"
BUILT = datetime(2026, 8, 12, 3, 0, tzinfo=UTC)
OLD_BUILT = datetime(2025, 10, 13, 3, 0, tzinfo=UTC)
IMAGE = "flatcar_production_openstack_image.img"
MIB = 1024**2


class Signer:
    """A throw-away OpenPGP key in a home of its own."""

    def __init__(
        self, name: str, *, created: str = "20250101T000000", life: str = "5y", rsa: bool = False
    ) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="l1gpg-"))
        self.home.chmod(0o700)
        self.created = created
        algorithm = "rsa2048" if rsa else "ed25519"
        self.gpg("--quick-gen-key", f"{name} <{name}@example.test>", algorithm, "cert", life, when=created)
        listing = self.gpg("--with-colons", "--list-keys").decode()
        self.primary = next(line.split(":")[9] for line in listing.splitlines() if line.startswith("fpr:"))
        self.gpg("--quick-add-key", self.primary, algorithm, "sign", life, when=created)
        self.key_file = self.home / "key.asc"
        self.export()

    def gpg(self, *arguments: str, data: bytes = b"", when: str | None = None) -> bytes:
        command = ["gpg", "--homedir", str(self.home), "--batch", "--yes", "--quiet", "--no-options"]
        command += ["--passphrase", "", "--pinentry-mode", "loopback"]
        if when:
            command += ["--faked-system-time", f"{when}!"]
        return subprocess.run([*command, *arguments], input=data, capture_output=True, check=True).stdout

    def export(self) -> None:
        self.key_file.write_bytes(self.gpg("--armor", "--export", self.primary))

    def sign(self, data: bytes, when: datetime = BUILT) -> bytes:
        return self.gpg("--detach-sign", data=data, when=f"{when:%Y%m%dT%H%M%S}")

    def clearsign(self, data: bytes, when: datetime = BUILT) -> bytes:
        return self.gpg("--clearsign", data=data, when=f"{when:%Y%m%dT%H%M%S}")

    def inline(self, data: bytes, when: datetime = BUILT) -> bytes:
        return self.gpg("--sign", data=data, when=f"{when:%Y%m%dT%H%M%S}")

    def revoke(self) -> None:
        text = (self.home / "openpgp-revocs.d" / f"{self.primary}.rev").read_text()
        # gpg writes a colon before the armour, so that nobody imports it by mistake.
        self.gpg("--import", data=text.replace(":-----BEGIN", "-----BEGIN").encode())
        self.export()

    @property
    def policy(self) -> SignaturePolicy:
        return SignaturePolicy(key_file=self.key_file, primary_fingerprint=self.primary)

    def close(self) -> None:
        subprocess.run(
            ["gpgconf", "--homedir", str(self.home), "--kill", "all"], check=False, capture_output=True
        )
        shutil.rmtree(self.home, ignore_errors=True)


def disk(names: list[bytes], boot: bytes, *, table: bool = True, size: int = 4 * MIB) -> bytes:
    """A raw disk with a GUID partition table; the OEM partition holds `names`, the EFI partition `boot`."""
    data = bytearray(size)
    if table:
        data[512:520] = b"EFI PART"
        struct.pack_into("<QII", data, 512 + 72, 2, 128, 128)
        for index, (label, first, last) in enumerate((("EFI-SYSTEM", 2048, 4095), ("OEM", 4096, 6143))):
            at = 1024 + 128 * index
            data[at : at + 16] = b"\x01" * 16
            struct.pack_into("<QQ", data, at + 32, first, last)
            data[at + 56 : at + 56 + 2 * len(label)] = label.encode("utf-16-le")
        data[MIB + 70000 : MIB + 70000 + len(boot)] = boot
        for index, name in enumerate(names):
            at = 2 * MIB + 300000 + 4096 * index
            data[at : at + len(name)] = name
    # Something that does not compress to nothing, so that a cut falls into the middle of it.
    noise = b"".join(hashlib.sha512(b"%d" % i).digest() for i in range(6000))
    data[3 * MIB : 3 * MIB + len(noise)] = noise
    return bytes(data)


def qcow2(raw: bytes, folder: Path, *options: str) -> bytes:
    source, target = folder / "disk.raw", folder / "disk.qcow2"
    source.write_bytes(raw)
    command = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", *(options or ("-c", "-o", "compat=0.10"))]
    subprocess.run([*command, str(source), str(target)], check=True, capture_output=True)
    return target.read_bytes()


def flatcar_disk(version: str = VERSION, oem: str = "openstack", boot: bytes = b"BOOTX64 EFI") -> bytes:
    return disk([f"oem-{oem}-{version}.raw".encode()], boot)


def digests(data: bytes, name: str) -> bytes:
    lines = []
    for kind in ("md5", "sha1", "sha512"):
        digest = hashlib.new(kind, data, usedforsecurity=False).hexdigest()
        lines.append(f"# {kind.upper()} HASH\n{digest}  {name}\n")
    return "".join(lines).encode()


@dataclass
class Release:
    """The files of one release directory."""

    signer: Signer
    image: bytes
    version: str = VERSION
    built: datetime = BUILT
    name: str = IMAGE
    files: dict[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        lines = (
            f"FLATCAR_VERSION={self.version}",
            f"FLATCAR_VERSION_ID={self.version}",
            'FLATCAR_BUILD_ID=""',
        )
        version = "".join(f"{line}\n" for line in lines).encode()
        self.files |= {
            self.name: self.image,
            f"{self.name}.sig": self.signer.sign(self.image, self.built),
            f"{self.name}.DIGESTS.asc": self.signer.clearsign(digests(self.image, self.name), self.built),
            "version.txt": version,
            "version.txt.sig": self.signer.sign(version, self.built),
        }

    def copy(self, **changes: bytes) -> dict[str, bytes]:
        return {**self.files, **changes}


@dataclass
class Behaviour:
    """What the server does with one request."""

    status: int = 200
    cut_at: int | None = None
    ignore_range: bool = False
    etag: str | None = '"one"'
    last_modified: str | None = None
    length_off_by: int = 0
    no_length: bool = False
    location: str | None = None
    encoding: str | None = None
    body: bytes | None = None
    range_off_by: int = 0
    stall_s: float = 0.0


class Mirror:
    """An HTTP server on the loopback interface, with TLS where a context is given."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.files: dict[str, bytes] = {}
        self.script: dict[str, list[Behaviour]] = defaultdict(list)
        self.default: dict[str, Behaviour] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.stop = threading.Event()
        mirror = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                mirror.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        if tls is not None:
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    def answer(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        path = handler.path
        self.requests.append((path, dict(handler.headers)))
        todo = self.script[path]
        how = todo.pop(0) if todo else self.default.get(path, Behaviour())
        handler.close_connection = True
        if how.stall_s:
            self.stop.wait(how.stall_s)
        body = how.body if how.body is not None else self.files.get(path)
        if how.location is not None:
            handler.send_response(302)
            handler.send_header("Location", how.location)
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        if body is None or how.status != 200:
            handler.send_response(404 if how.status == 200 else how.status)
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        start, status = 0, 200
        wanted = handler.headers.get("Range")
        validators = {how.etag, how.last_modified}
        if (
            wanted
            and not how.ignore_range
            and (how.range_off_by or handler.headers.get("If-Range") in validators)
        ):
            start, status = int(wanted.removeprefix("bytes=").removesuffix("-")), 206
        handler.send_response(status)
        if status == 206:
            shown = start + how.range_off_by
            handler.send_header("Content-Range", f"bytes {shown}-{len(body) - 1}/{len(body)}")
        if how.etag:
            handler.send_header("ETag", how.etag)
        if how.last_modified:
            handler.send_header("Last-Modified", how.last_modified)
        if how.encoding:
            handler.send_header("Content-Encoding", how.encoding)
        if how.no_length:
            handler.send_header("Connection", "close")
        else:
            handler.send_header("Content-Length", str(len(body) - start + how.length_off_by))
        handler.end_headers()
        end = len(body) if how.cut_at is None else max(start, how.cut_at)
        with contextlib.suppress(OSError):
            handler.wfile.write(body[start:end])
            handler.wfile.flush()

    def count(self, path: str) -> int:
        return sum(1 for seen, _ in self.requests if seen == path)

    def close(self) -> None:
        self.stop.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


class Place:
    """A mirror that serves one release, and the artefact that names it."""

    def __init__(self, mirror: Mirror, policy: SignaturePolicy) -> None:
        self.mirror = mirror
        self.policy = policy

    def put(self, files: dict[str, bytes], *, version: str = VERSION, arch: str = "amd64") -> None:
        self.mirror.files = {f"/{arch}-usr/{version}/{name}": data for name, data in files.items()}

    def artefact(self, policy: SignaturePolicy | None = None, arch: str = "amd64") -> Artefact:
        return flatcar(VERSION, arch, "openstack", self.mirror.url, policy=policy or self.policy)

    @property
    def image_path(self) -> str:
        return f"/amd64-usr/{VERSION}/{IMAGE}"


def stored(cache: Path) -> list[str]:
    """Whatever a later run could take for good."""
    return sorted(path.name for part in ("blobs", "records") for path in (cache / part).glob("*"))


def leftovers(cache: Path) -> list[str]:
    return sorted(path.name for path in (cache / "partial").rglob("*") if not path.is_dir())


@contextlib.contextmanager
def closing(*things: Signer | Mirror) -> Iterator[None]:
    try:
        yield
    finally:
        for thing in things:
            thing.close()
