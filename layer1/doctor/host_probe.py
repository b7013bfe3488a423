"""What a libvirt host says of itself; runs here, or on another machine as `python3 -` over SSH.

So this file uses the standard library alone (Python 3.10), writes nothing that stays, and judges nothing.
Each probe takes the root folder that its files are below; what could not be learned is None.
"""

from __future__ import annotations

import contextlib
import ctypes
import grp
import json
import os
import platform
import pwd
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path("/")
ROM_TIME_LIMIT_S = 3.0
_ROM_BYTES = 65536
_STA_UNSYNC = 0x40
# kvm_rom_x86_64.S, assembled
_ROM_X86_64 = bytes.fromhex(
    "fa2e660f0116c8000f20c06683c8010f22c066ea1a000f00080066b810008ed88ec08ed0bc008000"
    "009c6a086832000f00cfbf0010000031c0b9000c0000f3abc7050010000003200000c70500200000"
    "03300000c7050030000083000000b8200000000f22e0b8001000000f22d8b9800000c00f320d0001"
    "00000f300f20c00d000000800f22c0ea8e000f0018006a1068008000009c6a18689f000f0048cf66"
    "baf400b010eef4900000000000000000ffff0000009acf00ffff00000092cf00ffff0000009aaf00"
    "1f00a8000f00"
)
# movz w0,#8; movk w0,#0x8400,lsl#16; hvc #0; b . : the firmware call SYSTEM_OFF (Arm DEN0022, PSCI)
_ROM_AARCH64 = struct.pack("<4I", 0x52800100, 0x72B08000, 0xD4000002, 0x14000000)


@dataclass(frozen=True)
class Wish:
    """What to look at.

    Attributes:
        pool_path: the folder that holds the stacks' pools.
        pool_directory: the stack's own folder below it.
        files: paths of which is asked whether they are there.
        qemu_user: name or number of the user that QEMU runs as.
    """

    pool_path: str
    pool_directory: str
    files: list[str] = field(default_factory=list)
    qemu_user: str = "libvirt-qemu"


@dataclass(frozen=True)
class Rom:
    """What came of a tiny ROM: `ran`, `hung`, `missing` (no QEMU), or `ended` with what QEMU said."""

    outcome: str
    said: str = ""


@dataclass(frozen=True)
class Kvm:
    """The device /dev/kvm: `opens`, or why not; who may open it; what ran under it, and without it."""

    opens: bool
    problem: str
    owner: str
    qemu_may_open: bool | None
    rom: Rom | None
    emulated: Rom


@dataclass(frozen=True)
class Daemon:
    """The process of libvirt's QEMU driver.

    Attributes:
        name: `libvirtd` or `virtqemud`.
        label: its security label, such as `libvirtd (enforce)`; None where the kernel gives none.
        capabilities: its effective ones, as a mask.
        memlock_hard: the hard limit of locked memory in bytes, or `unlimited`.
    """

    name: str
    label: str | None
    capabilities: int
    memlock_hard: str


@dataclass(frozen=True)
class Step:
    """A folder on the way to the pool."""

    path: str
    uid: int
    gid: int
    mode: int


@dataclass(frozen=True)
class Pool:
    """Where the pool is or would be.

    Attributes:
        nearest: the pool path, or its nearest parent that is there.
        steps: every folder from the root to that one.
        filesystem: such as `ext4`.
        free_bytes: what an ordinary user may still write.
        used_bytes: what the stack's own volumes take already.
        qemu_ids: user and groups of QEMU; None where there is no such user.
    """

    nearest: str
    steps: list[Step]
    filesystem: str
    free_bytes: int
    used_bytes: int
    qemu_ids: list[int] | None


@dataclass(frozen=True)
class Facts:
    """All of it. `cpu_flags` are those that matter here; `routes` are (destination, device)."""

    arch: str
    user: str
    groups: list[str]
    virtual: bool
    kvm: Kvm
    apparmor: str | None
    daemon: Daemon | None
    qemu_conf: str | None
    qemu_conf_problem: str
    seccomp: bool
    vulnerabilities: dict[str, str] | None
    microcode: str | None
    ksm_run: str | None
    iommu_groups: int
    memory_controller: str | None
    clock: bool | None
    pool: Pool
    files: dict[str, bool]
    programs: dict[str, str | None]
    routes: list[list[str]] | None


