"""A counterfeit card: a FUSE file system with one file that says it is larger than it is.

Bytes beyond the real capacity land on the same cells as earlier ones, as in cards whose controller was told
a false size. It speaks the kernel's protocol (<linux/fuse.h>) itself, for a test needs ten requests only.

    python pi_flash_counterfeit.py MOUNT_POINT CLAIMED_BYTES REAL_BYTES

It prints "mounted" when the file `medium` is there, and ends when it is unmounted.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
import sys
from collections.abc import Iterator

LOOKUP, GETATTR, OPEN, READ, WRITE, STATFS, RELEASE, FSYNC, FLUSH, INIT = 1, 3, 14, 15, 16, 17, 18, 20, 25, 26
FORGET, INTERRUPT, BATCH_FORGET = 2, 36, 42
ROOT, FILE = 1, 2
MAX_WRITE = 128 << 10
DIRECT_IO = 1  # the kernel keeps no copy of its own, so that reads ask the card


class Medium:
    """Cells fewer than the addresses."""

    def __init__(self, claimed: int, real: int) -> None:
        self.claimed = claimed
        self.cells = bytearray(real)

    def pieces(self, offset: int, length: int) -> Iterator[tuple[int, int]]:
        """Cell ranges of a range of addresses."""
        while length:
            start = offset % len(self.cells)
            count = min(length, len(self.cells) - start)
            yield start, count
            offset, length = offset + count, length - count

    def read(self, offset: int, length: int) -> bytes:
        length = max(0, min(length, self.claimed - offset))
        return b"".join(self.cells[start : start + count] for start, count in self.pieces(offset, length))

    def write(self, offset: int, data: bytes) -> None:
        done = 0
        for start, count in self.pieces(offset, len(data)):
            self.cells[start : start + count] = data[done : done + count]
            done += count


def attributes(node: int, medium: Medium) -> bytes:
    mode = stat.S_IFDIR | 0o700 if node == ROOT else stat.S_IFREG | 0o600
    size = 0 if node == ROOT else medium.claimed
    return struct.pack("<6Q10I", node, size, size // 512, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


def initial(body: bytes) -> bytes:
    """Agree on version 7.31, with large writes."""
    readahead = struct.unpack_from("<I", body, 8)[0]
    return struct.pack("<4I2H2I2H8I", 7, 31, readahead, 1 << 5, 12, 10, MAX_WRITE, 1, 0, 0, *[0] * 8)


def written(body: bytes, medium: Medium) -> bytes:
    _, offset, length = struct.unpack_from("<QQI", body)
    medium.write(offset, body[40 : 40 + length])
    return struct.pack("<2I", length, 0)


def answer(operation: int, node: int, body: bytes, medium: Medium) -> bytes | None:
    """The reply's body, or None for a request that is not known here."""
    replies = {
        INIT: lambda: initial(body),
        LOOKUP: lambda: struct.pack("<4Q2I", FILE, 0, 0, 0, 0, 0) + attributes(FILE, medium),
        GETATTR: lambda: struct.pack("<Q2I", 0, 0, 0) + attributes(node, medium),
        OPEN: lambda: struct.pack("<Q2I", 1, DIRECT_IO, 0),
        READ: lambda: medium.read(*struct.unpack_from("<QI", body, 8)),
        WRITE: lambda: written(body, medium),
        STATFS: lambda: struct.pack("<5Q4I24x", 1, 1, 1, 1, 1, 512, 255, 512, 0),
        RELEASE: bytes,
        FSYNC: bytes,
        FLUSH: bytes,
    }
    return replies[operation]() if operation in replies else None


def serve(device: int, medium: Medium) -> None:
    while True:
        try:
            request = os.read(device, MAX_WRITE + 4096)
        except OSError as error:
            if error.errno == errno.ENODEV:  # unmounted
                return
            raise
        operation, unique, node = struct.unpack_from("<4xIQQ", request)
        if operation in {FORGET, BATCH_FORGET, INTERRUPT}:
            continue  # they take no reply
        reply = answer(operation, node, request[40:], medium)
        number = -errno.ENOSYS if reply is None else 0
        reply = reply or b""
        os.write(device, struct.pack("<IiQ", 16 + len(reply), number, unique) + reply)


def main() -> None:
    point, claimed, real = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    device = os.open("/dev/fuse", os.O_RDWR)
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0"
    if libc.mount(b"counterfeit", point.encode(), b"fuse", 0, options.encode()):
        raise OSError(ctypes.get_errno(), "mount")
    print("mounted", flush=True)
    serve(device, Medium(claimed, real))


if __name__ == "__main__":
    main()
