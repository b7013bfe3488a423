"""From the stack's configuration to the artefacts it needs: which image, which installer, which digests."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layer1.butane import InstallerPin
from layer1.errors import ImageError
from layer1.images import artefact, store
from layer1.images.download import OnProgress, ignore_progress
from layer1.images.lockfile import LockFile
from layer1.model import Arch, ImageSource, Node, Os, StackConfig
from layer1.paths import ASSETS, cache_dir
from layer1.pi import stack as pi_stack

LOCK_FILE = ASSETS / "images.lock.yaml"
_ARCH = {Arch.X86_64: "amd64", Arch.AARCH64: "arm64"}


def practice_manifest() -> Path:
    """Return where `lab` leaves the manifest of the practice image that it built last."""
    return cache_dir() / "lab" / "current" / "image.json"


def image_cache() -> Path:
    """Return the content-addressed cache of verified images."""
    return cache_dir() / "images"


def image_request(stack: StackConfig, node: Node) -> dict[str, str]:
    """Say which image a node starts from, as the request of the task `image`; the same everywhere.

    Raises:
        ImageError: the practice image is asked for and was not built.
    """
    if node.os == Os.TALOS:
        talos = stack.images.talos
        return {
            "kind": "talos",
            "version": talos.version,
            "arch": _ARCH[node.arch],
            "schematic": talos.schematic,
            "secure_boot": "yes" if node.secure_boot else "no",
            "disk": str(talos.disk),
            "base_url": talos.base_url,
        }
    image = stack.images.flatcar
    if image.source == ImageSource.PRACTICE:
        built = _built()
        return {"kind": "practice", "version": built.version, "sha512": built.sha512 or ""}
    return {
        "kind": "flatcar",
        "version": image.version,
        "arch": _ARCH[node.arch],
        "flavour": str(image.flavour),
        "base_url": image.base_url,
    }


def _built() -> artefact.Artefact:
    if not practice_manifest().exists():
        raise ImageError("the practice image was not built on this machine; run `make lab`")
    return artefact.local_image(practice_manifest())


def wanted(request: dict[str, str]) -> artefact.Artefact:
    """Return the artefact that a request names.

    Raises:
        ImageError: the practice image was built anew since the plan.
    """
    if request["kind"] == "practice":
        built = _built()
        if built.sha512 != request["sha512"]:
            raise ImageError(
                "the practice image was built anew since this plan was made; run `make up` again"
            )
        return built
    if request["kind"] == "talos":
        return artefact.talos(
            request["version"],
            request["arch"],
            platform=request.get("platform", "nocloud"),
            schematic_file=ASSETS / "talos" / request["schematic"],
            secure_boot=request["secure_boot"] == "yes",
            disk=request["disk"],
            base_url=request["base_url"],
        )
    if request["kind"] == "raspios":
        return artefact.raspios(request["release"], request["version"], base_url=request["base_url"])
    return artefact.flatcar(
        request["version"], request["arch"], request["flavour"], base_url=request["base_url"]
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class ImagePlan:
    """An image on a host.

    Attributes:
        key: what names its resources; the same for all nodes that start from it.
        request: the request of the task `image`.
        file_name: the base volume's name; a pinned digest is part of it. An official image that only a
            signature covers has no digest before it is fetched.
        volume_format: in libvirt's words.
        outlives: whether the base volume stays when a newer version takes its place: running Talos nodes
            are upgraded in place, and their disks stand on it.
    """

    key: str
    request: dict[str, str]
    file_name: str
    volume_format: str
    outlives: bool


def image_plan(stack: StackConfig, node: Node) -> ImagePlan:
    """Plan the image of a node."""
    request = image_request(stack, node)
    thing = wanted(request)
    entry = LockFile.load(LOCK_FILE).entries.get(thing.name)
    digest = thing.sha512 or (entry.sha512 if entry else None)
    talos = request["kind"] == "talos"
    key = (request["kind"], *((request["version"],) if talos else ()), request.get("arch", "amd64"))
    return ImagePlan(
        key="-".join(key),
        request=request,
        file_name=thing.name.replace("/", "-")
        + (f"-{digest[:12]}" if digest else "")
        + f".{thing.file_format}",
        volume_format=thing.file_format,
        outlives=talos,
    )


def image_requests(stack: StackConfig) -> list[dict[str, str]]:
    """Return the request of each image that the stack's nodes and boards start from, each once."""
    requests = [image_request(stack, node) for node in stack.nodes]
    requests += [pi_stack.image_request(stack, board) for board in stack.boards]
    return [dict(items) for items in sorted({tuple(sorted(request.items())) for request in requests})]


def unpinned(stack: StackConfig) -> list[str]:
    """Say which command pins each image that nobody signs and nobody pinned; `up` would stop there."""
    entries = LockFile.load(LOCK_FILE).entries
    found = {}
    for request in image_requests(stack):
        thing = wanted(request)
        if thing.signature is None and thing.sha512 is None and thing.name not in entries:
            found[thing.name] = f"{thing.name} is not pinned, and nobody signs it: {thing.command('pin')}"
    return list(found.values())


def ensure_image(request: dict[str, str], on_progress: OnProgress = ignore_progress) -> dict[str, Any]:
    """Fetch, verify and cache an image.

    Returns:
        path of the verified file, and the image's part of the stack's output.

    Raises:
        ImageError: what failed, for which file, and the way out.
    """
    thing = wanted(request)
    found = store.ensure(thing, LockFile.load(LOCK_FILE), image_cache(), on_progress=on_progress)
    return {
        "path": str(found.path),
        "name": thing.name,
        "version": found.version,
        "sha512": found.sha512,
        "verified_by": str(found.verified_by),
    }


def needs_installer(stack: StackConfig) -> bool:
    """Say whether any node runs k3s, which the pinned installer brings."""
    return bool(stack.of(Os.FLATCAR) or stack.boards_of(Os.K3S_PIOS))


def installer_pin(stack: StackConfig) -> InstallerPin:
    """Find the digest without which the k3s installer does not run.

    Raises:
        ImageError: the installer is not pinned, and the command that pins it.
    """
    if stack.images.flatcar.source == ImageSource.PRACTICE:
        _built()
        sha512 = json.loads(practice_manifest().read_text())["k3s_installer"]["sha512"]
    else:
        thing = artefact.k3s_installer(stack.k3s.version, stack.k3s.installer)
        entry = LockFile.load(LOCK_FILE).entries.get(thing.name)
        if entry is None:
            raise ImageError(
                f"{thing.name} has no pinned digest in assets/images.lock.yaml, and nobody signs it; fetch, "
                f"look at and pin it with: {thing.command('pin')}"
            )
        sha512 = entry.sha512
    return InstallerPin(url=stack.k3s.installer, sha512=sha512, releases_url=stack.k3s.releases_url)
