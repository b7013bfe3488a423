"""Reads what a libvirt host itself knows of its domains; run there on standard input, with Python alone.

The audit puts a call of `answer` below it and takes one JSON document. It changes nothing on the host.
What it may not read it leaves out: the judges call that unknown.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import struct
import subprocess
from pathlib import Path
from typing import Any, BinaryIO

_CHUNK_BYTES = 1024 * 1024
_QCOW2 = b"QFI\xfb"
_EXTERNAL_DATA = 1 << 2
_STATUS = ("Uid", "CapEff", "NoNewPrivs", "Seccomp")


def _text(path: str) -> str | None:
    try:
        return Path(path).read_bytes().decode(errors="replace")
    except OSError:
        return None


def _process(name: str) -> dict[str, Any] | None:
    """Read a domain's QEMU by the pid file that libvirt keeps."""
    pid = (_text(f"/run/libvirt/qemu/{name}.pid") or "").strip()
    command = _text(f"/proc/{pid}/cmdline") if pid.isdigit() else None
    if not command:
        return None
    label = _text(f"/proc/{pid}/attr/apparmor/current") or _text(f"/proc/{pid}/attr/current")
    status = dict(
        line.split(":", 1) for line in (_text(f"/proc/{pid}/status") or "").splitlines() if ":" in line
    )
    return {
        "pid": int(pid),
        "command": command.rstrip("\0").split("\0"),
        "label": label.strip("\0\n ") if label is not None else None,
        "status": {key: status[key].strip() for key in _STATUS if key in status},
        "memory_max": _memory_max(_text(f"/proc/{pid}/cgroup") or ""),
        "open_files": _open_files(pid),
    }


def _memory_max(groups: str) -> dict[str, str] | None:
    """Return the memory limit of the process's group and of each above it; libvirt sets it in the middle."""
    path, root, name = "/", "/sys/fs/cgroup", "memory.max"
    for line in groups.splitlines():
        _, controllers, where = line.split(":", 2)
        if controllers == "memory":  # the first version of control groups
            path, root, name = where, "/sys/fs/cgroup/memory", "memory.limit_in_bytes"
            break
        if not controllers:
            path = where
    found = {}
    while path.strip("/"):
        value = _text(f"{root}{path}/{name}")
        if value is not None:
            found[path] = value.strip()
        path = path.rpartition("/")[0]
    return found or None


def _open_files(pid: str) -> list[str] | None:
    try:
        links = [str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:
        return None
    return sorted({link for link in links if link.startswith("/")})


def _digest(file: BinaryIO) -> str:
    file.seek(0)
    digest = hashlib.sha512()
    while chunk := file.read(_CHUNK_BYTES):
        digest.update(chunk)
    return digest.hexdigest()


def _file(path: str, *, digest: bool = False) -> dict[str, Any] | None:
    try:
        found = Path(path).stat()
    except OSError:
        return None
    facts: dict[str, Any] = {"mode": f"{stat.S_IMODE(found.st_mode):04o}", "uid": found.st_uid}
    if not stat.S_ISREG(found.st_mode):
        return facts
    facts["bytes"] = found.st_size
    try:
        with Path(path).open("rb") as file:
            facts |= _qcow2(file.read(_CHUNK_BYTES))
            if digest:
                facts["sha512"] = _digest(file)
    except OSError:
        pass
    return facts


def _qcow2(head: bytes) -> dict[str, Any]:
    """Read a qcow2's own words on what lies below it, by no program that would open that."""
    if head[:4] != _QCOW2:
        return {"format": "raw", "backing": None, "external_data": False}
    version, offset, size = struct.unpack(">IQI", head[4:20])
    features = struct.unpack(">Q", head[72:80])[0] if version > 2 else 0
    return {
        "format": "qcow2",
        "backing": head[offset : offset + size].decode(errors="replace") if offset else None,
        "external_data": bool(features & _EXTERNAL_DATA),
    }


def _rules() -> str | None:
    try:
        done = subprocess.run(
            ["ebtables", "-t", "nat", "-L"],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
            env={**os.environ, "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin", "LC_ALL": "C"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _files(paths: list[str], directory: str) -> dict[str, Any]:
    """Read files, and what lies below each overlay, whose content is hashed where it is in the directory."""
    found = {path: _file(path) for path in paths}
    for facts in list(found.values()):
        below = (facts or {}).get("backing")
        if below and below not in found:
            found[below] = _file(below, digest=str(Path(below).parent) == directory)
    return found


def read(request: dict[str, Any]) -> dict[str, Any]:
    """Read everything that the request names."""
    return {
        "uid": os.geteuid(),
        "apparmor": (_text("/sys/module/apparmor/parameters/enabled") or "").strip(),
        "processes": {name: _process(name) for name in request["domains"]},
        "profiles": {
            uuid: _text(f"/etc/apparmor.d/libvirt/libvirt-{uuid}.files") for uuid in request["uuids"]
        },
        "directory": _file(request["directory"]),
        "files": _files(request["files"], request["directory"]),
        "rules": _rules(),
    }


def answer(request: str) -> None:
    """Print what a request, as JSON, asks for; the call that the audit puts below."""
    print(json.dumps(read(json.loads(request))))  # noqa: T201
