"""What a command may print, and how another machine is spoken to."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from layer1.values import LibvirtUri
from policy.planned import Mark, Planned

LOCAL = "command:local:Command"
REMOTE = frozenset({"command:remote:Command", "command:remote:CopyFile", "command:remote:CopyToRemote"})
LIBVIRT = "pulumi:providers:libvirt"
_RUN_BY = ("create", "update", "delete", "environment", "interpreter")
_CHECKS_OFF = re.compile(
    r"StrictHostKeyChecking[\s=\"']*(no|off|accept-new)|UserKnownHostsFile[\s=\"']*/dev/null"
    r"|no_verify|known_hosts_verify|ssh-keyscan",
    re.IGNORECASE,
)


def silent(command: Planned) -> Iterator[str]:
    """Say what of a command's output could be read in the state, the log or an output."""
    if missing := {"stdout", "stderr"} - command.secret_outputs:
        yield f"{' and '.join(sorted(missing))}: must be in additional_secret_outputs"
    if command.values.get("logging") != "none":
        yield "logging: must be none, or the engine prints what the command prints"


def host_keys(planned: Planned) -> Iterator[str]:
    """Say where the key of another machine is not checked."""
    if planned.kind == LIBVIRT:
        yield from _uri(planned.values.get("uri"))
    elif planned.kind in REMOTE:
        yield "is a remote command, whose check of the host's key is optional; use a task with layer1/ssh.py"
    else:
        for key in _RUN_BY:
            value = planned.values.get(key)
            if value is Mark.SECRET:
                yield f"{key}: is secret, so it cannot be judged; secrets go by stdin"
            elif any(_CHECKS_OFF.search(text) for text in _texts(value)):
                yield f"{key}: turns the check of a host's key off"


def _uri(uri: Any) -> Iterator[str]:  # noqa: ANN401 - a text, if the program is right
    if not isinstance(uri, str):
        yield "uri: must be there and no secret, so that it can be judged"
        return
    try:
        TypeAdapter(LibvirtUri).validate_python(uri)
    except ValidationError as error:
        yield f"uri: {error.errors(include_input=False)[0]['ctx']['error']}"


def _texts(value: Any) -> Iterator[str]:  # noqa: ANN401 - any JSON value
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            for text in _texts(item):
                yield f"{key}={text}"
    elif isinstance(value, list):
        yield " ".join(text for item in value for text in _texts(item))
