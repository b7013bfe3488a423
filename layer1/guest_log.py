"""Reads, from the disk of a guest that stopped, why it stopped; the disk is never mounted."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path

from layer1.errors import Layer1Error
from layer1.processes import run
from layer1.virsh import virsh

_LOG = "/var/log/ignition-failed.log"
_MAX_LINES = 12
_TELLING = re.compile(r"CRITICAL|ERROR|FATAL|failed|invalid|unsupported", re.IGNORECASE)


def read(uri: str, pool: str, volume: str) -> list[str]:
    """Return the telling lines of what Ignition left on a root disk; empty when nothing can be read.

    The volume is copied out by libvirt and read by debugfs: a guest's file system is never mounted on the
    host. Only lines that name an error are returned, never Ignition's copy of the config.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="layer1-") as folder:  # mode 0700
            return _read(uri, pool, volume, Path(folder))
    except (Layer1Error, OSError, ValueError, KeyError):
        return []  # the caller's own message stands; this is only an addition to it


def _read(uri: str, pool: str, volume: str, folder: Path) -> list[str]:
    path = virsh(uri, "vol-path", "--pool", pool, volume).stdout.strip()
    raw = folder / "disk.raw"
    # Local hosts: the overlay with its backing file, flattened. `-U`: libvirt may still hold the lock.
    if run(["qemu-img", "convert", "-U", "-O", "raw", path, str(raw)], timeout_s=120).returncode != 0:
        return []
    table = run(["sfdisk", "--json", str(raw)])
    partitions = json.loads(table.stdout)["partitiontable"]["partitions"]
    start = next(int(p["start"]) for p in partitions if p.get("name") == "ROOT")
    result = run(["debugfs", "-R", f"cat {_LOG}", f"{raw}?offset={start * 512}"])
    lines = [line.strip() for line in result.stdout.splitlines() if _TELLING.search(line)]
    return [line[:300] for line in lines[-_MAX_LINES:]]
