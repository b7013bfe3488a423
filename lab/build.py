"""Builds the practice image into the cache and describes it in `image.json`."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from layer1.errors import ImageError, ToolError
from layer1.paths import cache_dir, work_dir

LAB = Path(__file__).resolve().parent
RECIPE = LAB / "recipe"
K3S = LAB / "k3s"
STEPS = sorted((RECIPE / "steps").glob("[0-9]*.sh"))
# program -> the Debian package that has it
PROGRAMS = {
    "mmdebstrap": "mmdebstrap",
    "dpkg-deb": "dpkg",
    "mksquashfs": "squashfs-tools",
    "veritysetup": "cryptsetup-bin",
    "syslinux": "syslinux",
    "mkfs.vfat": "dosfstools",
    "mcopy": "mtools",
    "sfdisk": "fdisk",
    "mkfs.ext4": "e2fsprogs",
    "qemu-img": "qemu-utils",
    "cpio": "cpio",
    "zstd": "zstd",
    "modprobe": "kmod",
}
FILES = {
    "/usr/lib/systemd/boot/efi/systemd-bootx64.efi": "systemd-boot-efi",
    "/usr/lib/syslinux/mbr/gptmbr.bin": "syslinux-common",
    "/usr/lib/syslinux/modules/bios/ldlinux.c32": "syslinux-common",
}


def recipe_key() -> str:
    """Return 12 hex digits over the names, modes and contents of the recipe's files."""
    digest = hashlib.sha256()
    for path in sorted(p for p in RECIPE.rglob("*") if p.is_file()):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(RECIPE)} {path.stat().st_mode & 0o100} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()[:12]


def image_folder() -> Path:
    """Return the folder that holds, or will hold, the image of the present recipe."""
    return cache_dir() / "lab" / recipe_key()


def build() -> Path:
    """Build the image unless it is there, and return its manifest's path."""
    folder = image_folder()
    manifest = folder / "image.json"
    if manifest.exists():
        _make_current(folder)
        _refresh_installer(manifest)
        return manifest
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _only_build(folder.parent):
        if not manifest.exists():  # another build may have made it meanwhile
            _build(folder)
    return manifest


def manifest() -> dict[str, Any]:
    """Return the manifest of the built image."""
    path = image_folder() / "image.json"
    if not path.exists():
        raise ImageError("the practice image is not built: run `python -m lab build`")
    _refresh_installer(path)
    data: dict[str, Any] = json.loads(path.read_text())
    return data


def _build(folder: Path) -> None:
    _check_tools()
    ignition = _ignition()
    began = time.monotonic()
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    out = scratch / "out"
    out.mkdir(mode=0o700)
    log = scratch / "build.log"
    try:
        environment = {
            **os.environ,
            "RECIPE": str(RECIPE),
            "WORK": str(scratch),
            "OUT": str(out),
            "IGNITION": str(ignition),
            "APT_SOURCES": str(_apt_sources()),
        }
        for step in STEPS:
            print(f"[{time.monotonic() - began:5.1f} s] {_title(step)}", flush=True)
            _run_step(step, environment, log)
        if recipe_key() != folder.name:
            raise ImageError("the recipe was changed while the image was being built: build again")
        _write_manifest(out, folder)
        out.rename(folder)
        _make_current(folder)
    finally:
        # the Debian tree belongs to the users of the build's namespace, so it goes as it came
        subprocess.run([*_as_root(), "rm", "-rf", "--one-file-system", str(scratch)], check=False)
    size = (folder / "guest.qcow2").stat().st_size / 1e6
    print(f"[{time.monotonic() - began:5.1f} s] {folder / 'guest.qcow2'}: {size:.0f} MB", flush=True)


def _make_current(folder: Path) -> None:
    """Point `<cache>/lab/current` at the folder: the image that stacks with a practice node take."""
    link = folder.parent / "current"
    if link.is_symlink() and link.readlink() == Path(folder.name):
        return
    temporary = folder.parent / f".current-{os.getpid()}"
    temporary.symlink_to(folder.name)
    temporary.replace(link)


