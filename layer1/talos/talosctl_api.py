"""Runs talosctl against a node: the talosconfig in a private file, a limit on every call, answers judged."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layer1.errors import NodeError, ToolError
from layer1.processes import run

CALL_S = 30.0
POLL_S = 3.0
# A node without its config waits in maintenance mode for ever; one that is still looking is there a moment.
MAINTENANCE_S = 60.0

_UNKNOWN_AUTHORITY = "certificate signed by unknown authority"
_MAINTENANCE = (
    "it is in maintenance mode: it runs without a machine config, and whoever reaches it first owns it. "
    "A virtual machine's seed was not found, or has another label than cidata; a board waits for its first "
    "config"
)
_PERMANENT = (
    (
        "tls: unknown certificate authority",
        "it refuses the talosconfig's certificate: the node belongs to another cluster",
    ),
    ("only available on control plane nodes", "it is a worker; only a control plane does this"),
    (
        "code = PermissionDenied",
        "the talosconfig's role does not allow this; the one of the stack's own secrets does",
    ),
    ("failed to open config file", "the talosconfig cannot be read"),
    ("failed to create client connection", "the talosconfig cannot be used"),
    ("error constructing client", "the talosconfig cannot be used"),
)
_HINTS = (
    (
        "time is not in sync",
        "it waits for a time server (NTP): on an isolated network give it one that it can reach",
    ),
    ("bootstrap is not available", "its container runtime is not up yet: look at the node's console"),
    (
        "expired or is not yet valid",
        "its clock or this machine's is wrong: it waits for a time server (NTP)",
    ),
    (
        "expired certificate",
        "its clock or this machine's is wrong; or the talosconfig is a year old: raise "
        "layer1:talos.talosconfig_serial and run `make up`",
    ),
    ("connection refused", "the machine is up, but not Talos' API: look at the node's console"),
    ("no route to host", "nothing has the address: is the domain running, on this network?"),
    ("handshake failed: context deadline", "what has the address takes connections and says nothing"),
    ("no answer within", "it takes connections and never answers: look at the node's console"),
    ("i/o timeout", "packets are dropped: a firewall between here and port 50000?"),
)


@dataclass(frozen=True, slots=True)
class Answer:
    """How a call ended.

    Attributes:
        good: it worked.
        stdout: what it printed.
        said: its error in one line, without secrets.
        full: all of its error output, likewise.
    """

    good: bool
    stdout: str
    said: str
    full: str

    @property
    def already(self) -> bool:
        """Say whether what was asked for had been done before."""
        return "code = AlreadyExists" in self.said

    @property
    def stranger(self) -> bool:
        """Say whether the node's certificate is not of this cluster."""
        return _UNKNOWN_AUTHORITY in self.said


class Deadline:
    """A point in time that waits must not pass."""

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._end = time.monotonic() + timeout_s

    @property
    def left(self) -> float:
        """Return the seconds left."""
        return max(0.0, self._end - time.monotonic())

    def limit(self, seconds: float) -> float:
        """Return a limit for one call: at most what is left, never so short that none can succeed."""
        return max(1.0, min(seconds, self.left))

    def pause(self, seconds: float) -> None:
        """Sleep, but not past the end."""
        time.sleep(min(seconds, self.left))

    def poll(self) -> None:
        """Sleep until it is worth asking again."""
        self.pause(POLL_S)


