"""Facts to judge: a recorded run of the lab's node, and what a strong host, Talos and a board show."""

from __future__ import annotations

import copy
import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from layer1 import config, sshkeys
from layer1.audit import rows
from layer1.audit.facts import Domain, Facts, Guest, Process, Talos, host_of
from layer1.audit.intent import Intent, of_node
from layer1.findings import Finding, Verdict
from layer1.model import BoardNode, Node, StackConfig
from layer1.node_status import parse_status

RECORDED = Path(__file__).resolve().parent / "recorded"
STACK = "taudit"
KEY = sshkeys.ed25519_public(b"\x01" * 32, "operator@example")
WEAK_HOST = {"accel": "tcg", "svirt": "none", "memory_hard_limit": False}
POOL = "/var/lib/libvirt/images"


@dataclass(frozen=True)
class Case:
    """One node as it was seen, and as it should be."""

    facts: Facts
    intent: Intent

    def verdict(self, row: str) -> Verdict:
        return self.finding(row).verdict

    def finding(self, row: str) -> Finding:
        return next(each for each in self.findings() if each.id == row)

    def findings(self) -> list[Finding]:
        return rows.judge(self.facts, self.intent)

    def domain(self, **changes: Any) -> Case:
        assert self.facts.domain is not None
        return replace(self, facts=replace(self.facts, domain=replace(self.facts.domain, **changes)))

    def host(self, **changes: Any) -> Case:
        assert self.facts.domain is not None
        assert self.facts.domain.host is not None
        return self.domain(host=replace(self.facts.domain.host, **changes))

    def process(self, **changes: Any) -> Case:
        assert self.facts.domain is not None
        assert self.facts.domain.host is not None
        processes = {
            name: replace(process, **changes) if process is not None else None
            for name, process in self.facts.domain.host.processes.items()
        }
        return self.host(processes=processes)

    def command(self, edit: Callable[[list[str]], list[str]]) -> Case:
        return self.process(command=tuple(edit(list(self.qemu.command))))

    def status_value(self, name: str, value: str) -> Case:
        process = self.qemu
        return self.process(status=process.status | {name: value})

    @property
    def qemu(self) -> Process:
        assert self.facts.domain is not None
        assert self.facts.domain.host is not None
        found = next(iter(self.facts.domain.host.processes.values()))
        assert found is not None
        return found

    def xml(self, edit: Callable[[ET.Element], object]) -> Case:
        """Change a copy of libvirt's description."""
        assert self.facts.domain is not None
        changed = copy.deepcopy(self.facts.domain.xml)
        assert changed is not None
        edit(changed)
        return self.domain(xml=changed)

    def file(self, match: str, **changes: Any) -> Case:
        """Change what was seen of each file whose path matches."""
        assert self.facts.domain is not None
        assert self.facts.domain.host is not None
        files = {
            path: replace(file, **changes) if file is not None and re.search(match, path) else file
            for path, file in self.facts.domain.host.files.items()
        }
        assert files != self.facts.domain.host.files
        return self.host(files=files)

    def rules(self, edit: Callable[[str], str]) -> Case:
        assert self.facts.domain is not None
        assert self.facts.domain.host is not None
        before = self.facts.domain.host.rules or ""
        assert edit(before) != before
        return self.host(rules=edit(before))

    def guest(self, **changes: Any) -> Case:
        return replace(self, facts=replace(self.facts, guest=replace(self.facts.guest, **changes)))

    def said(self, **changes: list[str] | None) -> Case:
        """Change lines of the status script's answer; None takes one away."""
        status = dict(self.facts.guest.status or {})
        for name, values in changes.items():
            if values is None:
                status.pop(name)
            else:
                status[name] = values
        return self.guest(status=status)

    def talos(self, **changes: Any) -> Case:
        assert self.facts.guest.talos is not None
        return self.guest(talos=replace(self.facts.guest.talos, **changes))


def load(**changes: Any) -> StackConfig:
    raw = {
        "hosts": {"home": WEAK_HOST},
        "network": {"cidr": "10.213.9.0/24", "mode": "isolated"},
        "images": {"flatcar": {"source": "practice"}},
        "k3s": {
            "installer_url": "http://10.213.9.1:8012/install.sh",
            "releases_url": "http://10.213.9.1:8012",
        },
        "defaults": {"memory_mib": 512, "vcpus": 1, "disk_gib": 20, "ssh_authorized_keys": [KEY]},
        "nodes": [{"name": "k3s-1", "os": "flatcar"}],
    }
    return config.load(STACK, {key: value for key, value in (raw | changes).items() if value is not None}, {})


def intent_of(stack: StackConfig, node: Node | BoardNode, **changes: Any) -> Intent:
    """The plan, with the base volume and the digest of the recording in place of this machine's image."""
    made = of_node(stack, node, None)
    if made.domain is not None:
        recorded = json.loads((RECORDED / "host.json").read_text())["files"]
        base, facts = next((path, facts) for path, facts in recorded.items() if "sha512" in facts)
        made = replace(
            made,
            domain=replace(made.domain, base_file=base.rpartition("/")[2]),
            pinned=frozenset({facts["sha512"]}),
        )
    return replace(made, **changes)


