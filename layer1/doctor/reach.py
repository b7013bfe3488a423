"""Has a host examined: this machine by a call, another by the same file over SSH."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from pathlib import Path
from urllib.parse import urlsplit

from layer1 import host_ssh
from layer1.doctor import host_probe
from layer1.doctor.check import Unlearned
from layer1.doctor.host_probe import Facts, Wish
from layer1.doctor.view import Libvirt, read_capabilities
from layer1.errors import ToolError
from layer1.processes import last_lines, run
from layer1.virsh import virsh

_VIRSH_LIMIT_S = 25  # a libvirtd that was just started asks every QEMU what it can
_SSH_LIMIT_S = 45


def ask_libvirt(uri: str) -> Libvirt | Unlearned:
    """Ask libvirt for its version and its capabilities."""
    plain = urlsplit(uri)._replace(query="").geturl()  # the options are the provider's, not virsh's
    remedy = (
        f"look at the way there: virsh -c {plain} version; the host's key must be known, your SSH key let in"
        if host_ssh.is_remote(uri)
        else "make setup starts it; or: sudo systemctl start libvirtd, and be in the group libvirt"
    )
    try:
        answers = [
            virsh(uri, *words, timeout_s=_VIRSH_LIMIT_S)
            for words in (("version", "--daemon"), ("capabilities",))
        ]
    except ToolError as error:
        return Unlearned(str(error), remedy)
    for answer in answers:
        if answer.returncode != 0:
            return Unlearned(f"{uri}: {last_lines(answer.stderr, 2)}", remedy)
    try:
        return read_capabilities(answers[0].stdout, answers[1].stdout)
    except ValueError as error:
        return Unlearned(f"{uri}: {error}", remedy)


def ask_host(uri: str, wish: Wish) -> Facts | Unlearned:
    """Have the host examined, wherever it is."""
    if not host_ssh.is_remote(uri):
        return host_probe.examine(wish)
    target = urlsplit(uri)
    if target.scheme != "qemu+ssh":
        return Unlearned(
            f"{uri} leads to libvirt alone, not to the host's files",
            "use qemu+ssh://, or run `python -m layer1 doctor` on the host itself",
        )
    return _over_ssh(uri, wish)


def _over_ssh(uri: str, wish: Wish) -> Facts | Unlearned:
    target = urlsplit(uri)
    where = ["-p", str(target.port)] if target.port else []
    where += ["-l", target.username] if target.username else []
    where += [target.hostname or ""]
    command = ["ssh", *host_ssh.options(uri), *where]
    command += [f"python3 - {shlex.quote(json.dumps(asdict(wish)))}"]
    place = shlex.join(["ssh", *where])
    try:
        done = run(command, stdin=Path(host_probe.__file__).read_bytes(), timeout_s=_SSH_LIMIT_S)
    except ToolError as error:
        return Unlearned(f"{place}: {error}", f"{place} true has to work without a question")
    if done.returncode != 0:
        no_python = done.returncode == 127
        return Unlearned(
            f"{place}: {last_lines(done.stderr, 2) or f'ended with {done.returncode}'}",
            "sudo apt-get install python3, on the host"
            if no_python
            else f"{place} true has to work without a question: accept the host's key by hand, its "
            "fingerprint compared, and let your SSH key in",
        )
    try:
        return host_probe.from_json(done.stdout)
    except (ValueError, KeyError, TypeError):
        return Unlearned(f"{place}: its answer is not understood", "the host needs Python 3.10 or newer")
