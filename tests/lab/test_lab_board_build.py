"""The build of the practice board's image around its recipe."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from lab import steps
from lab.arm64 import build
from layer1.errors import ImageError


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe of one step that makes a small image, and a cache of its own."""
    step = tmp_path / "recipe" / "steps" / "10-only.sh"
    step.parent.mkdir(parents=True)
    step.write_text(
        '#!/bin/bash\n# Makes it.\necho card >"$OUT/board.img"\necho loader >"$OUT/bootaa64.efi"\n'
    )
    monkeypatch.setattr(build, "RECIPE", tmp_path / "recipe")
    monkeypatch.setattr(build, "STEPS", [step])
    monkeypatch.setattr(steps, "as_root", list)
    monkeypatch.setenv("LAYER1_CACHE", str(tmp_path / "cache"))
    return step


def test_the_image_is_built_once_and_described(recipe: Path, tmp_path: Path) -> None:
    path = build.build()
    folder = tmp_path / "cache" / "lab" / "arm64" / build.recipe_key()
    assert path == folder / "image.json"
    assert sorted(p.name for p in folder.iterdir()) == ["board.img", "bootaa64.efi", "image.json"]
    assert not list(folder.parent.glob(f".{folder.name}*")), "no scratch folder stays"
    data = build.manifest()
    assert data["sha512"] == hashlib.sha512(b"card\n").hexdigest()
    assert (data["arch"], data["path"]) == ("arm64", str(folder / "board.img"))
    built = path.stat().st_mtime_ns
    assert build.build() == path
    assert path.stat().st_mtime_ns == built
    recipe.write_text(recipe.read_text() + "# and more\n")
    assert build.build() != path


def test_a_failing_step_is_named(recipe: Path, tmp_path: Path) -> None:
    recipe.write_text("#!/bin/bash\n# Fails.\necho no such luck >&2\nexit 7\n")
    with pytest.raises(
        ImageError, match=r"10-only.sh of the practice board's image failed with status 7:\n  no such"
    ):
        build.build()
    left = sorted(p.name for p in (tmp_path / "cache" / "lab" / "arm64").iterdir())
    assert left == ["build-failed.log", "build.lock"]


def test_a_manifest_before_the_build_says_what_to_do(recipe: Path) -> None:
    with pytest.raises(ImageError, match="run `python -m lab build-arm64`"):
        build.manifest()
