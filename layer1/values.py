"""The kinds of value that a stack file may hold, each with the sentence that helps when it is wrong.

Every text ends up in XML, YAML, a unit file or a shell, so each kind is an allow-list of characters:
what could break out of one of them is refused here, once. No message repeats the value, which may be
a secret that was put under the wrong key.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network
from typing import Annotated, Any
from urllib.parse import SplitResult, parse_qsl, urlsplit

from pydantic import BeforeValidator

from layer1.sshkeys import public_key_problem

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_VERSION = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6}){1,3}")
_K3S_VERSION = re.compile(r"v1\.[0-9]{1,3}\.[0-9]{1,3}\+k3s[0-9]{1,3}")
_PATH = re.compile(r"(/[A-Za-z0-9._@+-]+)+")
_KEY_FILE = re.compile(r"(~/)?/?([A-Za-z0-9._@+-]+/)*[A-Za-z0-9._@+-]+\.pub")
_BY_ID = re.compile(r"/dev/disk/by-id/[A-Za-z0-9._:@+=-]+")
_URL_REST = re.compile(r"[A-Za-z0-9._~/%+-]*")
_URL_PLACE = re.compile(r"([A-Za-z0-9.-]+(:[0-9]{1,5})?)?")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
_LIBVIRT_SCHEMES = ("qemu", "qemu+ssh", "qemu+tls")
_LIBVIRT_OPTIONS = {"keyfile", "knownhosts", "sshauth", "pkipath"}
_DEBIAN_NAMES = """
root daemon bin sys sync adm tty disk lp mail news uucp man proxy kmem dialout fax voice cdrom floppy
tape sudo audio dip www-data backup operator list irc src shadow utmp video sasl plugdev staff games users
nogroup nobody _apt
"""
RESERVED_USERS = (*_DEBIAN_NAMES.split(), "pi", "layer1-status", "layer1-apply")
"""Logins that the operator cannot have: Debian's users and groups (useradd makes no login of a group's
name, and the first boot would fail), the image's user, and Layer 1's."""
_PRIVATE = tuple(map(IPv4Network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")))


def _text(check: Callable[[str], str | None]) -> Callable[[Any], Any]:
    """Turn a function that says what is wrong with a text into a pydantic validator."""

    def validator(value: Any) -> Any:  # noqa: ANN401
        if not isinstance(value, str):
            raise ValueError("must be a text (put it in quotes if YAML reads it as something else)")  # noqa: TRY004
        if problem := check(value):
            raise ValueError(problem)
        return value

    return validator


def _hostname_problem(value: str) -> str | None:
    if _LABEL.fullmatch(value):
        return None
    return "must be a host name of one label: a-z, 0-9 and inner hyphens, at most 63 characters"


def _version_problem(value: str) -> str | None:
    if value in ("current", "latest", "stable"):
        return "must be a pinned version such as 4593.2.5; a moving name would change nodes by surprise"
    return None if _VERSION.fullmatch(value) else "must be a version such as 4593.2.5"


def _k3s_version_problem(value: str) -> str | None:
    if _K3S_VERSION.fullmatch(value):
        return None
    return "must be a full k3s release such as v1.36.4+k3s1 (a channel would change nodes by surprise)"


def _talos_version_problem(value: str) -> str | None:
    if re.fullmatch(r"v1\.13\.[0-9]{1,3}", value):
        return None
    return "must be a v1.13 release such as v1.13.4; the patches in assets/talos are written for v1.13"


def _kubernetes_version_problem(value: str) -> str | None:
    if re.fullmatch(r"1\.[0-9]{1,3}\.[0-9]{1,3}", value):
        return None
    return "must be a Kubernetes release such as 1.36.0, without a v"


def _schematic_file_problem(value: str) -> str | None:
    if re.fullmatch(r"[a-z0-9][a-z0-9-]{0,62}\.yaml", value):
        return None
    return "must be the name of a file in assets/talos, such as schematic.yaml"


def _host_or_address_problem(value: str) -> str | None:
    if _address_problem(value) is None or re.fullmatch(f"{_LABEL.pattern}(\\.{_LABEL.pattern})*", value):
        return None
    return "must be a host name or an IPv4 address, without scheme and port"


def _network_or_address_problem(value: str) -> str | None:
    try:
        IPv4Network(value)
    except ValueError:
        return "must be an IPv4 address or a network such as 10.11.0.0/24"
    return None


def _registry_problem(value: str) -> str | None:
    if re.fullmatch(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]{1,5})?(/[a-z0-9]+([._-][a-z0-9]+)*)*", value):
        return None
    return "must be a registry's host and maybe a path, without scheme"


def _raspios_version_problem(value: str) -> str | None:
    if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(@[0-9]{4}-[0-9]{2}-[0-9]{2})?", value):
        return None
    return (
        "must be, in quotes, the date in the image's file name, such as '2026-06-18', and where the server's "
        "folder has another date both: '2026-06-18@2026-06-19'"
    )


def _user_problem(value: str) -> str | None:
    if value in RESERVED_USERS:
        return "must not be a user or group of Debian's, the image's own user pi, or one of Layer 1's"
    return None if _USER.fullmatch(value) else "must be a login of a-z, 0-9, _ and -, at most 32 characters"


def _serial_text_problem(value: str) -> str | None:
    if re.fullmatch(r"[A-Za-z0-9._+:-]{1,64}", value):
        return None
    return "must be the disk's serial as `python -m layer1 pi devices` explains how to read it"


def _install_disk_problem(value: str) -> str | None:
    if re.fullmatch(r"/dev(/[A-Za-z0-9._:-]+)+", value) and ".." not in value:
        return None
    return "must be the board's own name of its disk, such as /dev/mmcblk0"


def _fingerprint_problem(value: str) -> str | None:
    try:
        whole = len(base64.b64decode(value, validate=True)) == 32
    except ValueError:
        whole = False
    return None if whole else "must be the certificate's fingerprint as the board's screen shows it"


def _path_problem(value: str) -> str | None:
    if _PATH.fullmatch(value) and ".." not in value.split("/"):
        return None
    return "must be an absolute path of letters, digits and . _ @ + - (no spaces, quotes or ..)"


def _key_file_problem(value: str) -> str | None:
    if _KEY_FILE.fullmatch(value) and ".." not in value.split("/"):
        return None
    return "must be the path of a public key file that ends in .pub, such as ~/.ssh/id_ed25519.pub"


def _by_id_problem(value: str) -> str | None:
    if _BY_ID.fullmatch(value) and ".." not in value:
        return None
    return "must be a path below /dev/disk/by-id/ (names such as /dev/sda move between boots)"


def _split_url(value: str) -> SplitResult | None:
    # urlsplit drops line breaks and tabs without a word; what it then gives is not what stands there.
    if not value.isascii() or not value.isprintable() or " " in value:
        return None
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError:
        return None
    return parts


def _url_problem(value: str) -> str | None:
    parts = _split_url(value)
    if parts is None or not value.startswith(("https://", "http://", "file://")):
        return "must be an https://, http:// or file:// address"
    if parts.password or parts.username:
        return "must not hold a user or password; use a mirror that needs none"
    if any(c in value for c in "?#") or not _URL_REST.fullmatch(parts.path):
        return "may hold only letters, digits and / . _ ~ % + - after the host (no ? or #)"
    if parts.scheme == "file":
        return None if parts.netloc == "" and _PATH.fullmatch(parts.path) else "must be file:///absolute/path"
    named = parts.hostname and _HOST.fullmatch(parts.hostname) and _URL_PLACE.fullmatch(parts.netloc)
    return None if named else "must name a host"


def _web_url_problem(value: str) -> str | None:
    if problem := _url_problem(value):
        return problem
    return (
        "must be https:// or http://, for the guest itself fetches it" if value.startswith("file:") else None
    )


def _libvirt_uri_problem(value: str) -> str | None:
    parts = _split_url(value)
    if parts is None:
        return "must be a libvirt URI such as qemu:///system"
    if parts.password is not None or any(c in (parts.username or "") for c in ":%"):
        return "must not hold a password (it would land in state and logs); use an SSH key"
    options = parse_qsl(parts.query, keep_blank_values=True)
    for name, option in options:
        off = name in ("no_verify", "no_tty") or (name == "known_hosts_verify" and option != "normal")
        if off or name == "known_hosts_verify":
            return (
                f"must not set {name if off else 'known_hosts_verify'}: host-key checks stay on; "
                "add the host's key to a file and name it by knownhosts="
            )
    return _libvirt_shape_problem(parts, options)


def _libvirt_shape_problem(  # noqa: PLR0911 - one return a rule
    parts: SplitResult, options: list[tuple[str, str]]
) -> str | None:
    if (
        parts.scheme in ("qemu+tcp", "qemu+unix", "test", "xen", "lxc")
        or parts.scheme not in _LIBVIRT_SCHEMES
    ):
        return "must start with qemu:///, qemu+ssh:// or qemu+tls:// (others are cleartext or not QEMU)"
    if parts.path != "/system":
        return "must end in /system: session domains get no sVirt label and no bridge"
    if parts.scheme == "qemu" and parts.netloc:
        return "must be qemu:///system, or qemu+ssh:// for another machine"
    if parts.scheme != "qemu" and not (parts.hostname and _HOST.fullmatch(parts.hostname)):
        return "must name the host, such as qemu+ssh://operator@host/system"
    if parts.username is not None and not _USER.fullmatch(parts.username):
        return "must hold a plain user name before the @"
    for name, option in options:
        if name not in _LIBVIRT_OPTIONS:
            return f"knows only the options {', '.join(sorted(_LIBVIRT_OPTIONS))}"
        if name == "sshauth":
            if not set(option.split(",")) <= {"agent", "privkey"}:
                return "must use sshauth=agent,privkey (no passwords)"
        elif not _PATH.fullmatch(option):
            return f"must give an absolute path for {name}"
    return "must not hold a #fragment" if parts.fragment else None


def _network_problem(value: str) -> str | None:
    try:
        network = IPv4Network(value, strict=False)
    except ValueError:
        return "must be an IPv4 network such as 10.11.0.0/24"
    if str(network) != value:
        return (
            f"has host bits set or no prefix; the network is {network}"
            if "/" in value
            else "needs a prefix: /24"
        )
    if not 16 <= network.prefixlen <= 29:
        return "must be between /16 and /29"
    if not any(network.subnet_of(private) for private in _PRIVATE):
        return "must be a private network (10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16)"
    return None


def _address_problem(value: str) -> str | None:
    try:
        IPv4Address(value)
    except ValueError:
        return "must be an IPv4 address such as 10.11.0.20"
    return None


def whole_number(unit: str, low: int, high: int) -> BeforeValidator:
    """Return the check of a whole number in `unit` between `low` and `high`."""

    def validator(value: Any) -> Any:  # noqa: ANN401
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"must be a whole number of {unit}, without quotes or unit")  # noqa: TRY004
        if not low <= value <= high:
            raise ValueError(f"must be between {low} and {high} {unit}")
        return value

    return BeforeValidator(validator)


def _flag(value: Any) -> Any:  # noqa: ANN401
    if not isinstance(value, bool):
        raise ValueError("must be true or false")  # noqa: TRY004
    return value


def one_of(enum: type[StrEnum], **refused: str) -> BeforeValidator:
    """Return the check of a StrEnum; `refused` names values that get a sentence of their own."""

    def validator(value: Any) -> Any:  # noqa: ANN401
        if isinstance(value, str) and value in refused:
            raise ValueError(refused[value])
        try:
            return enum(value)
        except ValueError:
            raise ValueError(f"must be one of: {', '.join(enum)}") from None

    return BeforeValidator(validator)


Hostname = Annotated[str, BeforeValidator(_text(_hostname_problem))]
Version = Annotated[str, BeforeValidator(_text(_version_problem))]
K3sVersion = Annotated[str, BeforeValidator(_text(_k3s_version_problem))]
AbsolutePath = Annotated[str, BeforeValidator(_text(_path_problem))]
KeyFile = Annotated[str, BeforeValidator(_text(_key_file_problem))]
DiskById = Annotated[str, BeforeValidator(_text(_by_id_problem))]
Url = Annotated[str, BeforeValidator(_text(_url_problem))]
WebUrl = Annotated[str, BeforeValidator(_text(_web_url_problem))]
LibvirtUri = Annotated[str, BeforeValidator(_text(_libvirt_uri_problem))]
NetworkCidr = Annotated[str, BeforeValidator(_text(_network_problem))]
Address = Annotated[str, BeforeValidator(_text(_address_problem))]
PublicKey = Annotated[str, BeforeValidator(_text(public_key_problem))]
Flag = Annotated[bool, BeforeValidator(_flag)]
MemoryMib = Annotated[int, whole_number("MiB", 512, 1024 * 1024)]
VirtualCpus = Annotated[int, whole_number("vCPUs", 1, 256)]
Seconds = Annotated[int, whole_number("seconds", 30, 7200)]
SerialNumber = Annotated[int, whole_number("renewals", 1, 1_000_000)]
DiskGib = Annotated[int, whole_number("GiB", 1, 16384)]
TalosVersion = Annotated[str, BeforeValidator(_text(_talos_version_problem))]
KubernetesVersion = Annotated[str, BeforeValidator(_text(_kubernetes_version_problem))]
SchematicFile = Annotated[str, BeforeValidator(_text(_schematic_file_problem))]
HostOrAddress = Annotated[str, BeforeValidator(_text(_host_or_address_problem))]
NetworkOrAddress = Annotated[str, BeforeValidator(_text(_network_or_address_problem))]
RaspiosVersion = Annotated[str, BeforeValidator(_text(_raspios_version_problem))]
UserName = Annotated[str, BeforeValidator(_text(_user_problem))]
DiskSerial = Annotated[str, BeforeValidator(_text(_serial_text_problem))]
InstallDisk = Annotated[str, BeforeValidator(_text(_install_disk_problem))]
CertificateFingerprint = Annotated[str, BeforeValidator(_text(_fingerprint_problem))]
Registry = Annotated[str, BeforeValidator(_text(_registry_problem))]
