"""Who is a member of etcd: a control plane joins before the next is touched, and leaves before its disk."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from layer1.errors import NodeError
from layer1.talos.talosctl_api import CALL_S, Answer, Deadline, Talosctl, retry, session, unreachable

_SERVICES = "services.v1alpha1.talos.dev"


@dataclass(frozen=True, slots=True)
class _Member:
    identity: str
    hostname: str
    address: str
    learner: bool


def wait_member(talosconfig: str, node: str, timeout_s: float) -> None:
    """Wait until a control plane is a voting member of etcd, and its etcd healthy.

    Args:
        talosconfig: the cluster's; secret.
        node: its address.
        timeout_s: seconds for all of it.

    Raises:
        NodeError: not in time, or never; with its last answer.
    """
    deadline = Deadline(timeout_s)
    with session(talosconfig) as talosctl:

        def ask() -> Answer:
            answer = etcd_status(talosctl, node, deadline)
            return _vote(talosctl, node, deadline) if answer.good else answer

        retry(talosctl, node, deadline, "is no healthy member of etcd", ask)


def leave(talosconfig: str, node: str, others: Sequence[str], timeout_s: float) -> str:
    """Take a control plane out of etcd, before its disk or its machine goes.

    Args:
        talosconfig: the cluster's; secret.
        node: address of the one that goes; it may be dead.
        others: addresses of the other control planes.
        timeout_s: seconds for all of it.

    Returns:
        What happened, in a sentence.

    Raises:
        NodeError: it is the only one, the rest would be without a majority, nobody answers, or etcd refused.
    """
    if not others:
        raise NodeError(
            f"{node}: not removed: it is the only control plane, and its disk holds etcd, the whole cluster. "
            "Take the change back, or add control planes first; to lose the cluster, destroy the stack."
        )
    deadline = Deadline(timeout_s)
    with session(talosconfig) as talosctl:
        members, here, answers = _members(talosctl, others, Deadline(min(CALL_S, timeout_s)))
        if members is None:
            raise NodeError(
                f"{node}: not removed: no other control plane's etcd answers:\n{answers}\netcd has no "
                "majority. Mend it first (`talosctl -n ADDRESS service etcd`): a machine that goes now may "
                "hold the only good copy. To lose the cluster, destroy the stack."
            )
        member = next((each for each in members if each.address == node), None)
        if member is None:
            return f"{node}: etcd does not have it as a member"
        _keep_majority(talosctl, node, members, deadline)
        own = etcd_status(talosctl, node, Deadline(min(10, timeout_s)))
        answer = (
            talosctl.ask("etcd", "leave", node=node, timeout_s=deadline.limit(CALL_S)) if own.good else own
        )
        left = answer.good
        if not left:  # its own way failed, or the machine is dead: the others strike it off
            answer = talosctl.ask(
                "etcd", "remove-member", member.identity, node=here, timeout_s=deadline.limit(CALL_S)
            )
        while deadline.left:
            members, _, _ = _members(talosctl, [here], Deadline(deadline.limit(10)))
            if members is not None and all(each.address != node for each in members):
                how = (
                    "left etcd" if left else "was struck off etcd's list by the others, for it did not leave"
                )
                return f"{node} {how}; {len(members)} members stay"
            deadline.poll()
        raise unreachable(talosctl, node, "etcd did not let it go", answer, deadline)


def etcd_status(talosctl: Talosctl, node: str, deadline: Deadline) -> Answer:
    """Say whether a node's etcd service is healthy."""
    services, answer = talosctl.resources(_SERVICES, node=node, via=(), timeout_s=deadline.limit(CALL_S))
    if services is None:
        return answer
    etcd = services.get("etcd", {})
    if etcd.get("running") and etcd.get("healthy"):
        return answer
    state = "is not running" if not etcd.get("running") else "runs, but is not healthy"
    return Answer(False, "", f"its service etcd {state}", "")


def _vote(talosctl: Talosctl, node: str, deadline: Deadline) -> Answer:
    """Say whether a node's own etcd counts it among those that vote."""
    answer = talosctl.ask("etcd", "members", node=node, timeout_s=deadline.limit(10))
    if not answer.good:
        return answer
    mine = next((each for each in _parse_members(answer.stdout) if each.address == node), None)
    if mine is None:
        return Answer(False, "", "its etcd does not list it as a member", "")
    return answer if not mine.learner else Answer(False, "", "it has joined etcd, and has no vote yet", "")


def _members(
    talosctl: Talosctl, nodes: Sequence[str], deadline: Deadline
) -> tuple[list[_Member] | None, str, str]:
    """Return etcd's members by the first node that knows them, that node, and else what each said."""
    said: dict[str, str] = {}
    while True:
        for node in nodes:
            answer = talosctl.ask("etcd", "members", node=node, timeout_s=deadline.limit(10))
            if answer.good and (members := _parse_members(answer.stdout)):
                return members, node, ""
            said[node] = answer.said
        if not deadline.left:
            return None, "", "\n".join(f"  {node}: {text}" for node, text in said.items())
        deadline.poll()


def _parse_members(table: str) -> list[_Member]:
    """Read the table of `talosctl etcd members`, which has no other form."""
    head, *rows = table.splitlines() or [""]
    names = re.split(r"\s{2,}", head.strip())
    found = []
    for row in rows:
        cells = dict(zip(names, re.split(r"\s{2,}", row.strip()), strict=False))
        host = re.search(r"https?://\[?([^]/,]+?)]?:\d+", cells.get("PEER URLS", ""))
        if host and "ID" in cells:
            learner = cells.get("LEARNER") == "true"
            found.append(_Member(cells["ID"], cells.get("HOSTNAME", ""), host[1], learner))
    return found


def _keep_majority(talosctl: Talosctl, node: str, members: Sequence[_Member], deadline: Deadline) -> None:
    """Refuse when the voters that stay would be without a healthy majority."""
    staying = [member for member in members if member.address != node and not member.learner]
    sick = [
        member.address
        for member in staying
        if not etcd_status(talosctl, member.address, Deadline(deadline.limit(10))).good
    ]
    if not staying:
        raise NodeError(f"{node}: not removed: no other etcd member has a vote yet. Wait until one has.")
    needed = len(staying) // 2 + 1
    if len(staying) - len(sick) < needed:
        raise NodeError(
            f"{node}: not removed: of the {len(staying)} etcd members that stay, {needed} must be healthy, "
            f"and {', '.join(sick)} {'is' if len(sick) == 1 else 'are'} not. etcd would stop. "
            "Mend or replace those first."
        )