def _title(step: Path) -> str:
    """Return the first sentence of the step's comment."""
    comment = step.read_text().splitlines()[1].removeprefix("# ")
    return f"{step.stem}: {comment.split('. ')[0].rstrip('.')}"


def _run_step(step: Path, environment: dict[str, str], log: Path) -> None:
    with log.open("ab") as output:
        code = subprocess.run(
            [*_as_root(), "bash", str(step)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        ).returncode
    if code:
        kept = cache_dir() / "lab" / "build-failed.log"
        shutil.copyfile(log, kept)
        tail = "\n".join(f"  {line}" for line in log.read_text(errors="replace").splitlines()[-15:])
        raise ImageError(
            f"step {step.name} of the practice image failed with status {code}:\n{tail}\n"
            f"The whole output is in {kept}; nothing else was left behind."
        )


def _as_root() -> list[str]:
    """Return what makes a command root: nothing for root, else a user namespace of the caller's own."""
    if os.geteuid() == 0:
        return []
    if not shutil.which("newuidmap"):
        raise ToolError(
            "building the practice image needs root, or user namespaces with the Debian package `uidmap` "
            "and a range for this user in /etc/subuid and /etc/subgid"
        )
    return ["unshare", "--map-auto", "--map-root-user", "--mount", "--fork"]


def _check_tools() -> None:
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    missing = {package for program, package in PROGRAMS.items() if not shutil.which(program, path=path)}
    missing |= {package for file, package in FILES.items() if not Path(file).exists()}
    if missing:
        raise ToolError(
            "the practice image needs Debian packages that are not installed: "
            f"apt-get install {' '.join(sorted(missing))}"
        )


def _ignition() -> Path:
    own = os.environ.get("LAB_IGNITION")
    path = Path(own) if own else work_dir() / "bin" / "ignition"
    if not path.exists():
        raise ToolError(
            f"there is no Ignition at {path}: run `make toolchain`, or name one with LAB_IGNITION"
        )
    return path.resolve()


def _apt_sources() -> Path:
    """Return where Debian packages come from: this machine's own sources, so that its mirror is used."""
    own = os.environ.get("LAB_APT_SOURCES")
    candidates = [own] if own else ["/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list"]
    for path in map(Path, candidates):
        if path.is_file() and "debian" in path.read_text():
            return path
    raise ToolError(
        f"no Debian package sources in {' or '.join(candidates)}: "
        "name a sources file for Debian 12 with LAB_APT_SOURCES"
    )


def _write_manifest(out: Path, folder: Path) -> None:
    image = out / "guest.qcow2"
    image.chmod(0o444)
    info = json.loads(
        subprocess.run(
            ["qemu-img", "info", "--output=json", str(image)], check=True, capture_output=True, text=True
        ).stdout
    )
    with image.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha512").hexdigest()
    _write_json(
        out / "image.json",
        {
            "name": "practice",
            "version": folder.name,
            "arch": "amd64",
            "format": "qcow2",
            "path": str(folder / image.name),
            "size_bytes": image.stat().st_size,
            "sha512": digest,
            "virtual_size_bytes": info["virtual-size"],
            "built_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "k3s_installer": _installer(),
        },
    )


def _installer() -> dict[str, str]:
    path = K3S / "install.sh"
    return {"sha512": hashlib.sha512(path.read_bytes()).hexdigest(), "path": str(path)}


def _refresh_installer(path: Path) -> None:
    """Bring the installer's entry up to date: it is no part of the image and may change without a build."""
    data = json.loads(path.read_text())
    if data["k3s_installer"] != _installer():
        data["k3s_installer"] = _installer()
        _write_json(path, data)


def _write_json(path: Path, data: dict[str, Any]) -> None:
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(data, indent=2) + "\n")
    temporary.rename(path)


@contextlib.contextmanager
def _only_build(folder: Path) -> Iterator[None]:
    with (folder / "build.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("another build is under way: waiting for it", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
