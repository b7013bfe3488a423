"""Builds a Go program from its recipe into the cache, once."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

from toolchain.golang import Go
from toolchain.locks import exclusive
from toolchain.programs import Program
from toolchain.report import SetupError, say

FLAGS = ("-trimpath",)
LDFLAGS = ("-s", "-w")
# Never resolves a version: go.mod and go.sum are complete and say what is built.
GOFLAGS = "-mod=readonly -buildvcs=false"
_NOISE = re.compile(r"^go: (downloading|finding|extracting)\b|^#|^\s*$")
_WAYS_OUT = (
    (
        r"checksum mismatch|SECURITY ERROR",
        "The module's content is not the pinned one. Do not go on: find out why.",
    ),
    (r"no space left", "Free disk space (about 6 GB for all programs), then run setup again."),
    (
        r"libblkid|pkg-config|blkid\.h|C compiler|\"?gcc\"?: executable|cgo:",
        "C parts are missing: `sh toolchain/bootstrap.sh` installs them.",
    ),
    (
        r"dial tcp|no such host|i/o timeout|connection re|TLS handshake|proxyconnect|\b(403|404|410|50\d)\b",
        "Make the Go module proxy (GOPROXY) reachable, then run setup again: what was downloaded is kept.",
    ),
    (
        r"signal: killed|cannot allocate memory",
        "Memory ran out (about 3 GB are needed): free some, then run setup again.",
    ),
)


def recipe_key(program: Program, go_version: str) -> str:
    """Return the hash that names the result: it changes with anything that shapes the program."""
    digest = hashlib.sha256()
    parts = [program.name, program.version, program.package, go_version, GOFLAGS, str(program.cgo)]
    parts += [*FLAGS, *LDFLAGS, *program.ldflags]
    folders = [program.recipe]
    if program.extra:
        parts += [program.extra.module, program.extra.path]
        folders.append(program.recipes / program.extra.folder)
    digest.update("\0".join(parts).encode())
    for folder in folders:
        for path in sorted(item for item in folder.rglob("*") if item.is_file()):
            if path.name.endswith("_test.go"):
                continue
            content = path.read_bytes()
            digest.update(f"\0{path.relative_to(folder)}\0{len(content)}\0".encode())
            digest.update(content)
    return digest.hexdigest()[:12]


def result_folder(program: Program, go: Go, cache: Path) -> Path:
    """Return where the built program is or will be."""
    key = recipe_key(program, go.version)
    return cache / "toolchain" / f"{program.name}-{program.version}-{key}"


def build(program: Program, go: Go, cache: Path, logs: Path) -> Path:
    """Return the folder with the program, built now unless it is in the cache."""
    label = f"{program.name} {program.version}"
    target = result_folder(program, go, cache)
    if target.is_dir():
        say(f"{label}: cached")
        return target
    with exclusive(cache / "toolchain" / f"{program.name}.lock"):
        if target.is_dir():
            say(f"{label}: cached")
            return target
        say(f"{label}: building ...")
        start = time.monotonic()
        fresh = target.with_name(f"{target.name}.new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        try:
            _compile(program, go, fresh, logs / f"build-{program.name}.log")
        except BaseException:
            shutil.rmtree(fresh, ignore_errors=True)
            raise
        fresh.rename(target)
        say(f"{label}: built ({time.monotonic() - start:.0f} s)")
    return target


def _compile(program: Program, go: Go, folder: Path, log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    ldflags = " ".join([*LDFLAGS, *program.ldflags])
    _go(
        program,
        go,
        log,
        program.recipe,
        ["build", *FLAGS, "-ldflags", ldflags, "-o", str(folder / program.name), program.package],
    )
    if program.extra:
        recipe = program.recipes / program.extra.folder
        _go(program, go, log, recipe, ["mod", "download", program.extra.module])
        source = _go(program, go, log, recipe, ["list", "-m", "-f", "{{.Dir}}", program.extra.module])
        copy = folder / Path(program.extra.path).name
        shutil.copyfile(Path(source.strip()) / program.extra.path, copy)
        copy.chmod(0o755)


def _go(program: Program, go: Go, log: Path, recipe: Path, arguments: list[str]) -> str:
    """Run go in the recipe's folder with all it says in the log; return its stdout."""
    environment = {
        **os.environ,
        "GOFLAGS": GOFLAGS,
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
        "CGO_ENABLED": "1" if program.cgo else "0",
    }
    with log.open("a") as handle:
        done = subprocess.run(
            [go.binary, *arguments],
            cwd=recipe,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=handle,
            text=True,
            check=False,
        )
        handle.write(done.stdout)
    if done.returncode != 0:
        raise SetupError(_explain(program, log))
    return done.stdout


def _explain(program: Program, log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if not _NOISE.search(line)]
    cause = lines[-8:] or ["go said nothing"]
    text = "\n".join(cause)
    way_out = next(
        (way for pattern, way in _WAYS_OUT if re.search(pattern, text)), "Read the log, then run setup again."
    )
    return (
        f"{program.name} {program.version}: the build failed:\n"
        + "\n".join(f"  {line[:300]}" for line in cause)
        + (f"\n{way_out}\nThe whole log: {log}")
    )
