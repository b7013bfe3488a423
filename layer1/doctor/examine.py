"""Examines the operator's machine and every host of a stack, all at once."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from layer1 import host_ssh
from layer1.doctor import boards, host_probe, reach, sources, tools
from layer1.doctor.check import Check, findings
from layer1.doctor.confinement_checks import CONFINEMENT
from layer1.doctor.host_checks import CLOCK, LIBVIRT, MACHINE, PLACES, judge_clock
from layer1.doctor.view import HostView, Needs, needs, wish
from layer1.findings import Finding
from layer1.model import HostConfig, StackConfig
from layer1.pi import guard

HERE = "this machine"
HOST_CHECKS: tuple[Check[HostView], ...] = (*LIBVIRT, *CONFINEMENT, *MACHINE, CLOCK, *PLACES)
_DEFAULT_HOSTS = {"home": HostConfig()}  # as in Pulumi.yaml


def hosts_of(stack: StackConfig | None) -> dict[str, HostConfig]:
    """Return the hosts that are examined: those with nodes; without a stack, this machine's libvirt."""
    return _DEFAULT_HOSTS if stack is None else stack.used_hosts


def examine(stack: StackConfig | None, hosts: dict[str, HostConfig]) -> list[Finding]:
    """Examine this machine and hosts.

    Args:
        stack: whose needs count; None for the needs of every stack.
        hosts: the hosts to examine.
    """
    with ThreadPoolExecutor(3 + len(hosts)) as pool:
        own = [
            pool.submit(tools.findings, HERE, stack, os.environ),
            pool.submit(sources.findings, HERE, stack) if stack else pool.submit(list[Finding]),
            pool.submit(_boards, stack) if stack else pool.submit(list[Finding]),
        ]
        others = [pool.submit(_host, stack, name, host) for name, host in hosts.items()]
        rows = [row for future in (*own, *others) for row in future.result()]
    if all(host_ssh.is_remote(host.uri) for host in hosts.values()):
        rows = [*_own_clock(), *rows]
    order = list(dict.fromkeys([HERE, *(row.subject for row in rows)]))
    return sorted(rows, key=lambda row: order.index(row.subject))


def _host(stack: StackConfig | None, name: str, host: HostConfig) -> list[Finding]:
    wanted = needs(stack, name) if stack else Needs()
    libvirt = reach.ask_libvirt(host.uri)
    facts = reach.ask_host(host.uri, wish(host, wanted, libvirt))
    view = HostView(name=name, config=host, needs=wanted, libvirt=libvirt, facts=facts)
    return findings(name, HOST_CHECKS, view)


def _own_clock() -> Iterable[Finding]:
    """Judge this machine's own clock where no host is this machine."""
    check: Check[bool | None] = Check(
        id=CLOCK.id, what=CLOCK.what, means=CLOCK.means, judge=lambda known: judge_clock(known, None)
    )
    return findings(HERE, (check,), host_probe.clock_synchronised())


def _boards(stack: StackConfig) -> list[Finding]:
    wanted = [board for board in stack.boards if board.device is not None and not board.booted]
    candidates = guard.candidates() if wanted else ()
    return [row for board in wanted for row in findings(board.name, (boards.DEVICE,), (board, candidates))]
