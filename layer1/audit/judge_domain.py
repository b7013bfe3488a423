"""Judges the domain as libvirt runs it: its devices, its label, and what differs from the stack's plan."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator

from layer1.audit.intent import DomainIntent, Intent
from layer1.audit.seen import Seen, differences, no, unknown, yes
from layer1.audit.views import Live, Subject, by_description
from layer1.model import Accel
from layer1.virsh import UNREACHABLE

_QEMU = "{http://libvirt.org/schemas/domain/qemu/1.0}"
_DISK_DRIVER = {"cache": "none", "io": "native", "discard": "unmap", "detect_zeroes": "unmap"}


def running(subject: Subject) -> Seen:
    """The domain runs."""
    facts, intent = subject.facts, subject.intent
    if facts.domain is None or intent.domain is None:
        return unknown("the node has no domain")
    said = f"virsh domstate {intent.domain.machine.domain_name}: {facts.domain.state}"
    if facts.domain.state.startswith(UNREACHABLE):
        return unknown(said)
    return Seen(facts.domain.state.startswith("running"), said)


@by_description
def devices(live: Live) -> Seen:
    """Every device of the live description is on the sheet's list."""
    xml, wanted = live.xml, live.wanted
    found = [_device(element) for element in xml.iterfind("devices/*")]
    allowed = _allowed(wanted)
    strange = sorted({name for name in found if name not in allowed})
    if strange:
        return no(f"virsh dumpxml: not on the list: {', '.join(strange)}")
    cards = found.count("interface network virtio")
    if cards != 1:
        return no(f"virsh dumpxml: {cards} network cards, wanted 1")
    return yes(f"virsh dumpxml: {', '.join(sorted(set(found)))}")


def _device(element: ET.Element) -> str:
    """Name a device in few words: what it is, where it comes from, what it shows the guest."""
    words = [element.tag]
    if element.tag == "emulator":
        return "emulator"
    if element.tag == "disk":
        target = element.find("target")
        words += [
            element.get("type", ""),
            element.get("device", ""),
            target.get("bus", "") if target is not None else "",
        ]
    elif element.tag == "interface":
        model = element.find("model")
        words += [element.get("type", ""), model.get("type", "") if model is not None else ""]
    elif element.tag == "input":
        words += [element.get("type", ""), element.get("bus", "")]
    else:
        words += [element.get("type", ""), element.get("model", "")]
    return " ".join(word for word in words if word)


def _allowed(wanted: DomainIntent) -> set[str]:
    arm = wanted.machine.arch == "aarch64"
    allowed = {"emulator", "disk file disk virtio", "interface network virtio", "controller usb none"}
    allowed |= {
        "controller pci pcie-root",
        "controller pci pcie-root-port",
        "audio none",
        "memballoon none",
        "rng virtio",
    }
    if arm:
        allowed |= {"disk file cdrom scsi", "controller scsi virtio-scsi"}
    else:
        # Q35 has the SATA controller and the keyboard's built in; libvirt lists them whatever one asks for.
        allowed |= {"disk file cdrom sata", "controller sata", "input mouse ps2", "input keyboard ps2"}
    if wanted.machine.passthrough_disks:
        allowed |= {"disk block disk virtio"}
    if wanted.secure_boot:
        allowed |= {"tpm tpm-crb"}
    return allowed


@by_description
def own_words(live: Live) -> Seen:
    """Nothing is handed to QEMU past libvirt, which would know of no confinement for it."""
    xml = live.xml
    found = [element.tag.removeprefix(_QEMU) for element in xml if element.tag.startswith(_QEMU)]
    if found:
        arguments = [each.get("value", "") for each in xml.iter(f"{_QEMU}arg")]
        return no(f"virsh dumpxml: qemu:{', qemu:'.join(found)} {' '.join(arguments)}".rstrip())
    return yes("virsh dumpxml: no qemu:commandline, no other element of that kind")


@by_description
def security_label(live: Live) -> Seen:
    """The domain has a label of its own, and nobody chose another user for it."""
    xml = live.xml
    labels = [(each.get("model", ""), each.get("type", "")) for each in xml.findall("seclabel")]
    said = ", ".join(f"{kind} {model}".strip() for model, kind in labels) or "none"
    if any(model == "dac" and kind != "dynamic" for model, kind in labels):
        return no(f"virsh dumpxml: seclabel {said}: somebody chose the user by hand")
    return Seen(("apparmor", "dynamic") in labels, f"virsh dumpxml: seclabel {said}")


@by_description
def user_label(live: Live) -> Seen:
    """libvirt, and nobody by hand, chose as which user the domain runs."""
    xml = live.xml
    kinds = [each.get("type", "") for each in xml.findall("seclabel[@model='dac']")]
    return Seen(
        all(kind == "dynamic" for kind in kinds), f"virsh dumpxml: seclabel dac {', '.join(kinds) or 'none'}"
    )


@by_description
def fixed_memory(live: Live) -> Seen:
    """The guest's memory is what the plan says, and cannot grow."""
    xml, wanted = live.xml, live.wanted
    kib = str(wanted.machine.memory_mib * 1024)
    return differences(
        [
            ("memory (KiB)", kib, xml.findtext("memory")),
            ("currentMemory (KiB)", kib, xml.findtext("currentMemory")),
            ("memballoon", "none", _attribute(xml, "devices/memballoon", "model")),
            ("maxMemory", None, xml.findtext("maxMemory")),
        ],
        f"virsh dumpxml: {wanted.machine.memory_mib} MiB, no balloon, no more to plug in",
    )


