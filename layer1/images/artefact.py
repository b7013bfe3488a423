"""What can be fetched: each kind is one function that returns an `Artefact`."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import quote, unquote, urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from layer1.images.failure import ArtefactError
from layer1.paths import ASSETS
from layer1.talos import schematic

MIB = 1024**2
GIB = 1024**3

FLATCAR_BASE_URL = "https://stable.release.flatcar-linux.net"
FLATCAR_KEY = ASSETS / "keys" / "flatcar-image-signing-key.asc"
FLATCAR_PRIMARY_FINGERPRINT = "F88CFEDEFF29A5B4D9523864E25D9AED0593B34A"

# File names by flavour, and the name of the OEM part inside; source: flatcar/scripts,
# build_library/vm_image_util.sh and ci-automation/vms.sh at stable-4593.2.5.
_FLATCAR_FILES = {
    "openstack": "flatcar_production_openstack_image.img",
    "kubevirt": "flatcar_production_kubevirt_image.qcow2",
    "qemu_uefi": "flatcar_production_qemu_uefi_image.img",
    "proxmoxve": "flatcar_production_proxmoxve_image.img",
}
_FLATCAR_OEM = {
    "openstack": "openstack",
    "kubevirt": "kubevirt",
    "qemu_uefi": "qemu",
    "proxmoxve": "proxmoxve",
}
_FLATCAR_COMPRESSED = {"openstack": ("gz", "bz2"), "qemu_uefi": ("bz2",)}
FLATCAR_FLAVOURS = tuple(_FLATCAR_FILES)
ARCHITECTURES = ("amd64", "arm64")

FileFormat = Literal["qcow2", "raw", "script"]
Compression = Literal["none", "gz", "bz2", "xz", "zst"]

_TALOS_DISKS: dict[str, tuple[FileFormat, Compression]] = {
    "qcow2": ("qcow2", "none"),
    "raw.xz": ("raw", "xz"),
    "raw.zst": ("raw", "zst"),
}
TALOS_DISKS = tuple(_TALOS_DISKS)
# The first is the one that is taken where nothing is said. A board is written raw.
_TALOS_PLATFORMS = {"nocloud": TALOS_DISKS, "metal": ("raw.xz", "raw.zst")}
TALOS_PLATFORMS = tuple(_TALOS_PLATFORMS)

RASPIOS_BASE_URL = "https://downloads.raspberrypi.com"
RASPIOS_RELEASES = ("bookworm", "trixie")
# On this day Trixie became the release of the folder without "oldstable", and Bookworm moved.
_RASPIOS_TRIXIE_CAME = date(2025, 10, 1)
_RASPIOS_MAX_UPLOAD_DAYS = 31


@dataclass(frozen=True, kw_only=True, slots=True)
class SignaturePolicy:
    """Whose signature is accepted, and which files beside the artefact there are; each that is named must be.

    Attributes:
        key_file: armoured public key; the only key that counts.
        primary_fingerprint: 40 hexadecimal digits, upper case; subkeys may rotate below it.
        signature_suffix: the detached signature is at the artefact's URL plus this.
        digests_suffix: the clearsigned SHA-512 is at the artefact's URL plus this; None where there is none.
        sha256_suffix: a SHA-256 that nobody signs is at the artefact's URL plus this, or None.
        version_file: signed file beside the artefact that names the version, or None; signature at plus
            `signature_suffix`.
        key_remedy: what the operator does about a key file that is missing or wrong.
    """

    key_file: Path
    primary_fingerprint: str
    signature_suffix: str = ".sig"
    digests_suffix: str | None = ".DIGESTS.asc"
    sha256_suffix: str | None = None
    version_file: str | None = "version.txt"
    key_remedy: str = (
        "restore the key file from the repository, or fetch the signer's current key and check its "
        "fingerprint"
    )


FLATCAR_POLICY = SignaturePolicy(key_file=FLATCAR_KEY, primary_fingerprint=FLATCAR_PRIMARY_FINGERPRINT)


def _raspios_policy(since: str, fingerprint: str) -> SignaturePolicy:
    return SignaturePolicy(
        key_file=ASSETS / "keys" / f"raspios-image-signing-key-{since}.asc",
        primary_fingerprint=fingerprint,
        digests_suffix=None,
        sha256_suffix=".sha256",
        version_file=None,
        key_remedy="download the key, for instance with `curl -o key.asc 'https://keyserver.ubuntu.com/pks/lookup"
        f"?op=get&search=0x{fingerprint}'`, then `python -m layer1 image key raspios --file key.asc`, which "
        "takes no key but the pinned one",
    )


# The key by the first day of the images that it signs. Source of the second fingerprint: RPi-Distro/pi-gen,
# export-noobs/00-release/files/release_notes.txt, 2025-11-24.
RASPIOS_POLICIES = (
    (date.min, _raspios_policy("2017", "54C3DD610D9D1B4AF82A37758738CD6B956F460C")),
    (date(2025, 11, 24), _raspios_policy("2025", "F4AADD86C4687D69AE04543E796C114AD12B2292")),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Artefact:
    """One file to fetch and what it must be.

    Attributes:
        name: key in the lock file and the cache, such as `flatcar/4593.2.5/amd64/openstack`.
        url: where it is: https, http or file.
        file_format: format of the file once decompressed.
        arch: `amd64`, `arm64`, or None where it does not matter.
        version: the version the operator asked for.
        arguments: the words after `image fetch` that mean this artefact, for messages.
        signature: whose signature is required, or None: then only a pin or `sha512` vouches for it.
        compression: how the file at `url` is packed.
        sha512: digest of the file at `url` where something other than the lock file states it.
        size_bytes: its size, likewise.
        virtual_size_bytes: exact virtual size that is required, or None.
        oem: name of the OEM part that the image must hold inside (Flatcar), or None.
        signed_between: first and last moment at which an image of this version may have been signed, UTC,
            where nothing but the time binds the signature to the version (Raspberry Pi OS); else None.
        max_download_bytes: a longer download is refused.
        max_virtual_size_bytes: a larger disk is refused.
    """

    name: str
    url: str
    file_format: FileFormat
    arch: str | None
    version: str
    arguments: tuple[str, ...]
    signature: SignaturePolicy | None = None
    compression: Compression = "none"
    sha512: str | None = None
    size_bytes: int | None = None
    virtual_size_bytes: int | None = None
    oem: str | None = None
    signed_between: tuple[datetime, datetime] | None = None
    max_download_bytes: int = 4 * GIB
    max_virtual_size_bytes: int = 32 * GIB

    @property
    def file_name(self) -> str:
        """Last part of the URL's path, decoded."""
        return unquote(urlsplit(self.url).path).rsplit("/", 1)[-1]

    def command(self, verb: str) -> str:
        """Return the command line that does `verb` (fetch, verify or pin) to this artefact."""
        return shlex.join(["python", "-m", "layer1", "image", verb, *self.arguments])

    def sibling(self, file_name: str) -> str:
        """Return the URL of another file in the same directory."""
        return self.url.rsplit("/", 1)[0] + "/" + file_name


