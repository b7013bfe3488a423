"""What a judge is given: one node's facts and plan, or that part of them that it cannot do without."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import dataclass

from layer1.audit.facts import Domain, Facts, Host, Process, Talos
from layer1.audit.intent import DomainIntent, Intent
from layer1.audit.seen import Seen, unknown
from layer1.node_status import Status


@dataclass(frozen=True, slots=True)
class Subject:
    """One node."""

    facts: Facts
    intent: Intent


Judge = Callable[[Subject], Seen]


@dataclass(frozen=True, slots=True)
class Live:
    """A domain that libvirt describes."""

    xml: ET.Element
    wanted: DomainIntent
    intent: Intent


@dataclass(frozen=True, slots=True)
class OnHost:
    """A domain on a host that was read."""

    host: Host
    domain: Domain
    wanted: DomainIntent
    intent: Intent


@dataclass(frozen=True, slots=True)
class Qemu:
    """A domain's process that was read."""

    process: Process
    host: Host
    wanted: DomainIntent
    intent: Intent


@dataclass(frozen=True, slots=True)
class Answer:
    """A guest that answered over SSH."""

    status: Status
    intent: Intent


@dataclass(frozen=True, slots=True)
class TalosAnswer:
    """A guest that answered over Talos' API."""

    talos: Talos
    intent: Intent


def by_description(judge: Callable[[Live], Seen]) -> Judge:
    """Make a judge of libvirt's description one of a node."""

    def judged(subject: Subject) -> Seen:
        domain, wanted = subject.facts.domain, subject.intent.domain
        if domain is None or wanted is None:
            return unknown("the node has no domain")
        if domain.xml is None:
            return unknown(f"the domain {wanted.machine.domain_name} is {domain.state}")
        return judge(Live(domain.xml, wanted, subject.intent))

    return judged


def by_host(judge: Callable[[OnHost], Seen]) -> Judge:
    """Make a judge of what its host says one of a node."""

    def judged(subject: Subject) -> Seen:
        domain, wanted = subject.facts.domain, subject.intent.domain
        if domain is None or wanted is None:
            return unknown("the node has no domain")
        if domain.host is None:
            return unknown(domain.problem or "the host was not read")
        return judge(OnHost(domain.host, domain, wanted, subject.intent))

    return judged


def by_process(judge: Callable[[Qemu], Seen]) -> Judge:
    """Make a judge of its QEMU one of a node."""

    @by_host
    def judged(on: OnHost) -> Seen:
        process = on.host.processes.get(on.wanted.machine.domain_name)
        if process is None:
            return unknown(f"no running QEMU by libvirt's pid file; the domain is {on.domain.state}")
        return judge(Qemu(process, on.host, on.wanted, on.intent))

    return judged


def by_answer(judge: Callable[[Answer], Seen]) -> Judge:
    """Make a judge of the status script's answer one of a node."""

    def judged(subject: Subject) -> Seen:
        guest = subject.facts.guest
        if guest.status is None:
            return unknown(guest.problem or "the node did not answer")
        return judge(Answer(guest.status, subject.intent))

    return judged


def by_talos(judge: Callable[[TalosAnswer], Seen]) -> Judge:
    """Make a judge of the API's answers one of a node."""

    def judged(subject: Subject) -> Seen:
        guest = subject.facts.guest
        if guest.talos is None:
            return unknown(guest.problem or "Talos' API did not answer")
        return judge(TalosAnswer(guest.talos, subject.intent))

    return judged
