"""The build of the host around its recipe: once for each recipe, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab import steps
from lab.walls import build
from layer1.errors import ImageError


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe of one step, and a cache of its own."""
    step = tmp_path / "recipe" / "steps" / "10-only.sh"
    step.parent.mkdir(parents=True)
    step.write_text('#!/bin/bash\n# Makes it.\ntouch "$OUT"/{host.img,vmlinuz,initrd}\n')
    monkeypatch.setattr(build, "RECIPE", tmp_path / "recipe")
    monkeypatch.setattr(build, "STEPS", [step])
    monkeypatch.setattr(steps, "as_root", list)
    monkeypatch.setenv("LAYER1_CACHE", str(tmp_path / "cache"))
    return step


def test_the_host_is_built_once_and_its_disk_is_nobodys_to_write(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = build.build()
    assert folder == tmp_path / "cache" / "lab" / "walls" / build.recipe_key()
    assert sorted(path.name for path in folder.iterdir()) == ["host.img", "initrd", "vmlinuz"]
    assert (folder / build.DISK).stat().st_mode & 0o777 == 0o444
    assert not list(folder.parent.glob(f".{folder.name}*")), "no scratch folder stays"
    monkeypatch.setattr(build, "_build", pytest.fail)
    assert build.build() == folder


def test_another_recipe_is_another_host(recipe: Path) -> None:
    first = build.build()
    recipe.write_text(recipe.read_text() + "# and more\n")
    assert build.build() != first
    assert first.exists()


def test_a_step_that_fails_leaves_no_host(recipe: Path) -> None:
    recipe.write_text("#!/bin/bash\n# Fails.\necho no such luck >&2\nexit 7\n")
    with pytest.raises(ImageError, match=r"step 10-only.sh of the host of the walls .* 7:\n  no such luck"):
        build.build()
    assert not build.image_folder().exists()
