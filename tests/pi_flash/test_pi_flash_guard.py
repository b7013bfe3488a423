"""Every refusal, on real devices; each alone, so that it is the one that is meant."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from pi_flash_support import MIB, NAME, SERIAL, Card, card, disk_image, mounted, run

from layer1.pi import flash, guard
from layer1.pi.block_device import Sources


def refusal(made: Card, image: Path, **changes: str) -> str:
    """The one refusal of an order; the device must be as it was after it."""
    sources = made.sources()
    before = made.backing.read_bytes()
    found = guard.refusals(made.order(image, **changes), sources)
    assert len(found) == 1, found
    with pytest.raises(guard.FlashError, match="refused, nothing was written") as caught:
        flash.flash(made.order(image, **changes), lambda _: None, sources)
    assert found[0] in str(caught.value)
    assert made.backing.read_bytes() == before
    return found[0]


def test_nothing_speaks_against_a_card(usb: Card, image: Path) -> None:
    assert guard.refusals(usb.order(image), usb.sources()) == ()


@pytest.mark.parametrize("path", ["/dev/sda", "by-id", "{by_id}/..", "{by_id}/../medium", "{by_id}/a/b", ""])
def test_a_device_is_named_by_its_id(usb: Card, image: Path, path: str) -> None:
    device = path.format(by_id=usb.sources().by_id)
    assert "must be a path directly below" in refusal(usb, image, device=device)


def test_not_there(usb: Card, image: Path) -> None:
    usb.sources()
    device = str(usb.link("usb-gone", Path("/dev/not-there")))
    assert "usb-gone is not there (No such file" in refusal(usb, image, device=device)


@pytest.mark.parametrize("node", ["/dev/null", "/etc/passwd"])
def test_no_block_device(usb: Card, image: Path, node: str) -> None:
    device = str(usb.link("usb-odd", Path(node)))
    assert f"leads to {node}, which is no block device" in refusal(usb, image, device=device)


def test_a_partition(usb: Card, image: Path) -> None:
    part = usb.add_part(1, 4, 20)
    sources = usb.sources()
    link = usb.link(f"{NAME}-part1", part)
    number = link.stat().st_rdev
    (sources.udev / f"b{os.major(number)}:{os.minor(number)}").write_text(f"E:ID_SERIAL_SHORT={SERIAL}\n")
    (found,) = guard.refusals(usb.order(image, device=str(link)), sources)
    assert f"{link.name} is a partition ({part}); name the whole disk" in found


def test_a_fixed_disk(usb: Card, image: Path) -> None:
    usb.removable, usb.bus = "0", ""
    assert "is not removable, nor on USB, NVMe or MMC" in refusal(usb, image)


def test_a_removable_disk_on_no_known_bus_is_a_card(usb: Card, image: Path) -> None:
    usb.bus = ""
    assert guard.refusals(usb.order(image), usb.sources()) == ()


@pytest.mark.parametrize(
    ("subsystem", "bus"), [("usb", "usb"), ("nvme-subsystem", "nvme"), ("mmc_host", "mmc")]
)
def test_a_fixed_disk_is_named_by_its_bus(usb: Card, image: Path, subsystem: str, bus: str) -> None:
    usb.removable, usb.bus, usb.link_name = "0", subsystem, "wwn-0x5000c500a1b2c3d4"
    assert f"use its link that starts with {bus}-" in refusal(usb, image)
    usb.link_name = f"{bus}-Samsung_T7_{SERIAL}"
    assert guard.refusals(usb.order(image), usb.sources()) == ()


def test_a_mounted_disk(usb: Card, image: Path, tmp_path: Path) -> None:
    run("mkfs.ext4", "-q", "-F", usb.node)
    with mounted(usb.node, tmp_path / "a place"):
        assert f"{usb.node.name} is mounted at {tmp_path}/a place" in refusal(usb, image)
    assert guard.refusals(usb.order(image), usb.sources()) == ()


def test_a_mounted_partition(usb: Card, image: Path, tmp_path: Path) -> None:
    part = usb.add_part(2, 8, 16)
    run("mkfs.ext4", "-q", "-F", part)
    with mounted(part, tmp_path / "place"):
        assert f"is in use: {part.name} is mounted at {tmp_path}/place;" in refusal(usb, image)


def test_a_disk_mounted_under_another_number(usb: Card, image: Path, tmp_path: Path) -> None:
    """Btrfs invents a number for its mounts."""
    with card(tmp_path / "btrfs", 128) as large:
        run("mkfs.btrfs", "-q", "-f", large.node)
        with mounted(large.node, tmp_path / "place"):
            assert f"{large.node.name} is mounted at {tmp_path}/place" in refusal(large, image)


def test_swap(usb: Card, image: Path) -> None:
    part = usb.add_part(3, 8, 16)
    run("mkswap", part)
    run("swapon", part)
    try:
        assert f"is in use: {part.name} is swap space;" in refusal(usb, image)
    finally:
        run("swapoff", part)


def test_a_layer_built_on_it(usb: Card, image: Path, tmp_path: Path) -> None:
    """A loop device over a disk is no holder of it, and does not claim it: neither would show it."""
    part = usb.add_part(1, 4, 20)
    upper = Path(run("losetup", "--show", "--find", part))
    try:
        os.close(os.open(usb.node, os.O_RDONLY | os.O_EXCL))
        assert f"is in use: {upper.name} is built on it;" in refusal(usb, image)
        run("mkfs.ext4", "-q", "-F", upper)
        with mounted(upper, tmp_path / "place"):
            found = refusal(usb, image)
        assert f"{upper.name} is mounted at {tmp_path}/place, {upper.name} is built on it" in found
    finally:
        run("losetup", "--detach", upper)


def test_the_running_system_below_dm_crypt_and_lvm(usb: Card, image: Path, tmp_path: Path) -> None:
    """A stand-in for device mapper, which a test machine may lack: its entries in /sys and /proc.

    disk <- dm-0 (crypt) <- dm-1 (LVM) mounted at /.
    """
    sources = usb.sources()
    holders = sources.sysfs / "devices/port/block" / usb.node.name / "holders"
    holders.unlink()
    holders.mkdir()
    for name, number, label, below in (
        ("dm-0", "252:0", "cryptroot", holders),
        ("dm-1", "252:1", "vg-root", sources.sysfs / "devices/virtual/dm-0/holders"),
    ):
        place = sources.sysfs / "devices/virtual" / name
        for part in ("holders", "dm"):
            (place / part).mkdir(parents=True)
        (place / "dev").write_text(f"{number}\n")
        (place / "dm/name").write_text(f"{label}\n")
        (sources.sysfs / "class/block" / name).symlink_to(place)
        (sources.sysfs / "dev/block" / number).symlink_to(place)
        (below / name).symlink_to(place)
    proc = tmp_path / "proc"
    (proc / "self").mkdir(parents=True)
    (proc / "swaps").write_text("Filename Type Size Used Priority\n")
    (proc / "self/mountinfo").write_text(
        "22 1 252:1 / / rw,relatime shared:1 - ext4 /dev/mapper/vg-root rw\n"
        "23 22 0:21 / /proc rw - proc proc rw\n"
    )
    found = guard.refusals(usb.order(image), dataclasses.replace(sources, proc=proc))
    assert len(found) == 2
    assert f"{usb.node} holds the running system (/)" in found[0]
    assert "dm-1 is mounted at /, dm-0 (cryptroot) is built on it, dm-1 (vg-root) is built on it;" in found[1]


def test_the_disk_of_this_machine(image: Path, tmp_path: Path) -> None:
    """Only the guard is asked, with the facts of the machine; `lsblk` says which disk it is."""
    source = run("findmnt", "--noheadings", "--output", "SOURCE", "--nofsroot", "/")
    rows = [row.split() for row in run("lsblk", "-nrspo", "NAME,TYPE", source).splitlines()]
    disks = [Path(name) for name, kind in rows if kind == "disk"]
    assert disks
    by_id = tmp_path / "by-id"
    by_id.mkdir()
    for disk in disks:
        link = by_id / f"usb-{disk.name}"
        link.symlink_to(disk)
        order = guard.FlashOrder(image=image, image_sha256="0" * 64, device=str(link), confirm_erase="")
        found = guard.refusals(order, Sources(by_id=by_id))
        assert any(text.startswith(f"{disk} holds the running system (/") for text in found), found
        (listed,) = guard.candidates(Sources(by_id=by_id))
        assert any("holds the running system" in text for text in listed.refusals)
        link.unlink()


def test_held_by_a_program(usb: Card, image: Path) -> None:
    held = os.open(usb.node, os.O_RDONLY | os.O_EXCL)
    try:
        assert f"the kernel says that {usb.node} is held" in refusal(usb, image)
    finally:
        os.close(held)


@pytest.fixture
def elsewhere(usb: Card, tmp_path: Path) -> Iterator[None]:
    """The card is mounted where only another mount namespace sees it, like a container's volume."""
    run("mkfs.ext4", "-q", "-F", usb.node)
    script = f"mount {usb.node} {tmp_path} && echo mounted && read line"
    with subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as shell:
        assert shell.stdout is not None
        assert shell.stdout.readline() == "mounted\n"
        yield
        shell.communicate("\n", timeout=30)


