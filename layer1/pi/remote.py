"""Brings a running board's hardening up to date over SSH; an unchanged bundle sends nothing.

The other end is assets/pi/receive.sh. What the board does, it does apart from the connection, and only its
answer to `applied` says how far it is: a connection that ends says nothing, a reboot loses nothing but time.
The mark that it shows is apply.sh's, which takes it away before it changes anything and writes it last.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass

from layer1 import node_status, ssh
from layer1.errors import NodeError, ToolTimeoutError
from layer1.node_status import Status, first, parse_status
from layer1.pi.bundle import archive, digest
from layer1.processes import last_lines

_POLL_S = 2.0
_ASK_S = 45.0
# A whole upload may take a minute (receive.sh).
_SEND_S = 90.0
# apply.sh lays the keys down before it starts sshd, but a booting board turns logins away for a moment.
_REFUSED_S = 30.0
# Cut connections, power cuts in the middle: beyond these it is not bad luck.
_SENDS = 5
# A bundle that replaces the very scripts that answer may be caught at it.
_ODD_ANSWERS = 5
_REFUSED, _NOT_WHOLE, _BUSY = 64, 65, 75
_CHANGED = "changed: "


@dataclass(frozen=True, kw_only=True, slots=True)
class BoardTarget:
    """The board that is spoken to.

    Attributes:
        hostname: what the board must call itself.
        address: its IPv4 address.
        host_key: its public SSH host key; no other is accepted.
        apply_key: private key of the user layer1-apply; secret.
        status_key: private key of the user layer1-status; secret.
        timeout_s: seconds for all of it.
    """

    hostname: str
    address: str
    host_key: str
    apply_key: str
    status_key: str
    timeout_s: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Applied:
    """What a board is like after it.

    Attributes:
        digest: the bundle's SHA-256, which the board has wholly applied.
        changed: what the board's apply.sh said that it changed; empty when nothing was sent.
        rebooted: whether it was rebooted for it.
        status: the board's status, values by name.
    """

    digest: str
    changed: list[str]
    rebooted: bool
    status: Status


def apply(target: BoardTarget, bundle: Mapping[str, str]) -> Applied:
    """Wait for a board, give it its bundle unless it has it, and wait until it is provisioned.

    Args:
        target: the board.
        bundle: text by path (layer1.pi.bundle); secret.

    Raises:
        NodeError: another machine answers, our key is refused, the board failed to apply the bundle, or the
            time is over; with what the board said, never with a line of a secret.
    """
    with (
        ssh.session(_login(target, "layer1-apply", target.apply_key)) as gate,
        ssh.session(_login(target, "layer1-status", target.status_key)) as status,
    ):
        board = _Board(target, _secret_lines(target, bundle))
        wanted = digest(bundle)
        changed = _bring(board, gate, wanted, archive(bundle))
        rebooted = _reboot_if_required(board, gate)
        if rebooted:
            # It was whole before; a board that lost it (a card that forgets) must not pass.
            changed += _bring(board, gate, wanted, archive(bundle))
        return Applied(
            digest=wanted, changed=changed, rebooted=rebooted, status=_wait_provisioned(board, status)
        )


def _login(target: BoardTarget, user: str, key: str) -> ssh.Login:
    return ssh.Login(user=user, address=target.address, host_key=target.host_key, key=key)


def _secret_lines(target: BoardTarget, bundle: Mapping[str, str]) -> frozenset[str]:
    """Return the lines of every private key at hand: none of them may be repeated."""
    found: set[str] = set()
    for text in (target.apply_key, target.status_key, *bundle.values()):
        secret = False
        for line in text.splitlines():
            if "PRIVATE KEY" in line:
                secret = "BEGIN" in line
            elif secret and line.strip():
                found.add(line.strip())
    return frozenset(found)


class _Board:
    """One board, asked again and again until the time is over."""

    def __init__(self, target: BoardTarget, secret_lines: frozenset[str]) -> None:
        self._target = target
        self._secret_lines = secret_lines
        self._end = time.monotonic() + target.timeout_s
        self._refused_since: float | None = None
        self._last = "no answer yet"

    def error(self, what: str, said: str = "") -> NodeError:
        """Make an error of what happened and what the board said, free of secrets."""
        lines = [f"{self._target.hostname}: {what}", *(f"  {line}" for line in said.splitlines())]
        shown = [
            "  (a line with a secret)" if any(secret in line for secret in self._secret_lines) else line
            for line in lines
        ]
        return NodeError("\n".join(shown))

    def wrong(self, status: Status) -> str | None:
        """Say what of its status will not mend by waiting."""
        return node_status.wrong(status, self._target.hostname, self._target.address)

    def pause(self, reason: str, facts: list[str] | None = None) -> None:
        """Wait a moment, for a reason; the last one is told when the time is over."""
        self._last = reason or self._last
        if time.monotonic() + _POLL_S >= self._end:
            raise self.error(
                f"not as planned within {self._target.timeout_s} s (layer1:defaults.ready_timeout_s). See "
                "that the board has power and network, then run `up` again: it goes on from there. Known "
                f"of {self._target.address}:",
                "\n".join([self._last, *(facts or [])]),
            )
        time.sleep(_POLL_S)

    def ask(
        self, ask: ssh.Ask, command: str, *, stdin: bytes = b"", limit_s: float = _ASK_S
    ) -> subprocess.CompletedProcess[str] | None:
        """Ask once.

        Returns:
            What the board answered, or None when it could not be asked to the end.
        """
        try:
            result = ask(command, stdin=stdin, timeout_s=max(1.0, min(limit_s, self._end - time.monotonic())))
        except ToolTimeoutError:
            self._last = "it takes connections, but does not answer"
            return None
        if ssh.stranger(result):
            raise self.error(
                f"what answers at {self._target.address} has another SSH host key than the stack's: it is "
                "another machine, or its card was not written with this stack's image. Nothing was sent"
            )
        if ssh.key_refused(result):
            self._judge_refusal()
        elif not ssh.lost(result):
            self._refused_since = None
            return result
        self._last = last_lines(result.stderr, 1) or "the connection was lost"
        return None

    def _judge_refusal(self) -> None:
        now = time.monotonic()
        self._refused_since = self._refused_since or now
        if now - self._refused_since >= _REFUSED_S:
            raise self.error(
                f"the board at {self._target.address} is the right one but refuses the stack's key, for "
                f"{_REFUSED_S:.0f} s now: its first boot failed before it made Layer 1's users, or its image "
                "is an older stack's. Look at layer1-firstboot.log on the card, or write the image again"
            )

    def answer(self, ask: ssh.Ask, command: str) -> Status:
        """Ask until there is an answer of lines `name=value`."""
        odd = 0
        while True:
            result = self.ask(ask, command)
            if result is not None:
                status = parse_status(result.stdout)
                if result.returncode == 0 and first(status, "schema") == "1":
                    return status
                odd += 1
                if odd == _ODD_ANSWERS:
                    raise self.error(
                        f"the board does not answer `{command}` as this Layer 1 expects (exit code "
                        f"{result.returncode}); write its image again. It said:",
                        last_lines(result.stderr or result.stdout),
                    )
                self._last = f"an odd answer to `{command}`"
            self.pause("")

    def settled(self, gate: ssh.Ask) -> Status:
        """Return how far the board is, when nothing changes it any more."""
        while True:
            state = self.answer(gate, "applied")
            if first(state, "apply") == "idle":
                return state
            self.pause("a bundle is being applied on it")


def _bring(board: _Board, gate: ssh.Ask, wanted: str, tar: bytes) -> list[str]:
    """Send the bundle until the board says that it is wholly applied; return what that changed."""
    sent = 0
    while True:
        state = board.settled(gate)
        if first(state, "applied") == wanted:
            return _changed(state) if sent else []
        if sent:
            _judge_outcome(board, state, wanted)
        if sent == _SENDS:
            raise board.error(
                f"the bundle was sent {_SENDS} times and is not applied: connection or power were cut each "
                "time. Mend that, then run `up` again"
            )
        sent += _send(board, gate, wanted, tar)


def _changed(state: Status) -> list[str]:
    return [line.removeprefix(_CHANGED) for line in state.get("log", []) if line.startswith(_CHANGED)]


def _judge_outcome(board: _Board, state: Status, wanted: str) -> None:
    """Raise when the board ran what was sent and it did not succeed; no outcome means that it was cut off."""
    ended, _, code = first(state, "result").partition(" ")
    if ended != wanted:
        return
    what = (
        "apply.sh ended well but the bundle is not marked as applied"
        if code == "0"
        else (f"apply.sh failed on the board with exit code {code}; the bundle counts as not applied")
    )
    raise board.error(
        f"{what}. Mend what it names, then run `up` again. It said last:",
        last_lines("\n".join(state.get("log", [])), 12),
    )


def _send(board: _Board, gate: ssh.Ask, wanted: str, tar: bytes) -> int:
    """Hand the bundle over once; return 1, or 0 when the board was busy and took nothing."""
    result = board.ask(gate, f"apply {wanted}", stdin=tar, limit_s=_SEND_S)
    if result is None or result.returncode == _NOT_WHOLE:
        board.pause("the connection was cut while the bundle was sent")
    elif result.returncode == _BUSY:
        board.pause("another bundle is being applied on it")
        return 0
    elif result.returncode != 0:
        raise board.error(
            "the board did not take the bundle; it counts as not applied. It said:", last_lines(result.stderr)
        )
    return 1


def _reboot_if_required(board: _Board, gate: ssh.Ask) -> bool:
    """Reboot the board through its gate when the bundle needs it, and wait until it is back."""
    state = board.settled(gate)
    if first(state, "reboot_required") != "yes":
        return False
    before = first(state, "boot_id")
    while first(state, "boot_id") == before:
        result = board.ask(gate, "reboot")  # again, when the order was lost
        if result is not None and result.returncode not in (0, _BUSY):
            raise board.error("the board does not reboot, which its bundle needs:", last_lines(result.stderr))
        board.pause("it was told to reboot and has not come back")
        state = board.settled(gate)
    return True


def _wait_provisioned(board: _Board, ask: ssh.Ask) -> Status:
    while True:
        status = board.answer(ask, "status")
        if problem := board.wrong(status):
            raise board.error(problem)
        if node_status.provisioned(status):
            return status
        board.pause("it answers, but is not provisioned yet", node_status.facts(status))
