"""What a Pi's firmware does before the kernel, done for a practice board: it reads the FAT partition."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from layer1.errors import ToolError
from layer1.processes import last_lines, run

_SECTOR = 512
# The Pi's kernel has these off unless cmdline.txt asks for them; Debian's has them on.
_OFF_BY_DEFAULT = {"cgroup_enable=memory": "cgroup_disable=memory", "apparmor=1": "apparmor=0"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """What one start of the board uses: two files and the kernel's command line."""

    kernel: Path
    initrd: Path
    arguments: str


def read_card(image: Path, folder: Path) -> Start:
    """Read kernel, initramfs and cmdline.txt from a card's FAT partition into a folder."""
    names = ("kernel8.img", "initramfs8", "cmdline.txt")
    _mtools("mcopy", "-n", "-o", "-i", boot_partition(image), *(f"::{name}" for name in names), str(folder))
    kernel, initrd, line = (folder / name for name in names)
    return Start(kernel=kernel, initrd=initrd, arguments=kernel_arguments(line.read_text()))


def kernel_arguments(cmdline: str) -> str:
    """Return what the kernel gets from cmdline.txt: its first line, with `serial0` resolved.

    Stand-in: what a Pi's kernel has off by default is switched off here, where the line does not ask for
    it. So a missing edit of cmdline.txt shows in the guest; how a Pi's kernel reads the words does not.
    """
    words = cmdline.partition("\n")[0].replace("console=serial0,", "console=ttyAMA0,").split()
    return " ".join([*words, *(off for on, off in _OFF_BY_DEFAULT.items() if on not in words)])


def add_efi_loader(image: Path, loader: Path) -> None:
    """Give a card's FAT partition an EFI boot loader, whose entry is cmdline.txt as it is now.

    A Pi has no EFI; a virtual machine on a Pi has nothing else.
    """
    partition = boot_partition(image)
    arguments = kernel_arguments(read_boot_file(image, "cmdline.txt"))
    folders = ("EFI", "EFI/BOOT", "loader", "loader/entries")
    _mtools("mmd", "-D", "s", "-i", partition, *(f"::{name}" for name in folders))
    _mtools("mcopy", "-o", "-i", partition, str(loader), "::EFI/BOOT/BOOTAA64.EFI")
    entry = f"title board\nlinux /kernel8.img\ninitrd /initramfs8\noptions {arguments}\n"
    write_boot_file(image, "loader/entries/board.conf", entry)
    write_boot_file(image, "loader/loader.conf", "timeout 0\ndefault board.conf\n")


def read_boot_file(image: Path, name: str) -> str:
    """Return the text of a file of the FAT partition."""
    return _mtools("mtype", "-i", boot_partition(image), f"::{name}")


def boot_file_names(image: Path) -> set[str]:
    """Return the paths of all files of the FAT partition, without the leading slash."""
    lines = _mtools("mdir", "-b", "-/", "-i", boot_partition(image), "::").splitlines()
    return {line.removeprefix("::/") for line in lines if not line.endswith("/")}


def write_boot_file(image: Path, name: str, text: str) -> None:
    """Write a file of the FAT partition."""
    _mtools("mcopy", "-o", "-i", boot_partition(image), "-", f"::{name}", stdin=text)


def boot_partition(image: Path) -> str:
    """Return mtools' name for the card's first partition: the file and an offset in bytes."""
    with image.open("rb") as card:
        table = card.read(_SECTOR)
    (first_sector,) = struct.unpack_from("<I", table, 446 + 8)
    return f"{image}@@{first_sector * _SECTOR}"


def _mtools(*command: str, stdin: str = "") -> str:
    result = run(command, stdin=stdin)
    if result.returncode != 0:
        raise ToolError(f"{command[0]}: the card's FAT partition: {last_lines(result.stderr, 2)}")
    return result.stdout