@pytest.mark.usefixtures("elsewhere")
def test_mounted_in_a_container(usb: Card, image: Path) -> None:
    assert "held, by a mount (perhaps a container's)" in refusal(usb, image)


def test_too_small(usb: Card, tmp_path: Path) -> None:
    image = tmp_path / "large.img"
    image.write_bytes(disk_image(32 * MIB + 1))
    assert f"{usb.node} has {32 * MIB} bytes and the image {32 * MIB + 1};" in refusal(usb, image)


@pytest.mark.parametrize("said", ["", SERIAL.lower(), SERIAL[:-1], f"SanDisk_Ultra_{SERIAL}", "yes"])
def test_another_serial(usb: Card, image: Path, said: str) -> None:
    found = refusal(usb, image, confirm_erase=said)
    assert "confirm_erase is not the serial" in found
    assert SERIAL not in found  # or the answer would stand in the refusal
    assert "pi devices" in found


def test_no_serial(usb: Card, image: Path) -> None:
    usb.serial = ""
    assert "shows no serial" in refusal(usb, image)


@pytest.mark.parametrize("known", ["E:ID_SERIAL=0x1a2b3c4d\n", ""])
def test_serial_by_other_sources(usb: Card, image: Path, known: str) -> None:
    """An SD card has the long form only; without udev the kernel's own attribute counts."""
    usb.serial = "0x1a2b3c4d"
    sources = usb.sources()
    (entry,) = sources.udev.iterdir()
    entry.write_text(known)
    if not known:
        attributes = sources.sysfs / "devices/port/block" / usb.node.name / "device"
        attributes.mkdir()
        (attributes / "serial").write_text("0x1a2b3c4d\n")
    assert guard.refusals(usb.order(image), sources) == ()