def check_url(url: str, option: str) -> None:
    """Refuse a URL that could not be fetched or that carries a secret.

    Args:
        url: the URL.
        option: how the operator gave it, for the message.

    Raises:
        ArtefactError: scheme not https, http or file; user, query or fragment in it; no host or path.
    """
    remedy = f"give {option} as https://HOST/PATH, http://HOST/PATH or file:///PATH"
    # Secrets are not echoed: a URL with user information is named without it.
    shown = re.sub(r"//[^/@]*@", "//…@", url)
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise ArtefactError("arguments", shown, f"not a URL: {error}", remedy=remedy) from None
    if parts.scheme not in {"https", "http", "file"}:
        raise ArtefactError("arguments", shown, "scheme is not supported", found=parts.scheme, remedy=remedy)
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise ArtefactError("arguments", shown, "user, query and fragment are not allowed", remedy=remedy)
    if any(ord(character) <= 0x20 or ord(character) == 0x7F for character in url):
        raise ArtefactError("arguments", repr(shown), "blanks and control characters", remedy=remedy)
    if parts.scheme == "file":
        if parts.netloc not in {"", "localhost"} or not parts.path.startswith("/"):
            raise ArtefactError("arguments", shown, "a file URL names an absolute path here", remedy=remedy)
    elif not parts.hostname:
        raise ArtefactError("arguments", shown, "no host", remedy=remedy)


