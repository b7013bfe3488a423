"""Renders what a Raspberry Pi OS board gets: the bundle of apply.sh, and what starts it at first boot.

The bundle is plain text from the commented files in `assets/pi/`. Their @NAME@ are replaced in the text, so
every value is checked here against an allow-list first: none can break out of its place.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv4Network, ip_address, ip_network

from layer1.butane import InstallerPin
from layer1.errors import RenderError
from layer1.paths import ASSETS
from layer1.pi.release import Mechanism, Release
from layer1.sshkeys import public_key_problem
from layer1.templates import substitute
from layer1.values import RESERVED_USERS

FOLDER = ASSETS / "pi"
SHARED_SCRIPTS = ("k3s-install.sh", "status.sh")
"""The node's scripts that Flatcar and Raspberry Pi OS share."""
KERNEL_WORDS = (
    "cgroup_memory=1",  # the Pi's kernel has the memory cgroup off, and k3s needs it
    "cgroup_enable=memory",
    "apparmor=1",  # compiled into the Pi's kernel, and off by default
    "security=apparmor",
)
_SYSTEMD_RUN_WORDS = (
    "systemd.run=/boot/firmware/firstrun.sh",
    "systemd.run_success_action=reboot",
    "systemd.unit=kernel-command-line.target",
)
_TAR_BLOCK = 512
_TAR_RECORD = 20 * _TAR_BLOCK
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
_K3S_VERSION = re.compile(r"v[0-9]+\.[0-9]+\.[0-9]+\+k3s[0-9]+")
_SHA512 = re.compile(r"[0-9a-f]{128}")
_URL = re.compile(r"https?://[A-Za-z0-9._~:/%+\[\]-]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class BoardSettings:
    """What one board is told; `host_private` is secret.

    Attributes:
        hostname: one label.
        user: the operator's login: by key, with sudo, without a password.
        ssh_authorized_keys: the operator's public keys.
        host_private: the SSH host key that the stack made, in OpenSSH's format; secret.
        host_public: its public part.
        status_public: public key of layer1-status, who may run one read-only script.
        apply_public: public key of layer1-apply, whose forced command takes a new bundle.
        address: static IPv4 address with prefix, such as 192.168.1.20/24.
        gateway: IPv4 address within that network.
        nameservers: IPv4 addresses.
        cluster_networks: who may reach 6443/tcp, 10250/tcp and 8472/udp.
        operator_networks: who may reach 22/tcp and 6443/tcp; empty for everyone.
        installer: the pinned k3s installer.
        k3s_version: which k3s it installs.
    """

    hostname: str
    user: str
    ssh_authorized_keys: tuple[str, ...]
    host_private: str
    host_public: str
    status_public: str
    apply_public: str
    address: str
    gateway: str
    nameservers: tuple[str, ...]
    cluster_networks: tuple[str, ...]
    operator_networks: tuple[str, ...]
    installer: InstallerPin
    k3s_version: str


@dataclass(frozen=True, kw_only=True, slots=True)
class BootFiles:
    """What the FAT partition gets for one first-boot mechanism; secret, for the bundle is in it.

    Attributes:
        files: bytes by name in the partition's root.
        kernel_words: words for the one line of cmdline.txt.
    """

    files: Mapping[str, bytes]
    kernel_words: tuple[str, ...]


def bundle(settings: BoardSettings) -> dict[str, str]:
    """Render the bundle: apply.sh, its settings, and under `files/` what it installs, by absolute path.

    Returns:
        Text by path; same settings, same text. Secret, for it holds the SSH host key.

    Raises:
        RenderError: a value is not of its kind; its name is said, never the value.
    """
    _check(settings)
    templates = {
        path.relative_to(FOLDER).as_posix(): path.read_text()
        for path in [FOLDER / "settings.sh", *(FOLDER / "files").rglob("*")]
        if path.is_file()
    }
    made: dict[str, str] = substitute(templates, _values(settings))
    made["apply.sh"] = (FOLDER / "apply.sh").read_text()
    scripts = {name: ASSETS / "butane" / name for name in SHARED_SCRIPTS}
    for name, path in {**scripts, "receive.sh": FOLDER / "receive.sh"}.items():
        made[f"files/usr/local/lib/layer1/{name}"] = path.read_text()
    made["files/etc/ssh/layer1_host_ed25519_key"] = settings.host_private.rstrip("\n") + "\n"
    made["files/etc/ssh/layer1_host_ed25519_key.pub"] = settings.host_public.rstrip("\n") + "\n"
    made[f"files/etc/ssh/layer1-keys/{settings.user}"] = "\n".join(settings.ssh_authorized_keys) + "\n"
    made["files/etc/ssh/layer1-keys/layer1-status"] = settings.status_public.rstrip("\n") + "\n"
    made["files/etc/ssh/layer1-keys/layer1-apply"] = settings.apply_public.rstrip("\n") + "\n"
    return dict(sorted(made.items()))


def archive(files: Mapping[str, str]) -> bytes:
    """Pack a bundle as a tar (ustar): sorted, no times, no owners, mode 0600; same text, same bytes.

    apply.sh makes the very same tar with tar(1) from the folder it was given, to know which bundle it
    applied; Python's `tarfile` differs from that in fields that no reader looks at.
    """
    members = b"".join(_member(path, files[path].encode()) for path in sorted(files))
    return members + bytes(-(len(members) + 2 * _TAR_BLOCK) % _TAR_RECORD + 2 * _TAR_BLOCK)


def _member(path: str, data: bytes) -> bytes:
    def header(checksum: bytes) -> bytes:
        fields = (b"0000600", b"0000000", b"0000000", b"%011o" % len(data), b"%011o" % 0, checksum, b"0", b"")
        owners = (b"ustar\x0000", b"", b"", b"0000000", b"0000000", b"")
        return struct.pack("100s8s8s8s12s12s8s1s100s8s32s32s8s8s167s", path.encode(), *fields, *owners)

    if len(path.encode()) >= 100:
        raise RenderError(f"the bundle's path {path} is longer than the 99 characters that its archive holds")
    checksum = sum(header(b" " * 8))
    return header(b"%06o\x00 " % checksum) + data + bytes(-len(data) % _TAR_BLOCK)


def digest(files: Mapping[str, str]) -> str:
    """Return the SHA-256 of a bundle's archive, by which a board says what it has applied."""
    return hashlib.sha256(archive(files)).hexdigest()


def boot_files(settings: BoardSettings, release: Release) -> BootFiles:
    """Make what the release's first-boot mechanism reads.

    Args:
        settings: the board.
        release: of the image that gets the files.

    Raises:
        RenderError: a value is not of its kind.
    """
    content = bundle(settings)
    name = digest(content)
    script: str = substitute((FOLDER / "firstrun.sh").read_text(), {"DIGEST": name})
    files = {"firstrun.sh": script.encode(), "layer1.tar": archive(content)}
    if release.mechanism is Mechanism.SYSTEMD_RUN:
        return BootFiles(files=files, kernel_words=KERNEL_WORDS + _SYSTEMD_RUN_WORDS)
    files |= {key: text.encode() for key, text in _cloud_init(settings, name).items()}
    return BootFiles(files=files, kernel_words=KERNEL_WORDS)


def _cloud_init(settings: BoardSettings, bundle_digest: str) -> dict[str, str]:
    """Write the files of cloud-init's NoCloud source; JSON is YAML, and leaves no choice to a writer."""
    user_data = {
        "users": [],  # no default user
        "ssh_pwauth": False,
        "preserve_hostname": True,  # apply.sh sets it
        "runcmd": [["/bin/sh", "/boot/firmware/firstrun.sh"]],
    }
    network = {
        "version": 2,
        "ethernets": {
            "wired": {
                "match": {"name": "e*"},
                "dhcp4": False,
                "addresses": [settings.address],
                "routes": [{"to": "default", "via": settings.gateway}],
                "nameservers": {"addresses": list(settings.nameservers)},
                "optional": True,
            }
        },
    }
    # A new identity for each personalisation: cloud-init runs once for each.
    meta = {"dsmode": "local", "instance-id": f"layer1-{bundle_digest[:32]}"}
    return {
        "user-data": "#cloud-config\n" + json.dumps(user_data, indent=1) + "\n",
        "meta-data": json.dumps(meta, indent=1) + "\n",
        "network-config": json.dumps({"network": network}, indent=1) + "\n",
    }


def _values(settings: BoardSettings) -> dict[str, str]:
    pin = settings.installer
    return {
        "HOSTNAME": settings.hostname,
        "USER": settings.user,
        "ADDRESS": settings.address,
        "GATEWAY": settings.gateway,
        "NAMESERVERS": " ".join(settings.nameservers),
        "NAMESERVERS_NM": ";".join(settings.nameservers) + ";",
        "RESOLV_CONF": "\n".join(f"nameserver {server}" for server in settings.nameservers),
        "OPERATOR_FROM": _from(settings.operator_networks),
        "CLUSTER_RULES": _cluster_rules(settings.cluster_networks),
        "K3S_INSTALLER_URL": pin.url,
        "K3S_INSTALLER_SHA512": pin.sha512,
        "K3S_RELEASES_URL": pin.releases_url,
        "K3S_VERSION": settings.k3s_version,
    }


def _from(networks: Sequence[str]) -> str:
    """Write nftables' condition on the sender; nothing for everyone."""
    return f"ip saddr {{ {', '.join(networks)} }} " if networks else ""


def _cluster_rules(networks: Sequence[str]) -> str:
    if not networks:
        return "# There are none."
    sender = _from(networks)
    return f"{sender}tcp dport {{ 6443, 10250 }} accept\n\t\t{sender}udp dport 8472 accept"


def _check(settings: BoardSettings) -> None:
    problems = [name for name, good in _verdicts(settings) if not _holds(good)]
    if problems:
        raise RenderError(
            f"the board's settings have wrong values: {', '.join(problems)}; each must be of the kind that "
            "layer1.pi.bundle.BoardSettings describes, for it ends up in a shell script or a unit file"
        )


def _holds(good: Callable[[], bool]) -> bool:
    try:
        return good()
    except ValueError:
        return False


def _verdicts(settings: BoardSettings) -> list[tuple[str, Callable[[], bool]]]:
    pin = settings.installer
    keys = (settings.host_public, settings.status_public, settings.apply_public)
    return [
        ("hostname", lambda: _LABEL.fullmatch(settings.hostname) is not None),
        ("user", lambda: _USER.fullmatch(settings.user) is not None and settings.user not in RESERVED_USERS),
        ("ssh_authorized_keys", lambda: _all_keys(settings.ssh_authorized_keys)),
        ("host_public, status_public, apply_public", lambda: _all_keys([key.strip() for key in keys])),
        ("host_private", lambda: settings.host_private.startswith("-----BEGIN OPENSSH PRIVATE KEY-----\n")),
        ("address", lambda: "/" in settings.address and bool(IPv4Interface(settings.address))),
        ("gateway", lambda: ip_address(settings.gateway) in IPv4Interface(settings.address).network),
        ("nameservers", lambda: bool(settings.nameservers) and all(map(_ipv4, settings.nameservers))),
        ("cluster_networks", lambda: all(map(_network, settings.cluster_networks))),
        ("operator_networks", lambda: all(map(_network, settings.operator_networks))),
        ("installer.url", lambda: _URL.fullmatch(pin.url) is not None),
        ("installer.sha512", lambda: _SHA512.fullmatch(pin.sha512) is not None),
        ("installer.releases_url", lambda: _URL.fullmatch(pin.releases_url) is not None),
        ("k3s_version", lambda: _K3S_VERSION.fullmatch(settings.k3s_version) is not None),
    ]


def _all_keys(keys: Sequence[str]) -> bool:
    return bool(keys) and all("\n" not in key and public_key_problem(key) is None for key in keys)


def _ipv4(text: str) -> bool:
    return ip_address(text).version == 4


def _network(text: str) -> bool:
    return isinstance(ip_network(text), IPv4Network)
