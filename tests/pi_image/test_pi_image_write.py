"""A board's image file: what it holds, read with other tools, and what is refused or cut."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import stat
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from pathlib import Path

import pytest
from pi_image_support import (
    BOOKWORM,
    BOOT_AT,
    BOOT_MIB,
    HOST_KEY,
    MIB,
    SETTINGS,
    SHAPES,
    TRIXIE,
    Shape,
    fat,
    fat_file,
    make,
    part_files,
    tool,
)

from layer1.errors import ImageError, ToolError
from layer1.paths import REPOSITORY
from layer1.pi import image
from layer1.pi.bundle import bundle, digest
from layer1.pi.fat import Fat
from layer1.pi.release import Mechanism

RUN_WORDS = [
    "systemd.run=/boot/firmware/firstrun.sh",
    "systemd.run_success_action=reboot",
    "systemd.unit=kernel-command-line.target",
]
WORDS = ["cgroup_memory=1", "cgroup_enable=memory", "apparmor=1", "security=apparmor"]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {name: make(folder / name, shape) for name, shape in SHAPES.items()}


@pytest.mark.parametrize("name", SHAPES)
def test_each_release_gets_what_its_first_boot_reads(
    name: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    target = tmp_path / "pi" / "pi-1.img"
    made = image.write(bases[name], target, SETTINGS, SHAPES[name].codename)
    cloud_init = name == "trixie-cloud-init"
    assert made.release is not None
    assert made.release.mechanism is (Mechanism.CLOUD_INIT if cloud_init else Mechanism.SYSTEMD_RUN)
    assert made.release.codename == SHAPES[name].codename

    line = fat_file(target, "cmdline.txt").decode()
    before = SHAPES[name].cmdline
    assert before is not None
    assert line.count("\n") == 1
    assert line.split() == [*before.decode().split(), *WORDS, *([] if cloud_init else RUN_WORDS)]
    script = fat_file(target, "firstrun.sh").decode()
    tar = fat_file(target, "layer1.tar")
    assert hashlib.sha256(tar).hexdigest() == digest(bundle(SETTINGS))
    assert f"\ndigest={digest(bundle(SETTINGS))}\n" in script
    names = set(tool("mdir", "-b", "-i", fat(target), "::").split())
    seed = {"::/user-data", "::/meta-data", "::/network-config"}
    assert names & seed == (seed if cloud_init else set())
    if cloud_init:
        user_data = fat_file(target, "user-data").decode()
        assert user_data.startswith("#cloud-config\n")
        told = json.loads(user_data.partition("\n")[2])
        assert told["runcmd"] == [["/bin/sh", "/boot/firmware/firstrun.sh"]]
        assert told["users"] == []
        assert "PRIVATE" not in user_data
        network = json.loads(fat_file(target, "network-config"))["network"]["ethernets"]["wired"]
        assert network["addresses"] == ["192.168.1.20/24"]


@pytest.mark.parametrize("name", SHAPES)
def test_nothing_but_the_fat_partition_changed_and_both_file_systems_are_whole(
    name: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    target = tmp_path / "pi-1.img"
    made = image.write(bases[name], target, SETTINGS, SHAPES[name].codename)
    before, after = bases[name].read_bytes(), target.read_bytes()
    end = BOOT_AT + BOOT_MIB * MIB
    assert len(before) == len(after) == made.size_bytes
    assert before[:BOOT_AT] == after[:BOOT_AT]
    assert before[end:] == after[end:]
    assert before[BOOT_AT:end] != after[BOOT_AT:end]
    assert made.sha256 == hashlib.sha256(after).hexdigest()
    assert made.sha512 == hashlib.sha512(after).hexdigest()
    boot, root = part_files(target, tmp_path)
    tool("fsck.vfat", "-n", str(boot))
    tool("e2fsck", "-n", "-f", str(root))
    assert fat_file(target, "kernel8.img") == b"kernel" * 5000
    assert tool("debugfs", "-R", "cat /etc/secret-of-the-root", str(root)) == "the rest of the image"


def test_the_image_is_its_owners_alone_and_sparse(bases: dict[str, Path], tmp_path: Path) -> None:
    target = tmp_path / "new" / "pi-1.img"
    old_mask = os.umask(0)
    try:
        made = image.write(bases["bookworm"], target, SETTINGS, "bookworm")
    finally:
        os.umask(old_mask)
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert stat.S_IMODE(target.parent.stat().st_mode) == 0o700
    assert list(target.parent.iterdir()) == [target]
    assert target.stat().st_blocks * 512 < made.size_bytes // 2


def test_the_same_input_makes_the_same_bytes_whenever_and_wherever(
    bases: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = image.write(bases["trixie-cloud-init"], tmp_path / "a.img", SETTINGS, "trixie")
    time.sleep(2.1)  # FAT counts in two seconds
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    second = image.write(bases["trixie-cloud-init"], tmp_path / "b.img", SETTINGS, "trixie")
    assert first == second


@pytest.mark.parametrize("change", [{"hostname": "pi-2"}, {"ssh_authorized_keys": (SETTINGS.apply_public,)}])
def test_another_key_or_name_is_another_personalisation(
    change: dict[str, object], bases: dict[str, Path], tmp_path: Path
) -> None:
    other = replace(SETTINGS, **change)  # type: ignore[arg-type]
    first = image.write(bases["trixie-cloud-init"], tmp_path / "a.img", SETTINGS, "trixie")
    second = image.write(bases["trixie-cloud-init"], tmp_path / "b.img", other, "trixie")
    assert first.personalisation != second.personalisation
    assert first.sha256 != second.sha256
    identities = {
        json.loads(fat_file(tmp_path / name, "meta-data"))["instance-id"] for name in ("a.img", "b.img")
    }
    assert len(identities) == 2


def test_writing_again_replaces_the_file_in_one_step(bases: dict[str, Path], tmp_path: Path) -> None:
    target = tmp_path / "pi-1.img"
    image.write(bases["bookworm"], target, SETTINGS, "bookworm")
    with target.open("rb") as old:
        image.write(bases["bookworm"], target, replace(SETTINGS, hostname="pi-9"), "bookworm")
        assert os.fstat(old.fileno()).st_nlink == 0  # the old one was not written into
    assert "pi-9" in _settings_of(target)


def _settings_of(target: Path) -> str:
    with tarfile.open(fileobj=io.BytesIO(fat_file(target, "layer1.tar"))) as tar:
        member = tar.extractfile("settings.sh")
        assert member is not None
        return member.read().decode()


@pytest.mark.parametrize(
    ("before", "kept"),
    [
        (b"root=/dev/sda2 rootwait", ["root=/dev/sda2", "rootwait"]),
        (b"root=/dev/sda2 rootwait\r\n", ["root=/dev/sda2", "rootwait"]),
        (b"root=/dev/sda2\nrootwait\n\n", ["root=/dev/sda2", "rootwait"]),
        (b"  root=/dev/sda2\t rootwait \n", ["root=/dev/sda2", "rootwait"]),
        (b"cgroup_enable=memory root=/dev/sda2 cgroup_memory=1\n", ["root=/dev/sda2"]),
        (
            b"root=/dev/sda2 cgroup_enable=cpuset cgroup_disable=memory\n",
            ["root=/dev/sda2", "cgroup_enable=cpuset"],
        ),
        (
            b"root=/dev/sda2 apparmor=0 security=selinux systemd.run=/x systemd.unit=rescue.target\n",
            ["root=/dev/sda2"],
        ),
        (b"", []),
    ],
)
def test_cmdline_txt_stays_one_line_with_each_word_once(
    before: bytes, kept: list[str], tmp_path: Path
) -> None:
    base = make(tmp_path / "base", replace(BOOKWORM, cmdline=before))
    image.write(base, tmp_path / "pi-1.img", SETTINGS, "bookworm")
    line = fat_file(tmp_path / "pi-1.img", "cmdline.txt").decode()
    assert line.split() == [*kept, *WORDS, *RUN_WORDS]
    assert line == " ".join(line.split()) + "\n"


REFUSED: dict[str, tuple[Shape, str, str]] = {
    "gpt": (replace(BOOKWORM, label="gpt"), "bookworm", "has a GPT"),
    "other types": (replace(BOOKWORM, types=("83", "c")), "bookworm", "partitions of the types 0x83, 0x0c"),
    "three partitions": (replace(BOOKWORM, types=("c", "83", "83")), "bookworm", "0x0c, 0x83, 0x83"),
    "one partition": (replace(BOOKWORM, types=("c",)), "bookworm", "partitions of the types 0x0c"),
    "fat16": (replace(BOOKWORM, fat_bits=16), "bookworm", "no FAT32 file system"),
    "raspbian": (replace(BOOKWORM, identity="raspbian"), "bookworm", "not Raspberry Pi OS 64-bit"),
    "plain debian": (replace(BOOKWORM, issue="Debian\n"), "bookworm", "there is no /etc/rpi-issue"),
    "older": (replace(BOOKWORM, codename="bullseye"), "bullseye", "bullseye of 2025-05-13 is not covered"),
    "newer": (replace(BOOKWORM, codename="forky"), "forky", "forky of 2025-05-13 is not covered"),
    "mismatch": (BOOKWORM, "trixie", "Raspberry Pi OS trixie, but .* is bookworm of 2025-05-13"),
    "mismatch back": (TRIXIE, "bookworm", "Raspberry Pi OS bookworm, but .* is trixie of 2026-04-13"),
    "preseed": (replace(TRIXIE, packages=("rpi-preseed",)), "trixie", "the package rpi-preseed"),
    "bookworm with cloud-init": (replace(BOOKWORM, packages=("cloud-init",)), "bookworm", "with cloud-init"),
    "boot": (
        replace(BOOKWORM, fstab="LABEL=x /boot vfat defaults 0 2\n"),
        "bookworm",
        "mount the FAT partition at",
    ),
    "no nft": (
        replace(BOOKWORM, programs=tuple(name for name in BOOKWORM.programs if name != "sbin/nft")),
        "bookworm",
        "lacks what the board's first boot needs: /usr/sbin/nft",
    ),
    "no cmdline": (replace(BOOKWORM, cmdline=None), "bookworm", r"no cmdline\.txt in its FAT partition"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_known_is_refused_by_name_and_nothing_is_written(case: str, tmp_path: Path) -> None:
    shape, release, said = REFUSED[case]
    base = make(tmp_path / "base", shape)
    before = hashlib.sha256(base.read_bytes()).hexdigest()
    target = tmp_path / "out" / "pi-1.img"
    with pytest.raises(ImageError, match=said):
        image.write(base, target, SETTINGS, release)
    assert not target.exists()
    assert not target.parent.exists() or not list(target.parent.iterdir())
    assert hashlib.sha256(base.read_bytes()).hexdigest() == before


@pytest.mark.parametrize(
    ("at", "data", "said"),
    [
        (510, b"\0\0", "has no MBR"),
        (446 + 16 + 8, (2048).to_bytes(4, "little"), "overlapping partitions"),
        (446 + 16 + 12, (1 << 30).to_bytes(4, "little"), "shorter than its partition table"),
        (BOOT_AT + BOOT_MIB * MIB + 1024 + 56, b"\0\0", "no ext4 file system"),
    ],
)
def test_damaged_images_are_refused(
    at: int, data: bytes, said: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    base = tmp_path / "base.img"
    base.write_bytes(bases["bookworm"].read_bytes())
    with base.open("r+b") as stream:
        stream.seek(at)
        stream.write(data)
    with pytest.raises(ImageError, match=said):
        image.write(base, tmp_path / "pi-1.img", SETTINGS, "bookworm")


@pytest.mark.parametrize("user", ["backup", "operator"])
def test_a_login_that_the_image_has_is_refused(user: str, bases: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=f"login {user} is a user or a group of"):
        image.write(bases["bookworm"], tmp_path / "pi-1.img", replace(SETTINGS, user=user), "bookworm")


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "base.img").touch()
    with pytest.raises(ImageError, match="no MBR"):
        image.inspect(tmp_path / "base.img")


def test_a_file_that_reads_back_as_something_else_is_an_error_and_leaves_nothing(
    bases: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Fat.write

    def failing(self: Fat, name: str, data: bytes, folder: Path) -> None:
        honest(self, name, data[:-1] + b"?" if name == "layer1.tar" else data, folder)

    monkeypatch.setattr(Fat, "write", failing)
    with pytest.raises(ToolError, match=r"layer1\.tar was written .* reads back as something else"):
        image.write(bases["bookworm"], tmp_path / "pi-1.img", SETTINGS, "bookworm")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["root", "boot"])
def test_a_copy_that_is_not_whole_is_an_error(
    place: str, bases: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stand-in damages the copy after cp, as a failing disk would; within the FAT, fsck is not ours."""
    copied = image._copy

    def failing(base: Path, made: Path) -> None:
        copied(base, made)
        with made.open("r+b") as stream:
            stream.seek(BOOT_AT + BOOT_MIB * MIB + 5 * MIB if place == "root" else 440)
            stream.write(b"!!!!")

    monkeypatch.setattr(image, "_copy", failing)
    with pytest.raises(ToolError, match="is not whole"):
        image.write(bases["bookworm"], tmp_path / "pi-1.img", SETTINGS, "bookworm")
    assert list(tmp_path.iterdir()) == []