def flatcar(  # noqa: PLR0913 - the operator's words, one each
    version: str,
    arch: str,
    flavour: str = "openstack",
    base_url: str = FLATCAR_BASE_URL,
    *,
    compression: Compression = "none",
    policy: SignaturePolicy = FLATCAR_POLICY,
) -> Artefact:
    """Return a Flatcar stable image.

    Args:
        version: such as `4593.2.5`; never `current`, which is another image tomorrow.
        arch: `amd64` or `arm64`.
        flavour: one of `FLATCAR_FLAVOURS`; `openstack` waits for its config drive.
        base_url: everything before `/amd64-usr/`; a mirror, or `file:///…` for a copy on disk.
        compression: which of the published files; the image inside is the same.
        policy: whose signature is required.

    Raises:
        ArtefactError: an argument is none of these.
    """
    if not re.fullmatch(r"\d{1,5}\.\d{1,3}\.\d{1,3}", version):
        raise ArtefactError(
            "arguments",
            f"--version {version!r}",
            "not a Flatcar version (an alias such as 'current' is another image tomorrow)",
            expected="three numbers with dots, such as 4593.2.5",
            found=version,
            remedy="name the exact version of the release",
        )
    if arch not in ARCHITECTURES:
        raise ArtefactError(
            "arguments",
            f"--arch {arch!r}",
            "Flatcar is not built for it",
            expected=" or ".join(ARCHITECTURES),
            found=arch,
            remedy="choose one of these",
        )
    if flavour not in _FLATCAR_FILES:
        raise ArtefactError(
            "arguments",
            f"--flavour {flavour!r}",
            "not a flavour that Layer 1 knows",
            expected=", ".join(FLATCAR_FLAVOURS),
            found=flavour,
            remedy="choose one of these",
        )
    if compression != "none" and compression not in _FLATCAR_COMPRESSED.get(flavour, ()):
        raise ArtefactError(
            "arguments",
            f"--compression {compression!r}",
            f"the {flavour} image is not published so",
            expected=", ".join(("none", *_FLATCAR_COMPRESSED.get(flavour, ()))),
            found=compression,
            remedy="choose one of these",
        )
    if policy.digests_suffix is None or policy.version_file is None:
        raise ValueError("Flatcar's images are bound to their version by both files")
    base = base_url.rstrip("/")
    check_url(base, "--base-url")
    suffix = "" if compression == "none" else f".{compression}"
    arguments = ["flatcar", "--version", version, "--arch", arch, "--flavour", flavour]
    if base != FLATCAR_BASE_URL:
        arguments += ["--base-url", base]
    if compression != "none":
        arguments += ["--compression", compression]
    return Artefact(
        # A packed file has another digest, hence another name.
        name=f"flatcar/{version}/{arch}/{flavour}{suffix}",
        url=f"{base}/{arch}-usr/{version}/{_FLATCAR_FILES[flavour]}{suffix}",
        file_format="qcow2",
        arch=arch,
        version=version,
        arguments=tuple(arguments),
        signature=policy,
        compression=compression,
        oem=_FLATCAR_OEM[flavour],
    )


