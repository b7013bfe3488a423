"""Where a volume's content may come from, who may read it, and what nobody may delete."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from layer1.domain_sheet import pool_sheet, volume_sheet
from layer1.paths import REPOSITORY, cache_dir, work_dir
from policy.planned import Mark, Planned, sheet_of

VOLUME = "libvirt:index/volume:Volume"
POOL = "libvirt:index/pool:Pool"


def trusted_folders() -> tuple[Path, ...]:
    """Return where verified images are (layer1/images/store.py) and where seeds wait (layer1/seed_iso.py)."""
    folders = (cache_dir() / "images" / "blobs", work_dir() / "seeds")
    # Relative ones are the program's, which runs in the repository; the pack runs elsewhere.
    return tuple((REPOSITORY / folder).resolve() for folder in folders)


def source(volume: Planned) -> Iterator[str]:
    """Say what is wrong with where a volume's content comes from; not known yet is judged by `up`."""
    given = volume.values.get("source")
    if given is Mark.SECRET:
        yield "source: is secret, so it cannot be judged; paths are no secrets"
    elif given and given is not Mark.UNKNOWN and not _trusted(str(given)):
        yield "source: must be a file of the verified image cache or of the staging folder for seeds"
    for key in ("baseVolumeName", "baseVolumePool", "content"):
        if volume.values.get(key):
            yield f"{key}: may be anybody's; a base volume goes by its id"


def own_base(volume: Planned) -> Iterator[str]:
    """Say whether a volume begins as one that is not the stack's: an id is a path, and may be anybody's."""
    if volume.values.get("baseVolumeId") and VOLUME not in volume.made_from.get("baseVolumeId", ()):
        yield "baseVolumeId: must come from a volume of this stack, whose source is judged"


def _trusted(path: str) -> bool:
    # No URL survives this: its scheme makes it a relative path.
    return (REPOSITORY / path).resolve().parent in trusted_folders()


def private(planned: Planned) -> Iterator[str]:
    """Say whether others on the host could read a volume or list a pool."""
    name, wanted = ("pool", pool_sheet()) if planned.kind == POOL else ("volume", volume_sheet())
    if sheet_of(planned) != wanted:
        yield f"does not carry the sheet assets/libvirt/{name}.xsl as it stands, so others may read it"


def protected(volume: Planned) -> Iterator[str]:
    """Say whether data could be deleted: a volume that starts empty holds what nobody can make again."""
    origin = ("source", "baseVolumeId", "baseVolumeName", "content")
    if not any(volume.values.get(key) for key in origin) and not volume.protect:
        yield "holds data of its own and is not protected: pulumi would delete it with its node"
