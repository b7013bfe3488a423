"""`python -m layer1 image fetch|verify|pin|key|list`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress import Progress as Bars

from layer1 import paths
from layer1.errors import ImageError
from layer1.images import artefact as artefacts
from layer1.images import signature, store
from layer1.images.artefact import (
    ARCHITECTURES,
    FLATCAR_BASE_URL,
    FLATCAR_FLAVOURS,
    FLATCAR_POLICY,
    MIB,
    RASPIOS_BASE_URL,
    RASPIOS_RELEASES,
    TALOS_DISKS,
    TALOS_PLATFORMS,
    Artefact,
    SignaturePolicy,
    check_url,
    flatcar,
    k3s_installer,
    local_image,
    raspios,
    talos,
)
from layer1.images.download import OnProgress, Progress
from layer1.images.failure import ArtefactError
from layer1.images.lockfile import LockFile
from layer1.talos import schematic

DEFAULT_LOCK = paths.ASSETS / "images.lock.yaml"
_PLAIN_EVERY_S = 10.0

Verb = Callable[[argparse.Namespace], int]


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the `image` command; each leaf sets `run`, a function from the arguments to an exit code."""
    image = subparsers.add_parser("image", help="fetch, verify and pin images and other artefacts")
    verbs = image.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb, run, text in (
        ("fetch", _fetch, "fetch into the cache and verify; nothing is done where it is there already"),
        ("verify", _verify, "check a fetched file again, from its bytes; no network"),
        ("pin", _pin, "fetch, check, show what was found, and write it to the lock file"),
    ):
        parser = verbs.add_parser(verb, help=text, description=text)
        kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
        for name, add_arguments, make in _KINDS:
            leaf = kinds.add_parser(name)
            add_arguments(leaf)
            _add_places(leaf)
            leaf.add_argument("--json", action="store_true", help="print the result as one line of JSON")
            if verb == "pin":
                leaf.add_argument("--sha512", help="the digest it must have, known from elsewhere")
                leaf.add_argument(
                    "--replace", action="store_true", help="replace an entry with another digest"
                )
            leaf.set_defaults(run=_guard(run), make=make)
    _add_key_parser(verbs)
    listing = verbs.add_parser("list", help="show what is pinned and what is in the cache")
    _add_places(listing)
    listing.set_defaults(run=_guard(_list))


def _add_key_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "put a signer's downloaded public key into assets/keys, if it is the pinned one"
    kinds = verbs.add_parser("key", help=text, description=text).add_subparsers(
        dest="kind", required=True, metavar="KIND"
    )
    leaf = kinds.add_parser("raspios", help="one of the two keys of Raspberry Pi OS")
    leaf.add_argument("--file", required=True, type=Path, help="the downloaded key")
    leaf.set_defaults(run=_guard(_key))