def talos(  # noqa: PLR0913 - the operator's words, one each
    version: str,
    arch: str,
    *,
    platform: str = "nocloud",
    schematic_file: Path = schematic.DEFAULT,
    secure_boot: bool = False,
    disk: str | None = None,
    base_url: str = schematic.FACTORY_URL,
) -> Artefact:
    """Return a Talos disk of the Image Factory.

    The public factory signs no file and gives no digest for free, so it needs a pin. A Talos release on
    GitHub has digests that are signed, but of none of these files: its disks are for the platform `metal`
    with the default schematic, not for `nocloud`, and without a board's overlay.

    Args:
        version: such as `v1.13.4`.
        arch: `amd64` or `arm64`.
        platform: `nocloud` for a guest that reads its configuration from a volume, `metal` for a board.
        schematic_file: what the image holds; its id is part of the address.
        secure_boot: the image whose boot chain is signed for Secure Boot.
        disk: how it is packed: `qcow2` (not for `metal`), `raw.xz` or `raw.zst`; None is the first of these.
        base_url: everything before `/image/`; a mirror, or `file:///…` for a copy on disk.

    Raises:
        ArtefactError: an argument is none of these, or the schematic has no id.
    """
    disks = _TALOS_PLATFORMS.get(platform, TALOS_DISKS)
    disk = disk or disks[0]
    for option, value, known in (
        ("--platform", platform, TALOS_PLATFORMS),
        ("--arch", arch, ARCHITECTURES),
        ("--disk", disk, disks),
    ):
        if value not in known:
            raise ArtefactError(
                "arguments",
                f"{option} {value!r}",
                f"not one that Layer 1 knows for Talos on {platform}",
                expected=" or ".join(known),
                found=value,
                remedy="choose one of these",
            )
    if not re.fullmatch(r"v\d{1,3}\.\d{1,3}\.\d{1,3}", version):
        raise ArtefactError(
            "arguments",
            f"--version {version!r}",
            "not a Talos release",
            expected="a tag such as v1.13.4",
            found=version,
            remedy="name the exact tag of the release",
        )
    base = base_url.rstrip("/")
    check_url(base, "--base-url")
    file_name = f"{platform}-{arch}{'-secureboot' if secure_boot else ''}.{disk}"
    identity = schematic.schematic_id(schematic.read(schematic_file))
    arguments = ["talos", "--version", version, *_talos_words(platform, arch, schematic_file)]
    arguments += ["--disk", disk]
    if secure_boot:
        arguments.append("--secure-boot")
    if base != schematic.FACTORY_URL:
        arguments += ["--base-url", base]
    file_format, compression = _TALOS_DISKS[disk]
    return Artefact(
        name=f"talos/{version}/{identity}/{file_name}",
        url=f"{base}/image/{identity}/{version}/{file_name}",
        file_format=file_format,
        compression=compression,
        arch=arch,
        version=version,
        arguments=tuple(arguments),
    )


def _talos_words(platform: str, arch: str, schematic_file: Path) -> list[str]:
    """Return the words for platform, architecture and schematic; a board's name is short for all three."""
    for board, file in schematic.BOARDS.items():
        if (platform, arch, schematic_file) == ("metal", "arm64", file):
            return ["--board", board]
    words = ["--arch", arch]
    if platform != "nocloud":
        words += ["--platform", platform]
    if schematic_file != schematic.DEFAULT:
        words += ["--schematic", str(schematic_file)]
    return words


def raspios(
    release: str,
    version: str,
    *,
    base_url: str = RASPIOS_BASE_URL,
    policy: SignaturePolicy | None = None,
) -> Artefact:
    """Return an image of Raspberry Pi OS Lite for 64-bit boards.

    Args:
        release: one of `RASPIOS_RELEASES`; the image itself is not asked here which it is.
        version: date in the file's name, such as `2026-10-06`. Where the folder on the server has another
            date, both, the file's first: `2026-06-18@2026-06-19`.
        base_url: everything before `/raspios_…`; a mirror, or `file:///…` for a copy on disk.
        policy: whose signature is required; None chooses the pinned key by the file's date.

    Raises:
        ArtefactError: an argument is none of these.
    """
    if release not in RASPIOS_RELEASES:
        raise ArtefactError(
            "arguments",
            f"--release {release!r}",
            "not a release of Raspberry Pi OS that Layer 1 knows",
            expected=" or ".join(RASPIOS_RELEASES),
            found=release,
            remedy="choose one of these",
        )
    made, published = _raspios_dates(version)
    base = base_url.rstrip("/")
    check_url(base, "--base-url")
    oldstable = release == "bookworm" and made >= _RASPIOS_TRIXIE_CAME
    family = f"raspios_{'oldstable_' if oldstable else ''}lite_arm64"
    arguments = ["raspios", "--release", release, "--version", version]
    if base != RASPIOS_BASE_URL:
        arguments += ["--base-url", base]
    return Artefact(
        name=f"raspios/{release}/{made}/lite-arm64.img.xz",
        url=f"{base}/{family}/images/{family}-{published}/{made}-raspios-{release}-arm64-lite.img.xz",
        file_format="raw",
        arch="arm64",
        version=version,
        arguments=tuple(arguments),
        signature=policy or [policy for since, policy in RASPIOS_POLICIES if since <= made][-1],
        compression="xz",
        signed_between=(
            datetime.combine(made, time(), UTC) - timedelta(days=1),
            datetime.combine(published, time(), UTC) + timedelta(days=7),
        ),
        max_download_bytes=2 * GIB,
        max_virtual_size_bytes=8 * GIB,
    )


