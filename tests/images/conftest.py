from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from image_support import (
    OLD_BUILT,
    OLD_VERSION,
    Mirror,
    Place,
    Release,
    Signer,
    closing,
    flatcar_disk,
    qcow2,
)

from layer1.images.download import Settings
from layer1.images.lockfile import LockFile
from layer1.images.store import Options


@pytest.fixture(scope="session")
def signer() -> Iterator[Signer]:
    made = Signer("maker")
    with closing(made):
        yield made


@pytest.fixture(scope="session")
def stranger() -> Iterator[Signer]:
    made = Signer("stranger")
    with closing(made):
        yield made


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return qcow2(flatcar_disk(), tmp_path_factory.mktemp("image"))


@pytest.fixture(scope="session")
def old_image(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return qcow2(flatcar_disk(OLD_VERSION), tmp_path_factory.mktemp("old"))


@pytest.fixture(scope="session")
def release(signer: Signer, image: bytes) -> Release:
    return Release(signer, image)


@pytest.fixture(scope="session")
def old_release(signer: Signer, old_image: bytes) -> Release:
    return Release(signer, old_image, OLD_VERSION, OLD_BUILT)


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    made = Mirror()
    with closing(made):
        yield made


@pytest.fixture
def place(mirror: Mirror, signer: Signer, release: Release) -> Place:
    made = Place(mirror, signer.policy)
    made.put(release.files)
    return made


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def lock(tmp_path: Path) -> LockFile:
    path = tmp_path / "images.lock.yaml"
    path.write_text("# head\n# of the file\nversion: 1\nentries: {}\n")
    return LockFile.load(path)


@pytest.fixture
def waits() -> list[float]:
    return []


@pytest.fixture
def options(waits: list[float]) -> Options:
    return Options(settings=Settings(sleep=waits.append, read_timeout_s=5.0), lock_timeout_s=20.0)