class Talosctl:
    """talosctl with one talosconfig."""

    def __init__(self, folder: Path, talosconfig: str) -> None:
        self._folder = folder
        self._file = folder / "talosconfig"
        self._talosconfig = talosconfig
        self._maintenance: dict[str, float] = {}

    def ask(
        self,
        *arguments: str,
        node: str | None,
        via: Sequence[str] = (),
        timeout_s: float = CALL_S,
    ) -> Answer:
        """Run one command to its end, at most `timeout_s` long.

        Args:
            arguments: command and options.
            node: the node that it is about.
            via: control planes to ask; the node itself when empty.
            timeout_s: seconds after which it is ended, which is an answer as well.
        """
        endpoints = list(via) or ([node] if node else [])
        command = [*arguments, "--talosconfig", str(self._file), "--endpoints", ",".join(endpoints)]
        if node:
            command += ["--nodes", node]
        return self._run(command, endpoints, timeout_s)

    def resources(self, kind: str, *, node: str, via: Sequence[str], timeout_s: float) -> tuple[Any, Answer]:
        """Return the specs of a node's resources of this kind by id, None when it did not tell."""
        answer = self.ask("get", kind, "--output", "json", node=node, via=via, timeout_s=timeout_s)
        if not answer.good:
            return None, answer
        found: dict[str, Any] = {}
        decoder, text = json.JSONDecoder(), answer.stdout.strip()
        try:
            while text:  # one document after the other
                document, end = decoder.raw_decode(text)
                found[str(document["metadata"]["id"])] = document["spec"]
                text = text[end:].lstrip()
        except (ValueError, KeyError, TypeError):
            return None, Answer(False, "", f"talosctl printed no resources of {kind}", "")
        return found, answer

    def in_maintenance(self, node: str) -> bool:
        """Say whether a node answers without a certificate, as nothing but maintenance mode does."""
        return self._without_certificate(node).good

    def hand_over(self, node: str, file: Path, fingerprint: str | None, timeout_s: float) -> Answer:
        """Give a machine config to a node in maintenance mode; only to this certificate where one is named.

        talosctl compares before it sends anything.
        """
        command = ["apply-config", "--insecure", "--nodes", node, "--file", str(file)]
        command += ["--cert-fingerprint", fingerprint] if fingerprint else []
        return self._run(command, [node], timeout_s)

    def permanent(self, node: str, answer: Answer) -> str | None:
        """Say what will not mend by waiting, None if it may."""
        for sign, meaning in _PERMANENT:
            if sign in answer.said:
                return meaning
        if not answer.stranger:
            self._maintenance.pop(node, None)
            return None
        probe = self._without_certificate(node)
        if not probe.good:
            # It may have left maintenance mode since the answer: only one that is strange still is another's.
            silent = any(sign in probe.said for sign in ("connection refused", "no answer within"))
            if silent or not self.ask("version", node=node, timeout_s=5).stranger:
                return None
            return (
                "its certificate is of another cluster: another machine has the address, or the node was "
                "made with other secrets"
            )
        since = self._maintenance.setdefault(node, time.monotonic())
        return _MAINTENANCE if time.monotonic() - since >= MAINTENANCE_S else None

    def explain(self, node: str, answer: Answer) -> str:
        """Return the answer, and what it means where that is known."""
        if answer.stranger and node in self._maintenance:
            return f"{answer.said}\n  {_MAINTENANCE}"
        meaning = next((text for sign, text in _HINTS if sign in answer.said), None)
        return f"{answer.said}\n  {meaning}" if meaning else answer.said

    def _without_certificate(self, node: str) -> Answer:
        """Ask as nobody: only a node in maintenance mode answers that. Nothing is told to it."""
        return self._run(["version", "--insecure", "--nodes", node], [node], 5)

    def _run(self, arguments: list[str], addresses: Sequence[str], timeout_s: float) -> Answer:
        # Nodes are never behind the proxy that this machine may need for the internet.
        direct = [os.environ[name] for name in ("NO_PROXY", "no_proxy") if os.environ.get(name)]
        no_proxy = ",".join([*direct, *addresses])
        command = ["env", f"NO_PROXY={no_proxy}", f"no_proxy={no_proxy}", "talosctl", *arguments]
        try:
            done = run(command, timeout_s=timeout_s, cwd=str(self._folder))
        except ToolError:
            return Answer(False, "", f"no answer within {timeout_s:.0f} s", "")
        full = self._without_secrets(done.stderr)
        return Answer(done.returncode == 0, done.stdout, one_line(full) or "no words", full)

    def _without_secrets(self, text: str) -> str:
        """Hide what talosctl may repeat of a talosconfig that it cannot parse."""

        def hide(found: re.Match[str]) -> str:
            return "(hidden)" if found.group() in self._talosconfig else found.group()

        return re.sub(r"[A-Za-z0-9+/=]{16,}", hide, text)


@contextmanager
def session(talosconfig: str) -> Iterator[Talosctl]:
    """Give talosctl with this talosconfig, which is on disk, 0600 in a folder of its own, only meanwhile.

    Raises:
        ToolError: talosctl is missing.
    """
    if shutil.which("talosctl") is None:
        raise ToolError("talosctl: not found on PATH; run `make setup`, then use the shell of `make -s env`")
    with tempfile.TemporaryDirectory(prefix="layer1-") as name:  # mode 0700
        folder = Path(name)
        file = folder / "talosconfig"
        file.touch(mode=0o600)
        file.write_text(talosconfig)
        yield Talosctl(folder, talosconfig)


def one_line(text: str) -> str:
    """Return talosctl's error as one line, without its warnings and its counting of errors."""
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("WARNING:")]
    return re.sub(r"\s*\d+ errors? occurred:\s*\*?\s*", " ", " ".join(lines)).strip()


def unreachable(talosctl: Talosctl, node: str, what: str, answer: Answer, deadline: Deadline) -> NodeError:
    """Return the error of a wait that ended without success."""
    return NodeError(
        f"{node}: {what} within {deadline.timeout_s:.0f} s. Its last answer:\n"
        f"  {talosctl.explain(node, answer)}\nWhen that is mended, run the same command again: it goes on "
        "where it stopped."
    )


def retry(talosctl: Talosctl, node: str, deadline: Deadline, what: str, ask: Callable[[], Answer]) -> Answer:
    """Ask until it works or had been done before; stop at once at what cannot mend.

    Raises:
        NodeError: `what` says what did not come about; with the node's last answer.
    """
    while True:
        answer = ask()
        if answer.good or answer.already:
            return answer
        if reason := talosctl.permanent(node, answer):
            raise NodeError(f"{node}: {what}: {reason}. Its last answer:\n  {answer.said}")
        if not deadline.left:
            raise unreachable(talosctl, node, what, answer, deadline)
        deadline.poll()
