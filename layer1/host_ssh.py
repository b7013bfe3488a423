"""Reaches a libvirt host on another machine by OpenSSH, on the terms that its URI names.

pulumi-libvirt has an SSH client of its own and reads `keyfile` and `knownhosts` from the URI. OpenSSH, which
virsh and the way to a node take, has to be told of them.
"""

from __future__ import annotations

import shlex
from urllib.parse import SplitResult, parse_qs, urlencode, urlsplit, urlunsplit


def options(uri: str) -> list[str]:
    """Return ssh's arguments for a host: its key is checked, nobody is asked, the URI's files count.

    What the URI leaves open is the user's own SSH configuration, as it is for virsh. The paths of a checked
    URI hold nothing that ssh or a shell would take for more than a letter.
    """
    query = _query(urlsplit(uri))
    settings = {"BatchMode": "yes", "ConnectTimeout": "10", "StrictHostKeyChecking": "yes"}
    if known := query.get("knownhosts"):
        settings |= {"UserKnownHostsFile": known, "GlobalKnownHostsFile": "/dev/null"}
    if key := query.get("keyfile"):
        settings |= {"IdentityFile": key, "IdentitiesOnly": "yes"}
    return [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]


def is_remote(uri: str) -> bool:
    """Say whether the host is another machine."""
    return urlsplit(uri).hostname is not None


def proxy_command(uri: str) -> str:
    """Return what ssh's ProxyCommand takes to go through a host to a node."""
    host = urlsplit(uri)
    words = ["ssh", *options(uri)]
    if host.port and host.scheme == "qemu+ssh":
        words += ["-p", str(host.port)]
    if host.username:
        words += ["-l", host.username]
    return f"{shlex.join(words)} -W %h:%p {host.hostname}"


def virsh_speaks_ssh(uri: str) -> bool:
    """Say whether virsh starts ssh to reach the host."""
    return urlsplit(uri).scheme == "qemu+ssh"


def virsh_uri(uri: str, program: str) -> str:
    """Return the URI by which virsh takes `program` for ssh; libvirt does not know the provider's options."""
    return urlunsplit(urlsplit(uri)._replace(query=urlencode({"command": program})))


def wrapper(uri: str) -> str:
    """Return a script that is ssh with the host's options."""
    return f'#!/bin/sh\nexec ssh {shlex.join(options(uri))} "$@"\n'


def _query(host: SplitResult) -> dict[str, str]:
    return {name: values[-1] for name, values in parse_qs(host.query).items()}
