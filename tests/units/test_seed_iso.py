"""The seed ISO: what is in it, who may read it, what is refused."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from layer1 import seed_iso
from layer1.errors import Layer1Error, RenderError, ToolError
from layer1.paths import work_dir

SECRET = "s3cr3tzq7"
FILES = {
    "openstack/latest/user_data": f'{{"token": "{SECRET}"}}\n',
    "openstack/latest/meta_data.json": "{}\n",
}


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LAYER1_WORK", str(tmp_path / "work"))
    return tmp_path / "work"


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def _extracted(iso: Path, folder: Path) -> dict[str, str]:
    folder.mkdir()
    subprocess.run(
        ["xorriso", "-osirrox", "on", "-indev", str(iso), "-extract", "/", str(folder)],
        check=True,
        capture_output=True,
    )
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}


def test_the_guest_finds_the_label_and_the_files(tmp_path: Path) -> None:
    iso = seed_iso.build("k3s-1-seed-0123456789ab.iso", "config-2", FILES)
    described = subprocess.run(["isoinfo", "-d", "-i", iso], check=True, capture_output=True, text=True)
    assert "Volume id: config-2\n" in described.stdout
    assert "Joliet" in described.stdout
    assert "Rock Ridge" in described.stdout
    blkid = subprocess.run(["blkid", "-o", "export", iso], check=True, capture_output=True, text=True)
    assert "LABEL=config-2" in blkid.stdout.splitlines()
    assert _extracted(iso, tmp_path / "content") == FILES


def test_only_the_owner_can_read_it_whatever_the_umask(umask: int, work: Path) -> None:
    iso = seed_iso.build("seed.iso", "config-2", FILES)
    assert _mode(iso) == 0o600, oct(umask)
    assert _mode(iso.parent) == 0o700
    assert iso == work / "seeds" / "seed.iso"


def test_a_folder_that_was_open_is_closed(work: Path) -> None:
    (work / "seeds").mkdir(parents=True, mode=0o755)
    (work / "seeds").chmod(0o755)
    seed_iso.build("seed.iso", "config-2", FILES)
    assert _mode(work / "seeds") == 0o700


def test_nothing_but_the_iso_is_left_and_all_of_it_in_the_work_folder(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "tmp"
    other.mkdir()
    monkeypatch.setenv("TMPDIR", str(other))
    made: list[Path] = []
    original = Path.write_text

    def watched(path: Path, *args: object, **named: object) -> int:
        made.append(path)
        return original(path, *args, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "write_text", watched)
    seed_iso.build("seed.iso", "config-2", FILES)
    assert len(made) == len(FILES)
    assert all(path.is_relative_to(work / "seeds") for path in made)
    assert [path.name for path in work.rglob("*") if path.is_file()] == ["seed.iso"]
    assert not list(other.iterdir())
    assert work_dir() == work


def test_the_same_name_again_replaces_the_iso(tmp_path: Path) -> None:
    seed_iso.build("seed.iso", "config-2", FILES)
    iso = seed_iso.build("seed.iso", "cidata", {"user-data": "#cloud-config\n"})
    assert _extracted(iso, tmp_path / "content") == {"user-data": "#cloud-config\n"}
    assert _mode(iso) == 0o600


@pytest.mark.parametrize(
    "files",
    [
        {"user_data": ""},
        {"../user_data": SECRET},
        {"a/../../user_data": SECRET},
        {"/etc/user_data": SECRET},
        {"..": SECRET},
    ],
)
def test_a_path_that_leaves_the_iso_or_an_empty_file_is_refused(files: dict[str, str], work: Path) -> None:
    with pytest.raises(RenderError, match="must be a path within the ISO, and not empty") as caught:
        seed_iso.build("seed.iso", "config-2", files)
    assert SECRET not in str(caught.value)
    assert not [path for path in work.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    "name", ["../seed.iso", "a/seed.iso", "/tmp/seed.iso", "..", ".", "", ".hidden", "a\nb"]
)
def test_a_name_that_leaves_the_folder_is_refused(name: str, work: Path) -> None:
    with pytest.raises(RenderError, match="plain name"):
        seed_iso.build(name, "config-2", FILES)
    assert not [path for path in work.parent.rglob("*") if path.is_file()]


def test_a_failure_of_mkisofs_leaves_nothing_and_tells_no_content(work: Path) -> None:
    with pytest.raises(ToolError, match=r"mkisofs could not make seed\.iso") as caught:
        seed_iso.build("seed.iso", "a label longer than the thirty-two characters of ISO 9660", FILES)
    assert SECRET not in str(caught.value)
    assert not [path for path in work.rglob("*") if path.is_file()]


def test_a_missing_mkisofs_is_told_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(Layer1Error, match="mkisofs: not found on PATH; run `make setup`"):
        seed_iso.build("seed.iso", "config-2", FILES)


def test_removal_stays_in_the_folder(work: Path, tmp_path: Path) -> None:
    iso = seed_iso.build("seed.iso", "config-2", FILES)
    beside = tmp_path / "precious.iso"
    beside.write_text("x")
    for path in (str(beside), str(work / "seeds" / ".." / ".." / "precious.iso"), "precious.iso", ""):
        seed_iso.remove(path)
    assert beside.exists()
    seed_iso.remove(str(iso))
    seed_iso.remove(str(iso))
    assert not iso.exists()
