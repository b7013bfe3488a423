"""Makes one board's image file: a copy of the verified image whose FAT partition says who the board is."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from layer1.errors import ImageError, ToolError
from layer1.pi import kernel_words, partitions
from layer1.pi import release as releases
from layer1.pi.bundle import BoardSettings, BootFiles, boot_files
from layer1.pi.fat import CMDLINE, Fat
from layer1.pi.partitions import Layout, Partition
from layer1.pi.release import Release
from layer1.processes import last_lines, run

_CHUNK_BYTES = 1 << 20
_COPY_TIMEOUT_S = 1800
_NOTHING = Partition(start_bytes=0, size_bytes=0)


@dataclass(frozen=True, kw_only=True, slots=True)
class WrittenImage:
    """What was written.

    Attributes:
        sha256: of the whole image file.
        sha512: of the whole image file.
        personalisation: SHA-256 of what was put into the image; empty when nothing was.
        release: what the image was found to be; None when nobody asked.
        size_bytes: of the image file.
    """

    sha256: str
    sha512: str
    personalisation: str
    release: Release | None
    size_bytes: int


def inspect(base: Path) -> Release:
    """Read what an image is, without changing it.

    Raises:
        ImageError: it is not an image that Layer 1 can personalise.
    """
    layout = partitions.read(base)
    return releases.read(base, layout.root, Fat(base, layout.boot).names())


def personalisation(files: BootFiles) -> str:
    """Return the SHA-256 of everything that goes into an image: file names, contents, kernel words."""
    content = {name: hashlib.sha256(data).hexdigest() for name, data in files.files.items()}
    told = json.dumps([content, files.kernel_words], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()


def write(base: Path, target: Path, settings: BoardSettings, release: str) -> WrittenImage:
    """Write a board's image: copy, edit, read back, then rename; the target is never half done.

    The same base and settings make the same bytes. Only the owner can read the target: the SSH host key is
    in it, until the board's first boot moves it away. What a crash leaves beside the target is removed by
    the next run.

    Args:
        base: the verified image, raw.
        target: where the board's image goes; its folder is made.
        settings: the board; secret.
        release: what the stack says the image is, such as bookworm.

    Raises:
        ImageError: the image is another release, not one that Layer 1 can personalise, or it has a user or a
            group of the operator's name.
        RenderError: a setting is not of its kind.
        ToolError: a tool failed, or what was read back is not what was written.
    """
    layout = partitions.read(base)
    found = inspect(base)
    if found.codename != release:
        raise ImageError(
            f"the stack says that its image is Raspberry Pi OS {release}, but {base} is {found.codename} of "
            f"{found.image_date}; set the release to {found.codename}, or give the image of {release}"
        )
    if settings.user in releases.taken_names(base, layout.root):
        raise ImageError(
            f"the operator's login {settings.user} is a user or a group of {base} already; choose another"
        )
    files = boot_files(settings, found)
    with _partial(target) as folder:
        made = folder / "image"
        _copy(base, made)
        _personalise(made, layout, files, folder)
        sha256, sha512 = _check(base, made, layout.boot)
        _move(made, target)
    size_bytes = target.stat().st_size
    digest = personalisation(files)
    return WrittenImage(
        sha256=sha256, sha512=sha512, personalisation=digest, release=found, size_bytes=size_bytes
    )


def copy(base: Path, target: Path) -> WrittenImage:
    """Write a board's image file that is the verified image itself: whole or not at all, as `write` does.

    Raises:
        ToolError: a tool failed, or what was read back is not the base.
    """
    with _partial(target) as folder:
        made = folder / "image"
        _copy(base, made)
        sha256, sha512 = _check(base, made, _NOTHING)
        _move(made, target)
    size_bytes = target.stat().st_size
    return WrittenImage(sha256=sha256, sha512=sha512, personalisation="", release=None, size_bytes=size_bytes)


def remove(target: Path) -> None:
    """Remove a board's image file and what a cut run left beside it."""
    shutil.rmtree(_partial_of(target), ignore_errors=True)
    target.unlink(missing_ok=True)
    with suppress(OSError):  # other boards' images are in it
        target.parent.rmdir()


def _partial_of(target: Path) -> Path:
    return target.with_name(f".{target.name}.partial")


@contextmanager
def _partial(target: Path) -> Iterator[Path]:
    """Give a folder beside the target that only the owner can enter, without what a cut run left there."""
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = _partial_of(target)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _copy(base: Path, image: Path) -> None:
    image.touch(mode=0o600)  # cp keeps the mode of a file that is there
    result = run(
        ["cp", "--sparse=always", "--reflink=auto", str(base), str(image)], timeout_s=_COPY_TIMEOUT_S
    )
    if result.returncode != 0:
        raise ToolError(f"{base} could not be copied to {image.parent}: {last_lines(result.stderr)}")


def _personalise(image: Path, layout: Layout, files: BootFiles, folder: Path) -> None:
    fat = Fat(image, layout.boot)
    if CMDLINE not in fat.names():
        raise ImageError(f"{image}: no {CMDLINE} in its FAT partition, by which Raspberry Pi OS boots")
    line = kernel_words.add(fat.read(CMDLINE, folder).decode("ascii", "replace"), files.kernel_words)
    written = {**files.files, CMDLINE: line.encode()}
    for name, data in sorted(written.items()):
        fat.write(name, data, folder)
    for name, data in written.items():
        if fat.read(name, folder) != data:
            raise ToolError(f"{name} was written into the image, and reads back as something else")


def _check(base: Path, image: Path, boot: Partition) -> tuple[str, str]:
    """Read the whole image back, of which only `boot` may differ; return its SHA-256 and SHA-512."""
    sha256, sha512 = hashlib.sha256(), hashlib.sha512()
    with base.open("rb") as before, image.open("rb") as after:
        for start, size in _spans(boot, base.stat().st_size):
            ours = (start, size) == (boot.start_bytes, boot.size_bytes)
            for length in [_CHUNK_BYTES] * (size // _CHUNK_BYTES) + [size % _CHUNK_BYTES]:
                old, new = before.read(length), after.read(length)
                if len(new) != length or (not ours and old != new):
                    raise ToolError(f"the copy of {base} is not whole; is the disk full or failing?")
                sha256.update(new)
                sha512.update(new)
        if after.read(1):
            raise ToolError(f"the copy of {base} is longer than it")
    return sha256.hexdigest(), sha512.hexdigest()


def _spans(boot: Partition, size_bytes: int) -> list[tuple[int, int]]:
    """Cut the image at the FAT partition's borders."""
    end = boot.start_bytes + boot.size_bytes
    return [(0, boot.start_bytes), (boot.start_bytes, boot.size_bytes), (end, size_bytes - end)]


def _move(image: Path, target: Path) -> None:
    """Put the image in the target's place in one step that outlives a power cut."""
    _sync(image)
    image.replace(target)
    _sync(target.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