def _raspios_dates(version: str) -> tuple[date, date]:
    """Return the dates of a version's file and of its folder."""
    made, _, published = version.partition("@")
    try:
        if not re.fullmatch(r"[0-9]{4}(-[0-9]{2}){2}(@[0-9]{4}(-[0-9]{2}){2})?", version):
            raise ValueError  # noqa: TRY301 - told as any other date that is none
        dates = date.fromisoformat(made), date.fromisoformat(published or made)
        if not 0 <= (dates[1] - dates[0]).days <= _RASPIOS_MAX_UPLOAD_DAYS:
            raise ValueError  # noqa: TRY301
    except ValueError:
        raise ArtefactError(
            "arguments",
            f"--version {version!r}",
            "not a version of Raspberry Pi OS (an alias such as 'latest' is another image tomorrow)",
            expected="the date in the file's name, such as 2026-10-06; where the folder has a later one (at "
            f"most {_RASPIOS_MAX_UPLOAD_DAYS} days) also that: 2026-06-18@2026-06-19",
            found=version,
            remedy="name the exact dates as the server has them",
        ) from None
    return dates


def k3s_installer(version: str, url: str | None = None) -> Artefact:
    """Return the k3s install script of one release; nobody signs it, so it needs a pin.

    Args:
        version: such as `v1.34.1+k3s1`.
        url: where to take it; by default the script at that tag in k3s-io/k3s.

    Raises:
        ArtefactError: the version is no release tag, or the URL cannot be used.
    """
    if not re.fullmatch(r"v\d{1,3}\.\d{1,3}\.\d{1,3}(-rc\d{1,2})?\+k3s\d{1,3}", version):
        raise ArtefactError(
            "arguments",
            f"--version {version!r}",
            "not a k3s release",
            expected="a tag such as v1.34.1+k3s1",
            found=version,
            remedy="name the exact tag; a channel such as 'stable' is another script tomorrow",
        )
    default = f"https://raw.githubusercontent.com/k3s-io/k3s/{quote(version, safe='')}/install.sh"
    arguments = ["k3s-installer", "--version", version]
    if url is not None and url != default:
        arguments += ["--url", url]
    check_url(url or default, "--url")
    return Artefact(
        name=f"k3s-installer/{version}",
        url=url or default,
        file_format="script",
        arch=None,
        version=version,
        arguments=tuple(arguments),
        max_download_bytes=MIB,
    )


class _Manifest(BaseModel):
    """What the recipe of a local image says about its result."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
    version: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.+_-]{0,62}$")]
    arch: Literal["amd64", "arm64"]
    format: Literal["qcow2", "raw"]
    path: Annotated[str, Field(min_length=1)]
    size_bytes: Annotated[int, Field(gt=0)]
    sha512: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]
    virtual_size_bytes: Annotated[int, Field(gt=0)]


def local_image(manifest_path: Path) -> Artefact:
    """Return an image built here, vouched for by the manifest its recipe wrote.

    Args:
        manifest_path: JSON with name, version, arch, format, path (relative to the manifest's folder or
            absolute), size_bytes, sha512 and virtual_size_bytes.

    Raises:
        ArtefactError: no such file, or not such a manifest; every field at fault is named.
    """
    remedy = "build the image again: its recipe writes this file"
    try:
        document = json.loads(manifest_path.read_text(encoding="utf-8"))
        manifest = _Manifest.model_validate(document)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, fault['loc'])) or 'file'}: {fault['msg']}" for fault in error.errors()
        )
        raise ArtefactError("manifest", str(manifest_path), faults, remedy=remedy) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ArtefactError(
            "manifest", str(manifest_path), f"cannot be read: {error}", remedy=remedy
        ) from None
    path = (manifest_path.resolve().parent / manifest.path).resolve()
    return Artefact(
        name=f"practice/{manifest.name}/{manifest.version}/{manifest.arch}",
        url="file://" + quote(str(path)),
        file_format=manifest.format,
        arch=manifest.arch,
        version=manifest.version,
        arguments=("practice", "--manifest", str(manifest_path)),
        sha512=manifest.sha512,
        size_bytes=manifest.size_bytes,
        virtual_size_bytes=manifest.virtual_size_bytes,
    )