KILLED = """
import sys, time
from pathlib import Path
sys.path[:0] = [{tests!r}, {repository!r}]
from pi_image_support import SETTINGS
from layer1.pi import image
from layer1.pi.fat import Fat
honest = Fat.write
def slow(self, name, data, folder):
    honest(self, name, data, folder)
    print("written", flush=True)
    time.sleep(60)
Fat.write = slow
image.write(Path({base!r}), Path({target!r}), SETTINGS, "bookworm")
"""


def test_a_kill_in_the_middle_leaves_the_old_file_and_the_next_run_cleans_up(
    bases: dict[str, Path], tmp_path: Path
) -> None:
    target = tmp_path / "pi-1.img"
    image.write(bases["bookworm"], target, SETTINGS, "bookworm")
    before = target.read_bytes()
    script = KILLED.format(
        tests=str(Path(__file__).parent),
        repository=str(REPOSITORY),
        base=str(bases["bookworm"]),
        target=str(target),
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        process.send_signal(signal.SIGKILL)
    assert target.read_bytes() == before
    (left,) = (path for path in tmp_path.iterdir() if path != target)
    assert stat.S_IMODE(left.stat().st_mode) == 0o700
    image.write(bases["bookworm"], target, replace(SETTINGS, hostname="pi-3"), "bookworm")
    assert list(tmp_path.iterdir()) == [target]
    image.remove(target)
    assert not tmp_path.exists() or list(tmp_path.iterdir()) == []


def test_no_secret_is_in_arguments_or_readable_by_others(
    bases: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    true_run = image.run

    def watching(command: list[str], **options: object) -> object:
        seen.append(" ".join(command))
        for path in tmp_path.rglob("*"):
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
        return true_run(command, **options)  # type: ignore[arg-type]

    for module in ("image", "fat", "release"):
        monkeypatch.setattr(f"layer1.pi.{module}.run", watching)
    image.write(bases["trixie-cloud-init"], tmp_path / "pi-1.img", SETTINGS, "trixie")
    assert len(seen) > 20
    secret = HOST_KEY.splitlines()[2]
    assert not any(secret in command for command in seen)


def test_a_plain_copy_is_the_base_itself(bases: dict[str, Path], tmp_path: Path) -> None:
    target = tmp_path / "pi" / "talos.img"
    made = image.copy(bases["bookworm"], target)
    assert target.read_bytes() == bases["bookworm"].read_bytes()
    assert made.sha256 == hashlib.sha256(target.read_bytes()).hexdigest()
    assert made.personalisation == ""
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