def _add_places(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--lock", type=Path, default=DEFAULT_LOCK, metavar="PATH", help="the lock file")
    parser.add_argument(
        "--cache",
        type=Path,
        default=paths.cache_dir() / "images",
        metavar="DIR",
        help="where fetched files are kept",
    )


# --- kinds: a name, its arguments, and the artefact they mean


def _flatcar_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--version", required=True, help="such as 4593.2.5")
    parser.add_argument("--arch", choices=ARCHITECTURES, default="amd64")
    parser.add_argument("--flavour", choices=FLATCAR_FLAVOURS, default="openstack")
    parser.add_argument(
        "--base-url", default=FLATCAR_BASE_URL, help="a mirror, or file:///… for a copy on disk"
    )
    parser.add_argument("--compression", choices=("none", "gz", "bz2"), default="none")


def _make_flatcar(arguments: argparse.Namespace) -> Artefact:
    return flatcar(
        arguments.version,
        arguments.arch,
        arguments.flavour,
        arguments.base_url,
        compression=arguments.compression,
        policy=FLATCAR_POLICY,
    )


def _talos_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--version", required=True, help="such as v1.13.4")
    parser.add_argument(
        "--board", choices=tuple(schematic.BOARDS), help="short for platform, architecture and schematic"
    )
    parser.add_argument("--platform", choices=TALOS_PLATFORMS, help="by default nocloud")
    parser.add_argument("--arch", choices=ARCHITECTURES, help="by default amd64")
    parser.add_argument("--schematic", type=Path, metavar="FILE", help="what the image holds")
    parser.add_argument("--disk", choices=TALOS_DISKS, help="how the factory packs the disk")
    parser.add_argument("--secure-boot", action="store_true", help="the image signed for Secure Boot")
    parser.add_argument(
        "--base-url", default=schematic.FACTORY_URL, help="a mirror, or file:///… for a copy on disk"
    )
    parser.add_argument(
        "--factory",
        metavar="URL",
        help="`pin` asks this factory for the schematic's id; by default the public one, and none when "
        "--base-url names a mirror",
    )


def _make_talos(arguments: argparse.Namespace) -> Artefact:
    platform, arch, schematic_file = _talos_choice(arguments)
    artefact = talos(
        arguments.version,
        arch,
        platform=platform,
        schematic_file=schematic_file,
        secure_boot=arguments.secure_boot,
        disk=arguments.disk,
        base_url=arguments.base_url,
    )
    public = arguments.base_url.rstrip("/") == schematic.FACTORY_URL
    factory = arguments.factory or (schematic.FACTORY_URL if public else None)
    if arguments.verb == "pin" and factory:
        check_url(factory, "--factory")
        identity = schematic.confirm(schematic.read(schematic_file), factory)
        _say(f"{factory} names the schematic as Layer 1 does: {identity}")
    return artefact


def _talos_choice(arguments: argparse.Namespace) -> tuple[str, str, Path]:
    """Return platform, architecture and schematic; a board's name says all three."""
    if arguments.board is None:
        return (
            arguments.platform or "nocloud",
            arguments.arch or "amd64",
            arguments.schematic or schematic.DEFAULT,
        )
    if arguments.platform or arguments.arch or arguments.schematic:
        raise ArtefactError(
            "arguments",
            f"--board {arguments.board}",
            "says platform, architecture and schematic already",
            remedy="leave out --platform, --arch and --schematic, or --board",
        )
    return "metal", "arm64", schematic.BOARDS[arguments.board]


def _raspios_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--release", choices=RASPIOS_RELEASES, default="bookworm")
    parser.add_argument(
        "--version",
        required=True,
        help="the date in the file's name, such as 2026-10-06; where the server's folder has another, both: "
        "2026-06-18@2026-06-19",
    )
    parser.add_argument(
        "--base-url", default=RASPIOS_BASE_URL, help="a mirror, or file:///… for a copy on disk"
    )


def _make_raspios(arguments: argparse.Namespace) -> Artefact:
    return raspios(arguments.release, arguments.version, base_url=arguments.base_url)


def _k3s_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--version", required=True, help="such as v1.34.1+k3s1")
    parser.add_argument("--url", help="where to take it instead of the tag in k3s-io/k3s")


def _make_k3s(arguments: argparse.Namespace) -> Artefact:
    return k3s_installer(arguments.version, arguments.url)


def _practice_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--manifest", required=True, type=Path, help="JSON that the image's recipe wrote")


def _make_practice(arguments: argparse.Namespace) -> Artefact:
    return local_image(arguments.manifest)


_KINDS: tuple[
    tuple[str, Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], Artefact]], ...
] = (
    ("flatcar", _flatcar_arguments, _make_flatcar),
    ("talos", _talos_arguments, _make_talos),
    ("raspios", _raspios_arguments, _make_raspios),
    ("k3s-installer", _k3s_arguments, _make_k3s),
    ("practice", _practice_arguments, _make_practice),
)


# --- verbs


def _fetch(arguments: argparse.Namespace) -> int:
    artefact: Artefact = arguments.make(arguments)
    with shown_progress() as on_progress:
        image = store.ensure(
            artefact, LockFile.load(arguments.lock), arguments.cache, on_progress=on_progress
        )
    _show(arguments, image)
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    artefact: Artefact = arguments.make(arguments)
    with shown_progress() as on_progress:
        image = store.verify(
            artefact, LockFile.load(arguments.lock), arguments.cache, on_progress=on_progress
        )
    _show(arguments, image)
    return 0