@by_description
def drift(live: Live) -> Seen:
    """The running machine is the planned one."""
    xml, wanted, intent = live.xml, live.wanted, live.intent
    return differences(_machine_pairs(xml, wanted, intent), "virsh dumpxml: as the stack plans it")


def _machine_pairs(
    xml: ET.Element, wanted: DomainIntent, intent: Intent
) -> Iterator[tuple[str, object, object]]:
    machine = wanted.machine
    x86 = machine.arch == "x86_64"
    yield "uuid", intent.uuid, xml.findtext("uuid")
    yield "type", machine.domain_type, xml.get("type")
    yield "arch", machine.arch, _attribute(xml, "os/type", "arch")
    kind = _attribute(xml, "os/type", "machine") or ""
    yield "machine", "pc-q35" if x86 else "virt", kind.rpartition("-")[0]
    yield "vcpu", str(machine.vcpus), xml.findtext("vcpu")
    yield "cpu mode", machine.cpu_mode, _attribute(xml, "cpu", "mode")
    yield "loader", machine.firmware, xml.findtext("os/loader")
    yield "nvram", machine.nvram_file if machine.firmware else None, xml.findtext("os/nvram")
    ends = {"on_poweroff": "destroy", "on_reboot": "restart", "on_crash": "destroy"}
    for name, value in ends.items():
        yield name, value, xml.findtext(name)
    yield "nosharepages", True, xml.find("memoryBacking/nosharepages") is not None
    yield "kernel", None, xml.findtext("os/kernel")
    yield "sysinfo", None, _attribute(xml, "sysinfo", "type")
    if x86:
        yield "vmport", "off", _attribute(xml, "features/vmport", "state")
        yield "hpet", "no", _attribute(xml, "clock/timer[@name='hpet']", "present")
        yield "suspend to memory", "no", _attribute(xml, "pm/suspend-to-mem", "enabled")
        yield "suspend to disk", "no", _attribute(xml, "pm/suspend-to-disk", "enabled")
    if wanted.accel == Accel.KVM:
        yield "pmu", "off", _attribute(xml, "features/pmu", "state")
        if x86:
            off = {each.get("name") for each in xml.findall("cpu/feature[@policy='disable']")}
            for name in ("vmx", "svm"):
                yield f"cpu feature {name}", "disable", "disable" if name in off else "there"


@by_description
def card(live: Live) -> Seen:
    """The network card is the planned one, on the stack's own network, without a boot ROM."""
    xml, wanted = live.xml, live.wanted
    return differences(
        [
            ("mac", wanted.machine.mac, (_attribute(xml, "devices/interface/mac", "address") or "").upper()),
            ("network", wanted.network, _attribute(xml, "devices/interface/source", "network")),
            ("bridge", wanted.bridge, _attribute(xml, "devices/interface/source", "bridge")),
            ("boot ROM", "no", _attribute(xml, "devices/interface/rom", "enabled")),
        ],
        f"virsh dumpxml: {wanted.machine.mac} on {wanted.network} ({wanted.bridge})",
    )


@by_description
def disks(live: Live) -> Seen:
    """The disks are the node's own, with the planned settings; the seed is read-only."""
    xml, wanted, intent = live.xml, live.wanted, live.intent
    wrong: list[str] = []
    sources: list[str] = []
    for disk in xml.iterfind("devices/disk"):
        source, driver = disk.find("source"), disk.find("driver")
        path = (source.get("file") or source.get("dev") or "") if source is not None else ""
        sources.append(path)
        if path and not (intent.owns(path) or path in wanted.machine.passthrough_disks):
            wrong.append(f"{path} is not this node's")
        if disk.get("device") == "cdrom":
            if disk.find("readonly") is None:
                wrong.append(f"{path} is not read-only")
            continue
        wrong += [
            f"{path}: {name} wanted {value}, is {actual}"
            for name, value in _DISK_DRIVER.items()
            if (actual := driver.get(name) if driver is not None else None) != value
        ]
    count = 2 + len(wanted.machine.data_disks) + len(wanted.machine.passthrough_disks)
    if len(sources) != count:
        wrong.append(f"wanted {count} disks, there are {len(sources)}")
    if wrong:
        return no("virsh dumpxml: " + "; ".join(wrong))
    return yes("virsh dumpxml: " + ", ".join(path.rpartition("/")[2] for path in sources))


@by_description
def secure_boot(live: Live) -> Seen:
    """The firmware starts signed code alone, and a vTPM measures it."""
    xml = live.xml
    return differences(
        [
            ("secure loader", "yes", _attribute(xml, "os/loader", "secure")),
            ("smm", "on", _attribute(xml, "features/smm", "state")),
            ("tpm", "tpm-crb", _attribute(xml, "devices/tpm", "model")),
            ("tpm backend", "emulator", _attribute(xml, "devices/tpm/backend", "type")),
        ],
        "virsh dumpxml: a secure loader, smm, and a vTPM",
    )


def _attribute(xml: ET.Element, path: str, name: str) -> str | None:
    element = xml.find(path)
    return element.get(name) if element is not None else None