def examine(wish: Wish, root: Path = ROOT) -> Facts:
    """Learn everything; the ROMs run meanwhile."""
    qemu_ids = user_ids(wish.qemu_user)
    with _beside(lambda: kvm(qemu_ids, root)) as answer:
        conf, problem = read_privileged(root / "etc/libvirt/qemu.conf")
        facts: dict[str, Any] = {
            "arch": platform.machine(),
            "user": pwd.getpwuid(os.geteuid()).pw_name,
            "groups": _group_names(),
            "virtual": virtual(root),
            "apparmor": _text(root / "sys/module/apparmor/parameters/enabled"),
            "daemon": daemon(root),
            "qemu_conf": conf,
            "qemu_conf_problem": problem,
            "seccomp": bool(_text(root / "proc/sys/kernel/seccomp/actions_avail")),
            "vulnerabilities": vulnerabilities(root),
            "microcode": _cpuinfo("microcode", root),
            "ksm_run": _text(root / "sys/kernel/mm/ksm/run"),
            "iommu_groups": sum(1 for _ in (root / "sys/kernel/iommu_groups").glob("*")),
            "memory_controller": memory_controller(root),
            "clock": clock_synchronised(),
            "pool": pool(wish, qemu_ids, root),
            "files": {path: _is(Path.is_file, _below(root, Path(path))) for path in wish.files},
            "programs": {name: _program(name) for name in ("swtpm", "swtpm_setup", "ip")},
            "routes": routes(),
        }
    return Facts(kvm=answer[0], **facts)


@contextlib.contextmanager
def _beside(work: Callable[[], Any]) -> Iterator[list[Any]]:
    """Have something done in a thread; its result is in the list afterwards."""
    answer: list[Any] = []
    thread = threading.Thread(target=lambda: answer.append(work()))
    thread.start()
    try:
        yield answer
    finally:
        thread.join()


