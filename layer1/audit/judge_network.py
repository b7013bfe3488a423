"""Judges what a node's frames may say, and where its network leads."""

from __future__ import annotations

import re

from layer1.audit.facts import Facts
from layer1.audit.seen import Seen, differences, no, unknown, yes
from layer1.audit.views import Subject

_CHAIN = re.compile(r"Bridge chain: (\S+), ")


def binding(subject: Subject) -> Seen:
    """The filter is bound to the node's card by libvirt, with the node's own addresses."""
    facts, intent = subject.facts, subject.intent
    domain, wanted = facts.domain, intent.domain
    if domain is None or wanted is None or domain.xml is None:
        return unknown(f"the domain is {domain.state if domain else 'not there'}")
    if domain.binding is None:
        return no("virsh nwfilter-binding-list: no filter is bound to the node's card")
    filtered = domain.binding.find("filterref")
    values: dict[str, set[str]] = {"IP": set(), "MAC": set()}
    for parameter in filtered.iter("parameter") if filtered is not None else ():
        values.setdefault(parameter.get("name", ""), set()).add(parameter.get("value", ""))
    owner = domain.binding.findtext("owner/uuid")
    return differences(
        [
            ("filter", "clean-traffic", filtered.get("filter") if filtered is not None else None),
            ("IP", set(wanted.addresses), values["IP"]),
            ("MAC", {wanted.machine.mac.lower()}, {mac.lower() for mac in values["MAC"]}),
            ("owner", intent.uuid, owner),
        ],
        f"virsh nwfilter-binding-dumpxml {_tap(facts)}: clean-traffic for {', '.join(wanted.addresses)}",
    )


def rules(subject: Subject) -> Seen:
    """The kernel has the rules: what comes from another MAC or address, or is no IPv4 or ARP, is dropped."""
    facts, intent = subject.facts, subject.intent
    domain, wanted = facts.domain, intent.domain
    if domain is None or wanted is None:
        return unknown("the node has no domain")
    if domain.host is None or domain.host.rules is None:
        return unknown(domain.problem or "the bridge's rules cannot be read, which root can (ebtables)")
    tap = _tap(facts)
    if not tap:
        return unknown(f"the domain is {domain.state}, and has no card")
    chains = _chains(domain.host.rules)
    mac = wanted.machine.mac.lower()
    own = [f"-p IPv4 --ip-src {address} -j RETURN" for address in wanted.addresses]
    claims = [f"-p ARP --arp-ip-src {address} -j RETURN" for address in wanted.addresses]
    unset = "-p IPv4 --ip-src 0.0.0.0 --ip-proto udp -j RETURN"  # a guest that asks for its address
    expected = {
        f"libvirt-I-{tap}": [
            f"-j I-{tap}-mac",
            f"-p IPv4 -j I-{tap}-ipv4-ip",
            f"-p ARP -j I-{tap}-arp-mac",
            f"-p ARP -j I-{tap}-arp-ip",
        ],
        f"I-{tap}-mac": [f"-s {mac} -j RETURN"],
        f"I-{tap}-ipv4-ip": [unset, *own],
        f"I-{tap}-arp-mac": [f"-p ARP --arp-mac-src {mac} -j RETURN"],
        f"I-{tap}-arp-ip": claims,
    }
    wrong = []
    if f"-i {tap} -j libvirt-I-{tap}" not in chains.get("PREROUTING", []):
        wrong.append(f"PREROUTING does not send {tap}'s frames to libvirt-I-{tap}")
    for name, demanded in expected.items():
        loaded = chains.get(name, [])
        wrong += [f"{name} lacks: {rule}" for rule in demanded if rule not in loaded]
        if loaded[-1:] != ["-j DROP"]:
            wrong.append(f"{name} does not end with: -j DROP")
        if name != f"libvirt-I-{tap}":
            wrong += [f"{name} also has: {rule}" for rule in loaded[:-1] if rule not in demanded]
    if wrong:
        return no("ebtables -t nat -L: " + "; ".join(wrong))
    return yes(
        f"ebtables -t nat -L: frames of {tap} pass from {mac} and {', '.join(wanted.addresses)} alone, "
        "the rest is dropped, IPv6 too"
    )


def _tap(facts: Facts) -> str:
    xml = facts.domain.xml if facts.domain else None
    target = xml.find("devices/interface/target") if xml is not None else None
    return target.get("dev", "") if target is not None else ""


def _chains(text: str) -> dict[str, list[str]]:
    """Read ebtables' list: rules by chain."""
    found: dict[str, list[str]] = {}
    rules: list[str] = []
    for line in text.splitlines():
        if head := _CHAIN.match(line):
            rules = found.setdefault(head[1], [])
        elif line.strip():
            rules.append(_zeros(" ".join(line.split())))
    return found


def _zeros(rule: str) -> str:
    """Write a MAC's bytes with two digits; older ebtables leaves leading zeros out."""
    return re.sub(
        r"\b[0-9a-f]{1,2}(?::[0-9a-f]{1,2}){5}\b",
        lambda found: ":".join(byte.zfill(2) for byte in found[0].split(":")),
        rule,
    )


def network(subject: Subject) -> Seen:
    """The node's network leads where the plan says, and no further."""
    facts, intent = subject.facts, subject.intent
    domain, wanted = facts.domain, intent.domain
    if domain is None or wanted is None:
        return unknown("the node has no domain")
    if domain.network is None:
        return unknown(f"libvirt does not tell of the network {wanted.network}")
    forward, bridge, address = (domain.network.find(name) for name in ("forward", "bridge", "ip"))
    return differences(
        [
            ("forward", wanted.network_mode, forward.get("mode", "nat") if forward is not None else "none"),
            ("bridge", wanted.bridge, bridge.get("name") if bridge is not None else None),
            ("host's address", wanted.gateway, address.get("address") if address is not None else None),
        ],
        f"virsh net-dumpxml {wanted.network}: {wanted.network_mode}, {wanted.bridge}, {wanted.gateway}",
    )
