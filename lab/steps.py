"""Runs a recipe's build steps: as root or in a user namespace of the caller's own, one build at a time."""

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
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from layer1.errors import ImageError, ToolError


def recipe_key(recipe: Path) -> str:
    """Return 12 hex digits over the names, modes and contents of a recipe's files."""
    digest = hashlib.sha256()
    for path in sorted(p for p in recipe.rglob("*") if p.is_file()):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(recipe)} {path.stat().st_mode & 0o100} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()[:12]


def build(  # noqa: PLR0913 - what a recipe is made of
    recipe: Path,
    steps: Sequence[Path],
    folder: Path,
    subject: str,
    *,
    finish: Callable[[Path], None],
    variables: Mapping[str, str] | None = None,
) -> None:
    """Build what a recipe describes into a folder that is there whole or not at all.

    Args:
        recipe: the recipe's files.
        steps: its scripts, in their order; they find RECIPE, WORK, OUT and APT_SOURCES in their environment.
        folder: the result, named by the recipe's key.
        subject: what is being built, for errors.
        finish: makes the output ready, in the folder that will be renamed.
        variables: more for the steps' environment.

    Raises:
        ImageError: a step failed, or the recipe was changed meanwhile.
    """
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    out = scratch / "out"
    out.mkdir(mode=0o700)
    environment = {
        "RECIPE": str(recipe),
        "WORK": str(scratch),
        "OUT": str(out),
        "APT_SOURCES": str(apt_sources()),
        **(variables or {}),
    }
    try:
        kept_log = folder.parent / "build-failed.log"
        run_steps(steps, environment, scratch / "build.log", kept_log, subject)
        if recipe_key(recipe) != folder.name:
            raise ImageError(
                f"the recipe of {subject} was changed while the image was being built: build again"
            )
        finish(out)
        out.rename(folder)
    finally:
        remove(scratch)


def run_steps(
    steps: Sequence[Path], variables: Mapping[str, str], log: Path, kept_log: Path, subject: str
) -> None:
    """Run build steps one after the other, each with a line on standard output.

    Args:
        steps: bash scripts whose second line is a comment that says what they do.
        variables: environment of the steps, besides the present one.
        log: takes their output.
        kept_log: where the log of a failed build stays.
        subject: what is being built, for the error.

    Raises:
        ImageError: a step failed; its last lines are in the message.
    """
    began = time.monotonic()
    for step in steps:
        print(f"[{time.monotonic() - began:5.1f} s] {_title(step)}", flush=True)
        with log.open("ab") as output:
            code = subprocess.run(
                [*as_root(), "bash", str(step)],
                env={**os.environ, **variables},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
            ).returncode
        if code:
            shutil.copyfile(log, kept_log)
            tail = "\n".join(f"  {line}" for line in log.read_text(errors="replace").splitlines()[-15:])
            raise ImageError(
                f"step {step.name} of {subject} failed with status {code}:\n{tail}\n"
                f"The whole output is in {kept_log}; nothing else was left behind."
            )
    print(f"[{time.monotonic() - began:5.1f} s] done", flush=True)


def _title(step: Path) -> str:
    """Return the first sentence of the step's comment."""
    comment = step.read_text().splitlines()[1].removeprefix("# ")
    return f"{step.stem}: {comment.split('. ')[0].rstrip('.')}"


def as_root() -> list[str]:
    """Return what makes a command root: nothing for root, else a user namespace of the caller's own."""
    if os.geteuid() == 0:
        return []
    if not shutil.which("newuidmap"):
        raise ToolError(
            "building the practice image needs root, or user namespaces with the Debian package `uidmap` "
            "and a range for this user in /etc/subuid and /etc/subgid"
        )
    return ["unshare", "--map-auto", "--map-root-user", "--mount", "--fork"]


def remove(folder: Path) -> None:
    """Remove a scratch folder, whose Debian tree belongs to the users of the build's namespace."""
    subprocess.run([*as_root(), "rm", "-rf", "--one-file-system", str(folder)], check=False)


def check_tools(programs: Mapping[str, str], files: Mapping[str, str]) -> None:
    """Check that programs and files are there.

    Args:
        programs: Debian package by program.
        files: Debian package by absolute path.

    Raises:
        ToolError: some are missing; the message names their packages.
    """
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    missing = {package for program, package in programs.items() if not shutil.which(program, path=path)}
    missing |= {package for file, package in files.items() if not Path(file).exists()}
    if missing:
        raise ToolError(
            "the practice image needs Debian packages that are not installed: "
            f"apt-get install {' '.join(sorted(missing))}"
        )


def apt_sources() -> Path:
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


def sha512(path: Path) -> str:
    """Return a file's SHA-512 in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha512").hexdigest()


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Write a JSON file whole or not at all."""
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(data, indent=2) + "\n")
    temporary.rename(path)


@contextlib.contextmanager
def only_build(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder of images; wait for another build that holds it."""
    with (folder / "build.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("another build is under way: waiting for it", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
