"""What a file really is: qcow2 without strings attached, raw, or a script; and unpacking."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import json
import lzma
import os
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import IO, Any

from layer1.images.artefact import Artefact
from layer1.images.download import CHUNK_BYTES, Downloaded
from layer1.images.failure import ArtefactError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_QCOW2_MAGIC = b"QFI\xfb"
_QEMU_IMG_TIMEOUT_S = 60
_FORBIDDEN = {
    "backing-filename": "a backing file",
    "full-backing-filename": "a backing file",
    "backing-filename-format": "a backing file",
    "snapshots": "internal snapshots",
}


def check_format(path: Path, artefact: Artefact) -> int | None:  # noqa: PLR0912 - one branch a check
    """Check that a file is what the artefact declares, and return the size of its disk in bytes.

    A qcow2 header is read here first, so that qemu-img never opens a file that an image names.

    Args:
        path: the file, unpacked.
        artefact: declares format and size limits.

    Returns:
        Virtual size in bytes; None for a script.

    Raises:
        ArtefactError: check "format".
    """
    with path.open("rb") as stream:
        head = stream.read(104)
    if artefact.file_format == "script":
        if not head.startswith(b"#!/"):
            raise _fault(artefact, "is not a script", "first bytes '#!/'", repr(head[:16]))
        if b"\0" in path.read_bytes():
            raise _fault(artefact, "is not a script", "text", "a NUL byte")
        return None
    if artefact.file_format == "qcow2":
        _check_qcow2_header(head, artefact)
    elif head.startswith(_QCOW2_MAGIC):
        # A raw disk that looks like qcow2 is the classic way to make a prober open another file.
        raise _fault(artefact, "declared raw, but begins as a qcow2", "raw", "qcow2")
    facts = _qemu_img_info(path, artefact)
    if facts.get("format") != artefact.file_format:
        raise _fault(artefact, "has another format", artefact.file_format, facts.get("format"))
    for key, what in _FORBIDDEN.items():
        if facts.get(key):
            raise _fault(artefact, f"has {what}", f"no {what}", facts[key])
    if facts.get("encrypted"):
        raise _fault(artefact, "is encrypted", "not encrypted", "encrypted")
    specific = facts.get("format-specific") or {}
    if (specific.get("data") or {}).get("data-file"):
        raise _fault(artefact, "has a data file", "no data file", specific["data"]["data-file"])
    size = facts.get("virtual-size")
    if type(size) is not int or size <= 0:
        raise _fault(artefact, "has no virtual size", "a number of bytes", size)
    if size > artefact.max_virtual_size_bytes:
        limit = f"at most {artefact.max_virtual_size_bytes} bytes"
        raise _fault(artefact, "is a larger disk than allowed", limit, f"{size} bytes")
    if artefact.virtual_size_bytes not in {None, size}:
        raise _fault(
            artefact, "has another virtual size", f"{artefact.virtual_size_bytes} bytes", f"{size} bytes"
        )
    return size


def _check_qcow2_header(head: bytes, artefact: Artefact) -> None:
    if len(head) < 72 or not head.startswith(_QCOW2_MAGIC):
        raise _fault(artefact, "is not a qcow2", "first bytes 'QFI\\xfb'", repr(head[:8]))
    version, backing = struct.unpack(">IQ", head[4:16])
    (encryption,) = struct.unpack(">I", head[32:36])
    if version not in {2, 3}:
        raise _fault(artefact, "unknown qcow2 version", "2 or 3", version)
    if backing:
        raise _fault(artefact, "has a backing file", "no backing file", f"one named at byte {backing}")
    if encryption:
        raise _fault(artefact, "is encrypted", "not encrypted", f"method {encryption}")
    if version == 3:
        features = struct.unpack(">Q", head[72:80])[0] if len(head) >= 80 else 0
        if features & 0x4:
            raise _fault(artefact, "has a data file", "no data file", "incompatible feature 'data file'")
        if features & 0x2:
            raise _fault(artefact, "is marked corrupt", "a whole image", "incompatible feature 'corrupt'")


def _qemu_img_info(path: Path, artefact: Artefact) -> dict[str, Any]:
    command = ["qemu-img", "info", "--output=json", "-f", artefact.file_format, str(path.resolve())]
    result = run_qemu_img(command, artefact)
    try:
        facts = json.loads(result)
    except ValueError:
        facts = None
    if not isinstance(facts, dict):
        raise _fault(artefact, "qemu-img gave no facts", "a JSON object", result[:80])
    return facts


def run_qemu_img(command: list[str], artefact: Artefact) -> str:
    """Run qemu-img within a time limit and return its output.

    Raises:
        ArtefactError: check "tool": it is missing; "format": it failed, or took more than 60 s.
    """
    try:
        result = subprocess.run(
            command,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=_QEMU_IMG_TIMEOUT_S,
            check=False,
        )
    except FileNotFoundError:
        raise ArtefactError(
            "tool",
            "qemu-img",
            "is missing",
            remedy="install it (on Debian and Ubuntu: apt install qemu-utils)",
        ) from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _fault(artefact, "qemu-img could not read it", "an answer", error) from None
    if result.returncode != 0:
        raise _fault(artefact, "qemu-img refuses it", "exit code 0", result.stderr.strip()[:300])
    return result.stdout


def unpack(source: Path, target: Path, artefact: Artefact) -> Downloaded:
    """Unpack a verified file, bounded by the artefact's largest disk.

    Args:
        source: the packed file.
        target: new file; removed again when anything fails.
        artefact: names the packing and the limit.

    Raises:
        ArtefactError: check "format" (damaged, or too large) or "disk space".
    """
    openers: dict[str, Any] = {"gz": gzip.open, "bz2": bz2.open, "xz": lzma.open, "zst": zstd.open}
    sha512, sha256, size = hashlib.sha512(), hashlib.sha256(), 0
    limit = artefact.max_virtual_size_bytes
    try:
        packed: IO[bytes]
        with openers[artefact.compression](source, "rb") as packed, target.open("xb") as stream:
            target.chmod(0o600)
            while data := packed.read(CHUNK_BYTES):
                size += len(data)
                if size > limit:
                    allowed = f"at most {limit} bytes"
                    raise _fault(artefact, "unpacks to more than allowed", allowed, "more")  # noqa: TRY301
                if size % (64 * CHUNK_BYTES) < CHUNK_BYTES:
                    _check_room(target, artefact)
                stream.write(data)
                sha512.update(data)
                sha256.update(data)
            stream.flush()
            os.fsync(stream.fileno())
    except (OSError, EOFError, lzma.LZMAError, zlib.error, zstd.ZstdError) as error:
        target.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None:
            raise ArtefactError(
                "disk space",
                artefact.name,
                f"cannot be unpacked: {error.strerror}",
                remedy="free room in the cache's file system, then run the command again",
            ) from None
        whole = f"a whole .{artefact.compression} file"
        raise _fault(artefact, "cannot be unpacked", whole, error) from None
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    return Downloaded(path=target, sha512=sha512.hexdigest(), sha256=sha256.hexdigest(), size_bytes=size)


def _check_room(target: Path, artefact: Artefact) -> None:
    free = shutil.disk_usage(target.parent).free
    if free < 2 * CHUNK_BYTES:
        raise ArtefactError(
            "disk space",
            artefact.name,
            "no room to unpack it",
            expected="room for the unpacked image",
            found=f"{free} bytes free at {target.parent}",
            remedy="free room, or choose another cache with --cache, then run the command again",
        )


def _fault(artefact: Artefact, problem: str, expected: object, found: object) -> ArtefactError:
    return ArtefactError(
        "format",
        f"{artefact.name} ({artefact.file_name})",
        problem,
        expected=expected,
        found=found,
        remedy="do not use it; fetch it again, from another source if it happens twice",
    )