def _pin(arguments: argparse.Namespace) -> int:
    artefact: Artefact = arguments.make(arguments)
    with shown_progress() as on_progress:
        pinned = store.pin(
            artefact,
            LockFile.load(arguments.lock),
            arguments.cache,
            sha512=arguments.sha512,
            overwrite=arguments.replace,
            on_progress=on_progress,
        )
    entry = pinned.entry
    if entry.signed_by:
        vouched = f"signed by {entry.signed_by} on {entry.signed_at:%Y-%m-%d %H:%M} UTC"
    elif artefact.sha512:
        vouched = "its manifest"
    elif arguments.sha512:
        vouched = "the digest you gave"
    else:
        vouched = "nobody's signature: read it before you commit the entry"
    bound = f"\n  version:  bound by {pinned.bound_by}" if pinned.bound_by else ""
    _say(
        f"{artefact.name}\n  from:     {artefact.url}\n  sha512:   {entry.sha512}\n"
        f"  size:     {entry.size_bytes} bytes\n  vouched:  {vouched}{bound}\n"
        f"  {'written to' if pinned.changed else 'already in'} {arguments.lock}"
    )
    _warn(pinned.image)
    if arguments.json:
        sys.stdout.write(pinned.image.to_json() + "\n")
    return 0


def _list(arguments: argparse.Namespace) -> int:
    lock = LockFile.load(arguments.lock)
    stored = {record.name: record for record in store.records(arguments.cache)}
    lines = []
    for name in sorted({*lock.entries, *stored}):
        entry, record = lock.entries.get(name), stored.get(name)
        pinned = "pinned" if entry else "not pinned"
        if record is None:
            state = "not fetched"
        elif entry is not None and entry.sha512 != record.source_sha512:
            state = "fetched, but not the pinned file"
        else:
            state = f"fetched, {record.size_bytes / MIB:.1f} MiB"
        lines.append(f"{name}: {pinned}; {state}")
    sys.stdout.write("\n".join(lines or ["nothing is pinned or fetched"]) + "\n")
    present = [policy for policy in _raspios_policies() if policy.key_file.exists()]
    for policy in (FLATCAR_POLICY, *present):
        sentence = signature.expiry_warning(
            signature.read_keys(policy), policy.key_file, store.Options().now()
        )
        if sentence:
            _say(f"warning: {sentence}")
    return 0


def _key(arguments: argparse.Namespace) -> int:
    policy = signature.install_key(arguments.file, _raspios_policies())
    _say(f"{policy.primary_fingerprint}\n  written to {policy.key_file}; review and commit it")
    return 0


def _raspios_policies() -> list[SignaturePolicy]:
    return [policy for _, policy in artefacts.RASPIOS_POLICIES]


def _guard(run: Verb) -> Verb:
    """Turn an error into its message and exit code 1."""

    def guarded(arguments: argparse.Namespace) -> int:
        try:
            return run(arguments)
        except ImageError as error:
            _say(f"error: {error}")
            return 1
        except KeyboardInterrupt:
            _say("stopped; the next fetch goes on where this one ended")
            return 130

    return guarded


def _show(arguments: argparse.Namespace, image: store.VerifiedImage) -> None:
    _warn(image)
    if arguments.json:
        sys.stdout.write(image.to_json() + "\n")
    else:
        _say(f"{image.name}: verified by {image.verified_by}, {image.size_bytes / MIB:.1f} MiB")
        sys.stdout.write(f"{image.path}\n")


def _warn(image: store.VerifiedImage) -> None:
    for sentence in image.warnings:
        _say(f"warning: {sentence}")


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


@contextmanager
def shown_progress() -> Iterator[OnProgress]:
    """A bar on a terminal, plain lines elsewhere; both on standard error."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Plain()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=console) as bars:
        tasks: dict[str, int] = {}

        def show(step: Progress) -> None:
            if step.kind == "note":
                bars.console.print(f"{step.file}: {step.message}", markup=False, highlight=False)
                return
            if step.file not in tasks:
                tasks[step.file] = int(bars.add_task(step.file, total=step.total_bytes))
            bars.update(
                next(task.id for task in bars.tasks if task.id == tasks[step.file]),
                completed=step.done_bytes,
                total=step.total_bytes,
            )

        yield show


class _Plain:
    """A line at the start, every 10 s, at the end, and for every note."""

    def __init__(self) -> None:
        self._next = 0.0

    def __call__(self, step: Progress) -> None:
        if step.kind == "note":
            _say(f"{step.file}: {step.message}")
            return
        if step.kind == "advance" and time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _PLAIN_EVERY_S
        total = f" of {step.total_bytes / MIB:.1f}" if step.total_bytes is not None else ""
        _say(f"{step.file}: {step.done_bytes / MIB:.1f}{total} MiB{' done' if step.kind == 'done' else ''}")