def test_read_only(image: Path, tmp_path: Path) -> None:
    with card(tmp_path / "locked", 32, "--read-only") as locked:
        assert f"{locked.node} is read-only; move the card's lock switch" in refusal(locked, image)


def test_large_sectors(image: Path, tmp_path: Path) -> None:
    with card(tmp_path / "large", 32, "--sector-size", "4096") as large:
        assert "has sectors of 4096 bytes" in refusal(large, image)


def test_a_reader_without_a_card(usb: Card, image: Path) -> None:
    usb.backing.write_bytes(b"")
    run("losetup", "--set-capacity", usb.node)
    assert f"{usb.node} has no medium; put the card into the reader" in refusal(usb, image)


def test_every_refusal_at_once(image: Path, tmp_path: Path) -> None:
    with card(tmp_path / "bad", 8, "--read-only") as bad:
        bad.removable, bad.bus = "0", ""
        image.write_bytes(image.read_bytes().replace(b"\x55\xaa", b"\0\0", 1))
        order = bad.order(image, confirm_erase="no", image_sha256="A" * 64)
        found = guard.refusals(order, bad.sources())
    said = (
        "no partition table",
        "64 hexadecimal",
        "not removable",
        "read-only",
        "bytes and the image",
        "serial",
    )
    assert len(found) == len(said)
    assert all(part in text for part, text in zip(said, found, strict=True))


def test_the_image(usb: Card, image: Path, tmp_path: Path) -> None:
    order = usb.order(image)
    sources = usb.sources()
    absent = dataclasses.replace(order, image=tmp_path / "absent.img")
    assert "absent.img cannot be read (No such file" in guard.refusals(absent, sources)[0]
    folder = dataclasses.replace(order, image=tmp_path)
    assert "is not a file" in guard.refusals(folder, sources)[0]
    empty = tmp_path / "empty.img"
    empty.touch()
    assert "has no partition table" in guard.refusals(dataclasses.replace(order, image=empty), sources)[0]


def test_a_user_who_may_not(image: Path) -> None:
    folder = Path(tempfile.mkdtemp())  # pytest's own folders are closed to others
    try:
        folder.chmod(0o755)
        open_image = shutil.copy(image, folder)
        with card(folder / "card") as made:
            order, sources = made.order(Path(open_image)), made.sources()
            os.seteuid(65534)
            try:
                (found,) = guard.refusals(order, sources)
            finally:
                os.seteuid(0)
        assert f"this user may not open {made.node}; flash as root" in found
    finally:
        shutil.rmtree(folder)


def test_candidates(usb: Card, tmp_path: Path) -> None:
    sources = usb.sources()
    usb.link("wwn-0x5000c500a1b2c3d4", usb.node)
    usb.link("ata-Samsung", usb.node)
    usb.link("usb-gone", Path("/dev/not-there"))
    (found,) = guard.candidates(sources)
    assert found == guard.Candidate(
        device=usb.device,
        node=str(usb.node),
        size_bytes=32 * MIB,
        model="Ultra",
        serial=SERIAL,
        refusals=(),
    )
    run("mkfs.ext4", "-q", "-F", usb.node)
    with mounted(usb.node, tmp_path / "place"):
        (found,) = guard.candidates(sources)
    assert "is mounted at" in found.refusals[0]
    assert guard.candidates(dataclasses.replace(sources, by_id=tmp_path / "none")) == ()