def _recorded_domain() -> Domain:
    def parsed(name: str) -> ET.Element:
        return ET.fromstring((RECORDED / f"{name}.xml").read_text())  # noqa: S314 - our own recording

    host = host_of(json.loads((RECORDED / "host.json").read_text()))
    return Domain(
        state="running (booted)",
        xml=parsed("domain"),
        binding=parsed("binding"),
        network=parsed("network"),
        host=host,
    )


def _recorded_guest() -> Guest:
    return Guest(status=parse_status((RECORDED / "status.txt").read_text()), offered="publickey")


def lab() -> Case:
    """The lab's node, as recorded, on a machine without KVM, AppArmor and hard limits."""
    stack = load()
    facts = Facts(domain=_recorded_domain(), guest=_recorded_guest())
    return Case(facts, intent_of(stack, stack.nodes[0], verified_by="manifest"))


def strong() -> Case:
    """The same node on a host that has all: the recording with what KVM, AppArmor and a hard limit add.

    Their words are those that a Debian 12 host with AppArmor showed; the tests of the walls see them live.
    """
    stack = load(hosts={"home": {}}, images={"flatcar": {"source": "official"}})
    intent = intent_of(stack, stack.nodes[0], verified_by="signature+pin")
    assert intent.domain is not None
    domain = _recorded_domain()
    assert domain.host is not None
    assert domain.xml is not None
    case = Case(Facts(domain=domain, guest=_recorded_guest()), intent)
    name = intent.domain.machine.domain_name.replace("-", "\\x2d")
    scope = f"/machine.slice/machine-qemu\\x2d6\\x2d{name}.scope"
    limit = str(intent.domain.hard_limit_bytes)
    case = case.process(
        label=f"libvirt-{intent.uuid} (enforce)",
        memory_max={
            f"{scope}/libvirt/emulator": "max",
            f"{scope}/libvirt": limit,
            scope: "max",
            "/machine.slice": "max",
        },
    ).command(_with_kvm)
    names = [path for path in domain.host.files if path.endswith((".qcow2", ".iso"))]
    profile = "".join(
        f'  "{path}" rk,\n  deny "{path}" w,\n'
        if path.endswith(".iso") or "practice" in path
        else f'  "{path}" rwk,\n'
        for path in names
    )
    profile += '  "/var/log/libvirt/**/layer1.log" w,\n  "/run/libvirt/**/layer1.pid" rwk,\n'
    case = case.host(apparmor=True, profiles={intent.uuid: profile})
    return case.xml(_strong_xml)


def _with_kvm(command: list[str]) -> list[str]:
    at = command.index("-accel")
    return [*command[: at + 1], "kvm", *command[at + 2 :]]


def _strong_xml(xml: ET.Element) -> None:
    xml.set("type", "kvm")
    cpu, features = xml.find("cpu"), xml.find("features")
    assert cpu is not None
    assert features is not None
    cpu.set("mode", "host-passthrough")
    for name in ("vmx", "svm"):
        ET.SubElement(cpu, "feature", policy="disable", name=name)
    ET.SubElement(features, "pmu", state="off")
    xml.append(ET.Element("seclabel", type="dynamic", model="apparmor", relabel="yes"))


def talos() -> Case:
    """A control plane with Secure Boot, whose firmware, vTPM and API show what the documentation says."""
    stack = load(
        hosts={"home": {}},
        talos={"encryption": "tpm"},
        nodes=[{"name": "cp-1", "os": "talos", "role": "controlplane", "memory_mib": 2048, "disk_gib": 10}],
    )
    intent = intent_of(stack, stack.nodes[0])
    xml = ET.Element("domain", type="kvm")
    system = ET.SubElement(xml, "os")
    ET.SubElement(system, "loader", secure="yes")
    ET.SubElement(ET.SubElement(xml, "features"), "smm", state="on")
    tpm = ET.SubElement(ET.SubElement(xml, "devices"), "tpm", model="tpm-crb")
    ET.SubElement(tpm, "backend", type="emulator")
    domain = Domain(state="running (booted)", xml=xml, binding=None, network=None, host=None)
    said = Talos(
        version=intent.talos_version,
        anonymous=False,
        mounts="/dev/loop0 / squashfs ro,relatime 0 0\ntmpfs /run tmpfs rw 0 0\n",
        encryption={"STATE": "luks2", "EPHEMERAL": "luks2"},
        secure_boot=True,
        ssh=False,
    )
    return Case(Facts(domain=domain, guest=Guest(talos=said)), intent)


def board() -> Case:
    """A Raspberry Pi with k3s that answers."""
    stack = load(
        hosts=None,
        pi={"cidr": "192.168.1.0/24"},
        nodes=[{"name": "pi-1", "os": "k3s-pios", "board": "rpi4", "ip": "192.168.1.32", "booted": True}],
    )
    case = Case(Facts(guest=_recorded_guest()), intent_of(stack, stack.boards[0]))
    return case.said(
        **{"unit.layer1-firewall.service": ["active/exited/success"]},
        usr_mode=None,
        sshd=[
            *(line for line in (case.facts.guest.status or {})["sshd"] if not line.startswith("allowusers")),
            "allowusers layer1",
            "allowusers layer1-status",
            "allowusers layer1-apply",
        ],
    )