def _text(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")


def read_privileged(path: Path) -> tuple[str | None, str]:
    """Read a file that may be root's alone, by sudo where that asks for no password.

    Returns:
        Its text, empty for a file that is not there; or None and why it could not be read.
    """
    try:
        return path.read_text(errors="replace"), ""
    except FileNotFoundError:
        return "", ""
    except PermissionError as error:
        if _program("sudo"):
            done = _run(["sudo", "-n", "cat", str(path)])
            if done is not None and done.returncode == 0:
                return done.stdout, ""
        return None, f"{path}: {error.strerror}"


def _run(command: list[str], timeout_s: float = 10) -> subprocess.CompletedProcess[str] | None:
    try:
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None


def _group_names() -> list[str]:
    names = []
    for number in {os.getegid(), *os.getgroups()}:
        with contextlib.suppress(KeyError):
            names.append(grp.getgrgid(number).gr_name)
    return sorted(names)


def user_ids(user: str) -> list[int] | None:
    """Return a user's number and then its groups; None where there is no such user."""
    try:
        entry = pwd.getpwuid(int(user)) if user.isdigit() else pwd.getpwnam(user)
    except KeyError:
        return None
    return [entry.pw_uid, *os.getgrouplist(entry.pw_name, entry.pw_gid)]


def permits(mode: int, owner: tuple[int, int], ids: list[int], bits: int) -> bool:
    """Say whether a mode gives a user all of `bits` (4 read, 2 write, 1 search), as the kernel would.

    Args:
        mode: the file's mode.
        owner: its user and group.
        ids: the user's number, then its groups.
        bits: what is wanted.
    """
    if ids[0] == owner[0]:
        return mode >> 6 & bits == bits
    if owner[1] in ids[1:]:
        return mode >> 3 & bits == bits
    return mode & bits == bits


def kvm(qemu_ids: list[int] | None, root: Path = ROOT) -> Kvm:
    """Look at /dev/kvm, and run the ROM under it and under emulation."""
    device = root / "dev/kvm"
    emulated = run_rom("tcg")
    try:
        status = device.stat()
        with device.open("r+b", buffering=0):
            pass
    except OSError as error:
        owner = _owner(device)
        return Kvm(False, error.strerror or "", owner, None, None, emulated)
    may = qemu_ids is not None and permits(status.st_mode, (status.st_uid, status.st_gid), qemu_ids, 6)
    return Kvm(True, "", _owner(device), may, run_rom("kvm"), emulated)


def _owner(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:
        return ""
    return f"{status.st_uid}:{status.st_gid} {status.st_mode & 0o777:04o}"


def rom_image(arch: str) -> bytes | None:
    """Return the ROM for an architecture, None for one that has none."""
    if arch == "x86_64":
        jump = b"\xea\x00\x00\x00\xf0"  # at the reset vector: ljmp $0xf000, $0
        return _ROM_X86_64.ljust(_ROM_BYTES - 16, b"\xf4") + jump.ljust(16, b"\xf4")
    return _ROM_AARCH64.ljust(_ROM_BYTES, b"\0") if arch == "aarch64" else None


def run_rom(accel: str, image: bytes | None = None, time_limit_s: float = ROM_TIME_LIMIT_S) -> Rom:
    """Run a ROM of 64 KiB in QEMU, which ends by itself if the code runs.

    Args:
        accel: `kvm` or `tcg`.
        image: the ROM, by default that of this machine's architecture.
        time_limit_s: seconds after which QEMU is killed.
    """
    arch = platform.machine()
    image = image or rom_image(arch)
    program = _program(f"qemu-system-{arch}")
    if image is None or program is None:
        return Rom("missing")
    native = accel == "kvm"
    machine, device, expected = (
        (["q35"], ["-device", "isa-debug-exit,iobase=0xf4,iosize=1"], 33)
        if arch == "x86_64"
        else (["virt,gic-version=host" if native else "virt"], [], 0)
    )
    with tempfile.NamedTemporaryFile(prefix="layer1-rom-") as file:
        file.write(image)
        file.flush()
        command = [program, "-accel", accel, "-cpu", "host" if native else "max", "-machine", *machine]
        command += ["-m", "16", "-nodefaults", "-no-user-config", "-display", "none", "-bios", file.name]
        with subprocess.Popen(
            [*command, *device],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        ) as running:
            try:
                _, complaint = running.communicate(timeout=time_limit_s)
            except subprocess.TimeoutExpired:
                running.kill()
                _, complaint = running.communicate()
                return Rom("hung", _first_line(complaint))
    if running.returncode == expected:
        return Rom("ran")
    return Rom("ended", f"status {running.returncode}: {_first_line(complaint) or 'it said nothing'}")


def _first_line(text: bytes) -> str:
    lines = text.decode(errors="replace").strip().splitlines()
    return lines[0] if lines else ""


def virtual(root: Path = ROOT) -> bool:
    """Say whether the machine is itself a virtual one."""
    flags = _cpuinfo("flags", root) or ""
    tree = root / "proc/device-tree/hypervisor"
    return "hypervisor" in flags.split() or tree.exists()


def _cpuinfo(name: str, root: Path) -> str | None:
    for line in (_text(root / "proc/cpuinfo") or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return None


def daemon(root: Path = ROOT) -> Daemon | None:
    """Find libvirt's daemon: by its file of the process id, else by its name."""
    proc = root / "proc"
    named = [_text(root / f"run/{name}.pid") or "" for name in ("libvirtd", "virtqemud")]
    everybody = (folder.name for folder in proc.glob("[0-9]*"))
    for pid in [*(pid for pid in named if pid.isdigit()), *everybody]:
        folder = proc / pid
        name = _text(folder / "comm")
        if name in ("libvirtd", "virtqemud"):
            return _daemon(name, folder)
    return None


def _daemon(name: str, folder: Path) -> Daemon | None:
    label = _text(folder / "attr/apparmor/current") or _text(folder / "attr/current")
    status, limits = _text(folder / "status"), _text(folder / "limits")
    if status is None or limits is None:
        return None
    masks = [line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")]
    locked = [line.split()[4] for line in limits.splitlines() if line.startswith("Max locked memory")]
    return Daemon(name, label and label.strip("\0\n"), int(masks[0], 16), locked[0])


def vulnerabilities(root: Path = ROOT) -> dict[str, str] | None:
    """Return what the kernel says of each flaw of the processor."""
    folder = root / "sys/devices/system/cpu/vulnerabilities"
    found = {path.name: _text(path) or "" for path in sorted(folder.glob("*"))}
    return found or None


def memory_controller(root: Path = ROOT) -> str | None:
    """Say which version of control groups limits memory; None where none does."""
    unified = _text(root / "sys/fs/cgroup/cgroup.controllers")
    if unified is not None:
        return "v2" if "memory" in unified.split() else None
    for line in (_text(root / "proc/mounts") or "").splitlines():
        fields = line.split()
        if fields[2] == "cgroup" and "memory" in fields[3].split(","):
            return "v1"
    return None


def clock_synchronised() -> bool | None:
    """Ask the kernel whether a time service steers its clock; changes nothing."""
    if sys.maxsize < 2**32:
        return None  # the structure is another there
    buffer = ctypes.create_string_buffer(512)  # struct timex with modes 0: only read
    if ctypes.CDLL(None, use_errno=True).adjtimex(buffer) < 0:
        return None
    status: int = struct.unpack_from("i", buffer, 40)[0]
    return not status & _STA_UNSYNC


def pool(wish: Wish, qemu_ids: list[int] | None, root: Path = ROOT) -> Pool:
    """Look at the pool's path as far as it is there."""
    nearest = Path(wish.pool_path)
    while not _is(Path.is_dir, _below(root, nearest)):
        nearest = nearest.parent
    steps = []
    for folder in (*reversed(nearest.parents), nearest):
        status = _below(root, folder).stat()
        steps.append(Step(str(folder), status.st_uid, status.st_gid, status.st_mode & 0o7777))
    space = os.statvfs(_below(root, nearest))
    used = sum(status.st_blocks * 512 for status in _files(_below(root, Path(wish.pool_directory))))
    return Pool(
        nearest=str(nearest),
        steps=steps,
        filesystem=_filesystem(nearest, root),
        free_bytes=space.f_bavail * space.f_frsize,
        used_bytes=used,
        qemu_ids=qemu_ids,
    )


def _below(root: Path, path: Path) -> Path:
    return root / str(path).lstrip("/")


def _is(kind: Callable[[Path], bool], path: Path) -> bool:
    try:
        return kind(path)
    except PermissionError:
        return False  # in a folder that is closed to us, which the steps to it tell


def _files(folder: Path) -> Iterator[os.stat_result]:
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return  # not there yet, or not ours to list
    for entry in entries:
        with contextlib.suppress(OSError):
            yield entry.stat(follow_symlinks=False)


def _filesystem(folder: Path, root: Path) -> str:
    """Return the type of the mount that a folder is on: the last of the deepest mount points above it."""
    best, kind = -1, "unknown"
    for line in (_text(root / "proc/self/mountinfo") or "").splitlines():
        fields = line.split(" ")
        point = Path(fields[4].replace("\\040", " "))
        if (point == folder or point in folder.parents) and len(point.parts) >= best:
            best, kind = len(point.parts), fields[fields.index("-", 6) + 1]
    return kind


def routes() -> list[list[str]] | None:
    """Return destination and device of each IPv4 route of the main table, without default routes."""
    program = _program("ip")
    done = _run([program, "-json", "-4", "route", "show"]) if program else None
    if done is None or done.returncode != 0:
        return None
    found = json.loads(done.stdout or "[]")
    return [[route["dst"], route.get("dev", "")] for route in found if route["dst"] != "default"]


def from_json(text: str) -> Facts:
    """Read back what this file prints on another machine.

    Raises:
        ValueError: it is not that.
        KeyError: something is missing in it.
        TypeError: something in it is too much.
    """
    raw = json.loads(text)
    kvm_raw, pool_raw = raw["kvm"], raw["pool"]
    kvm_raw["rom"] = Rom(**kvm_raw["rom"]) if kvm_raw["rom"] else None
    kvm_raw["emulated"] = Rom(**kvm_raw["emulated"])
    pool_raw["steps"] = [Step(**step) for step in pool_raw["steps"]]
    raw["kvm"], raw["pool"] = Kvm(**kvm_raw), Pool(**pool_raw)
    raw["daemon"] = Daemon(**raw["daemon"]) if raw["daemon"] else None
    return Facts(**raw)


def main() -> None:
    """Print the facts as JSON; the wish is the only argument."""
    sys.stdout.write(json.dumps(asdict(examine(Wish(**json.loads(sys.argv[1]))))) + "\n")


if __name__ == "__main__":
    main()
