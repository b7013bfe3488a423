"""Every row of the audit: a node on which it holds, and for each way to break it a broken one."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace

import pytest
from audit_support import POOL, Case, board, lab, strong, talos

from layer1.audit.facts import Facts, Guest
from layer1.audit.rows import ROWS, Threat
from layer1.audit.threats import summary
from layer1.findings import Verdict

BASES: dict[str, Callable[[], Case]] = {"strong": strong, "talos": talos, "board": board}
OTHER_DISK = f"{POOL}/layer1-other/db-1-root-0123456789ab.qcow2"
QEMU = "{http://libvirt.org/schemas/domain/qemu/1.0}"


def one(xml: ET.Element, path: str) -> ET.Element:
    found = xml.find(path)
    assert found is not None, path
    return found


def set_attribute(path: str, name: str, value: str) -> Callable[[Case], Case]:
    return lambda case: case.xml(lambda xml: one(xml, path).set(name, value))


def set_text(path: str, value: str) -> Callable[[Case], Case]:
    def edit(xml: ET.Element) -> None:
        one(xml, path).text = value

    return lambda case: case.xml(edit)


def add_device(tag: str, **attributes: str) -> Callable[[Case], Case]:
    return lambda case: case.xml(lambda xml: ET.SubElement(one(xml, "devices"), tag, attributes))


def drop(path: str) -> Callable[[Case], Case]:
    parent, _, _ = path.rpartition("/")
    return lambda case: case.xml(lambda xml: one(xml, parent or ".").remove(one(xml, path)))


def append(*words: str) -> Callable[[Case], Case]:
    return lambda case: case.command(lambda command: [*command, *words])


def swap(old: str, new: str) -> Callable[[Case], Case]:
    def edit(command: list[str]) -> list[str]:
        assert any(old in word for word in command), old
        return [word.replace(old, new) for word in command]

    return lambda case: case.command(edit)


def without(*words: str) -> Callable[[Case], Case]:
    def edit(command: list[str]) -> list[str]:
        at = command.index(words[0])
        return command[:at] + command[at + len(words) :]

    return lambda case: case.command(edit)


def profile_also(rule: str) -> Callable[[Case], Case]:
    return lambda case: case.host(profiles={case.intent.uuid: f"{profile_of(case)}{rule}\n"})


def profile_of(case: Case) -> str:
    assert case.facts.domain is not None
    assert case.facts.domain.host is not None
    text = case.facts.domain.host.profiles[case.intent.uuid]
    assert text is not None
    return text


def limited(value: str) -> Callable[[Case], Case]:
    return lambda case: case.process(
        memory_max={path: value if path.endswith("/libvirt") else old for path, old in limits(case).items()}
    )


def limits(case: Case) -> dict[str, str]:
    found = case.qemu.memory_max
    assert found is not None
    return found


def opened(path: str) -> Callable[[Case], Case]:
    return lambda case: case.process(open_files=(*(case.qemu.open_files or ()), path))


def bound(edit: Callable[[ET.Element], object]) -> Callable[[Case], Case]:
    def change(case: Case) -> Case:
        assert case.facts.domain is not None
        assert case.facts.domain.binding is not None
        copy = deepcopy(case.facts.domain.binding)
        edit(copy)
        return case.domain(binding=copy)

    return change


def networked(edit: Callable[[ET.Element], object]) -> Callable[[Case], Case]:
    def change(case: Case) -> Case:
        assert case.facts.domain is not None
        assert case.facts.domain.network is not None
        copy = deepcopy(case.facts.domain.network)
        edit(copy)
        return case.domain(network=copy)

    return change


def rule_gone(part: str) -> Callable[[Case], Case]:
    return lambda case: case.rules(
        lambda text: "\n".join(line for line in text.splitlines() if part not in line)
    )


def last_drop_gone(chain: str) -> Callable[[Case], Case]:
    def edit(text: str) -> str:
        blocks = text.split("\n\n")
        return "\n\n".join(
            block.replace("\n-j DROP", "") if f"{chain}," in block.partition("\n")[0] else block
            for block in blocks
        )

    return lambda case: case.rules(edit)


def sshd(old: str, new: str) -> Callable[[Case], Case]:
    def change(case: Case) -> Case:
        lines = (case.facts.guest.status or {})["sshd"]
        assert old in lines
        return case.said(sshd=[new if line == old else line for line in lines])

    return change


# For each row: the base it holds on, and every way to break it.
MUTATIONS: dict[str, tuple[str, dict[str, Callable[[Case], Case]]]] = {
    "domain.running": (
        "strong",
        {
            "crashed": lambda case: case.domain(state="shut off (crashed)", xml=None),
            "gone": lambda case: case.domain(state="gone", xml=None),
        },
    ),
    "hypervisor.kvm": ("strong", {"emulated": swap("kvm", "tcg,tb-size=128")}),
    "hypervisor.board": ("board", {"as it is": lambda case: case}),
    "svirt.label": (
        "strong",
        {
            "unconfined": lambda case: case.process(label="unconfined"),
            "complains": lambda case: case.process(label=f"libvirt-{case.intent.uuid} (complain)"),
            "another's": lambda case: case.process(
                label="libvirt-00000000-0000-4000-8000-000000000000 (enforce)"
            ),
            "no AppArmor": lambda case: case.process(label=None).host(apparmor=False),
        },
    ),
    "svirt.profile": (
        "strong",
        {
            "another VM's disk": profile_also(f'  "{OTHER_DISK}" rwk,'),
            "unquoted": profile_also(f"  {OTHER_DISK} r,"),
            "a pattern": profile_also('  "/var/lib/libvirt/images/**" rw,'),
            "a wide pattern": profile_also("  /var/** r,"),
            "another's profile": lambda case: case.host(profiles={case.intent.uuid: '"/run/x.pid" rw,\n'}),
            "no AppArmor": lambda case: case.host(apparmor=False, profiles={case.intent.uuid: None}),
        },
    ),
    "svirt.asked": (
        "strong",
        {
            "none": set_attribute("seclabel[@model='apparmor']", "type", "none"),
            "static": set_attribute("seclabel[@model='apparmor']", "type", "static"),
            "missing": drop("seclabel[@model='apparmor']"),
        },
    ),
    "qemu.user_by_libvirt": ("strong", {"static": set_attribute("seclabel[@model='dac']", "type", "static")}),
    "qemu.uid": (
        "strong",
        {
            "root": lambda case: case.status_value("Uid", "0\t0\t0\t0"),
            "root saved": lambda case: case.status_value("Uid", "64055\t64055\t0\t64055"),
        },
    ),
    "qemu.capabilities": ("strong", {"one": lambda case: case.status_value("CapEff", "0000000000000400")}),
    "qemu.no_new_privileges": ("strong", {"off": lambda case: case.status_value("NoNewPrivs", "0")}),
    "qemu.seccomp": (
        "strong",
        {
            "off in the kernel": lambda case: case.status_value("Seccomp", "0"),
            "not asked": without("-sandbox", "on"),
            "spawn allowed": swap("spawn=deny", "spawn=allow"),
            "off": swap("on,obsolete=deny", "off,obsolete=deny"),
        },
    ),
    "qemu.devices": (
        "strong",
        {
            "USB": append("-device", '{"driver":"qemu-xhci","id":"usb"}'),
            "old words": append("-device", "VGA,id=video0"),
            "balloon": append("-device", '{"driver":"virtio-balloon-pci","id":"balloon0"}'),
            "another machine's": append("-device", '{"driver":"scsi-cd","drive":"x"}'),
        },
    ),
    "qemu.options": (
        "strong",
        {
            "a screen": append("-vnc", "0.0.0.0:0"),
            "a display": swap("none", "gtk"),
            "a console": append("-chardev", "pty,id=charserial0"),
            "a way to steer": append("-qmp", "tcp:127.0.0.1:4444,server"),
            "a host's folder": append("-fsdev", "local,id=fs0,path=/,security_model=none"),
            "fw_cfg": append("-fw_cfg", "name=opt/x,file=/etc/shadow"),
            "another VM's disk": append("-blockdev", f'{{"driver":"file","filename":"{OTHER_DISK}"}}'),
            "a network's disk": append("-blockdev", '{"driver":"nbd","server":{"type":"inet"}}'),
            "an old drive": append("-drive", f"file={OTHER_DISK}"),
            "default devices": without("-nodefaults"),
            "a user's configuration": without("-no-user-config"),
            "USB switched on": swap("usb=off", "usb=on"),
            "a user network": append("-netdev", '{"type":"user","id":"n1"}'),
            "a secret of another file": append("-object", '{"qom-type":"filter-redirector","id":"f"}'),
        },
    ),
    "qemu.own_words": (
        "strong",
        {
            "command line": lambda case: case.xml(
                lambda xml: ET.SubElement(
                    ET.SubElement(xml, f"{QEMU}commandline"), f"{QEMU}arg", value="-usb"
                )
            )
        },
    ),
    "domain.devices": (
        "strong",
        {
            "USB": add_device("controller", type="usb", model="qemu-xhci"),
            "graphics": add_device("graphics", type="vnc"),
            "video": add_device("video"),
            "console": add_device("serial", type="pty"),
            "guest agent": add_device("channel", type="unix"),
            "host device": add_device("hostdev", mode="subsystem", type="pci"),
            "shared folder": add_device("filesystem", type="mount"),
            "balloon": set_attribute("devices/memballoon", "model", "virtio"),
            "second card": lambda case: case.xml(
                lambda xml: one(xml, "devices").append(deepcopy(one(xml, "devices/interface")))
            ),
            "a vTPM": add_device("tpm", model="tpm-tis"),
        },
    ),
    "domain.drift": (
        "strong",
        {
            "another UUID": set_text("uuid", "00000000-0000-4000-8000-000000000000"),
            "emulated": lambda case: case.xml(lambda xml: xml.set("type", "qemu")),
            "more vCPUs": set_text("vcpu", "4"),
            "nested": drop("cpu/feature[@name='vmx']"),
            "the CPU's model": set_attribute("cpu", "mode", "host-model"),
            "pmu": set_attribute("features/pmu", "state", "on"),
            "shared pages": drop("memoryBacking/nosharepages"),
            "a kernel of its own": lambda case: case.xml(
                lambda xml: setattr(ET.SubElement(one(xml, "os"), "kernel"), "text", "/tmp/vmlinuz")
            ),
            "after a crash": set_text("on_crash", "restart"),
            "firmware": lambda case: case.xml(
                lambda xml: setattr(ET.SubElement(one(xml, "os"), "loader"), "text", "/tmp/OVMF.fd")
            ),
            "vmport": set_attribute("features/vmport", "state", "on"),
            "machine": set_attribute("os/type", "machine", "pc-i440fx-7.2"),
        },
    ),
    "domain.disks": (
        "strong",
        {
            "another VM's": set_attribute("devices/disk[@device='disk']/source", "file", OTHER_DISK),
            "a writable seed": lambda case: case.xml(
                lambda xml: one(xml, "devices/disk[@device='cdrom']").remove(
                    one(xml, "devices/disk[@device='cdrom']/readonly")
                )
            ),
            "no seed": lambda case: case.xml(
                lambda xml: one(xml, "devices").remove(one(xml, "devices/disk[@device='cdrom']"))
            ),
            "cached": set_attribute("devices/disk[@device='disk']/driver", "cache", "writeback"),
        },
    ),
    "memory.hard_limit": (
        "strong",
        {
            "none": limited("max"),
            "none, first version": limited("9223372036854771712"),
            "looser": limited(str(64 * 1024**3)),
            "tighter": limited(str(600 * 1024**2)),
            "all machines' alone": lambda case: case.process(memory_max={"/machine.slice": str(1024**3)}),
        },
    ),
    "memory.fixed": (
        "strong",
        {
            "more": set_text("memory", str(8 * 1024**2)),
            "balloon": set_attribute("devices/memballoon", "model", "virtio"),
            "hot plug": lambda case: case.xml(
                lambda xml: setattr(ET.SubElement(xml, "maxMemory"), "text", "9")
            ),
        },
    ),
    "memory.not_shared": ("strong", {"merged": swap("mem-merge=off", "mem-merge=on")}),
    "files.directory": (
        "strong",
        {
            "listed": lambda case: case.host(directory=replace(directory_of(case), mode="0755")),
            "QEMU's": lambda case: case.host(directory=replace(directory_of(case), uid=64055)),
        },
    ),
    "files.disks": (
        "strong",
        {
            "root 0644": lambda case: case.file("-root-", mode="0644"),
            "base 0644": lambda case: case.file("practice", mode="0644"),
            "somebody's": lambda case: case.file("-root-", uid=1000),
        },
    ),
    "files.seed": (
        "strong",
        {
            "0644": lambda case: case.file("-seed-", mode="0644"),
            "0640": lambda case: case.file("-seed-", mode="0640"),
        },
    ),
    "files.open": ("strong", {"another VM's": opened(OTHER_DISK), "an ISO": opened("/srv/other.iso")}),
    "image.base": (
        "strong",
        {
            "changed": lambda case: case.file("practice", sha512="0" * 128),
            "another pin": lambda case: replace(
                case, intent=replace(case.intent, pinned=frozenset({"1" * 128}))
            ),
        },
    ),
    "image.overlay": (
        "strong",
        {
            "on another's": lambda case: case.file("-root-", backing=OTHER_DISK),
            "on nothing": lambda case: case.file("-root-", backing=None),
            "data elsewhere": lambda case: case.file("-root-", external_data=True),
            "base on something": lambda case: case.file("practice", backing="/etc/shadow"),
            "an older base": lambda case: replace(
                case, intent=replace(case.intent, domain=replace(case.intent.domain, base_file="newer.qcow2"))
            ),
        },
    ),
    "image.signature": (
        "strong",
        {"pin alone": lambda case: replace(case, intent=replace(case.intent, verified_by="pin"))},
    ),
    "boot.secure": (
        "talos",
        {
            "loader": set_attribute("os/loader", "secure", "no"),
            "smm": set_attribute("features/smm", "state", "off"),
            "no vTPM": lambda case: case.xml(lambda xml: one(xml, "devices").remove(one(xml, "devices/tpm"))),
            "the host's TPM": set_attribute("devices/tpm/backend", "type", "passthrough"),
        },
    ),
    "network.card": (
        "strong",
        {
            "MAC": set_attribute("devices/interface/mac", "address", "52:54:00:00:00:01"),
            "network": set_attribute("devices/interface/source", "network", "default"),
            "bridge": set_attribute("devices/interface/source", "bridge", "br0"),
            "boot ROM": set_attribute("devices/interface/rom", "enabled", "yes"),
        },
    ),
    "network.filter": (
        "strong",
        {
            "none": lambda case: case.domain(binding=None),
            "another filter": bound(lambda xml: one(xml, "filterref").set("filter", "allow-arp")),
            "another address": bound(
                lambda xml: one(xml, "filterref/parameter[@name='IP']").set("value", "10.213.9.1")
            ),
            "any address": bound(
                lambda xml: one(xml, "filterref").remove(one(xml, "filterref/parameter[@name='IP']"))
            ),
            "one address more": bound(
                lambda xml: ET.SubElement(one(xml, "filterref"), "parameter", name="IP", value="10.213.9.1")
            ),
        },
    ),
    "network.rules": (
        "strong",
        {
            "no hook": rule_gone("-j libvirt-I-vnet"),
            "MAC": rule_gone("-s 52:54:00"),
            "address": rule_gone("--ip-src 10.213.9."),
            "ARP": rule_gone("--arp-ip-src 10.213.9."),
            "the last rule": last_drop_gone("ipv4-ip"),
            "IPv6": lambda case: last_drop_gone(f"libvirt-I-{tap_of(case)}")(case),
            "a hole": lambda case: case.rules(
                lambda text: text.replace("-j RETURN\n-j DROP", "-j RETURN\n-p IPv4 -j RETURN\n-j DROP")
            ),
            "all flushed": lambda case: case.rules(lambda _: "Bridge table: nat\n"),
        },
    ),
    "network.mode": (
        "strong",
        {
            "routed": networked(lambda xml: ET.SubElement(xml, "forward", mode="route")),
            "bridge": networked(lambda xml: one(xml, "bridge").set("name", "virbr0")),
            "address": networked(lambda xml: one(xml, "ip").set("address", "10.213.9.2")),
        },
    ),
    "guest.answers": (
        "strong",
        {"degraded": lambda case: case.said(system=["degraded"], failed=["x.service"])},
    ),
    "guest.usr_read_only": (
        "strong",
        {
            "remounted": lambda case: case.said(usr_mode=["rw"]),
            "something over it": lambda case: case.said(usr_mode=["ro", "rw"]),
            "no mount": lambda case: case.said(usr_mode=None),
        },
    ),
    "guest.usr_verity": (
        "strong",
        {
            "a plain device": lambda case: case.said(usr_is=["/dev/vda3"], usr_device=["/dev/vda3"]),
            "something over it": lambda case: case.said(
                usr_mount=["squashfs /dev/mapper/usr", "overlay sysext", "overlay mallory"]
            ),
            "corrupted": lambda case: case.said(verity=["usr: 0 665600 verity C"]),
            "linear": lambda case: case.said(verity=None),
            "writable": lambda case: case.said(mapped=["usr /dev/dm-0 ro=0"]),
        },
    ),
    "guest.usr_write_refused": (
        "strong",
        {
            "by permission alone": lambda case: case.said(usr_write=["Permission denied"]),
            "not refused": lambda case: case.said(usr_write=[""]),
        },
    ),
    "guest.usr_writable_system": ("board", {"as it is": lambda case: case}),
    "guest.autologin": ("strong", {"on": lambda case: case.said(autologin=["yes"])}),
    "guest.ssh": (
        "strong",
        {
            "passwords offered": lambda case: case.guest(offered="publickey,password"),
            "root let in": lambda case: case.guest(offered="root is let in"),
            "passwords set": sshd("passwordauthentication no", "passwordauthentication yes"),
            "root set": sshd("permitrootlogin no", "permitrootlogin yes"),
            "one user more": lambda case: case.said(
                sshd=[*(case.facts.guest.status or {})["sshd"], "allowusers mallory"]
            ),
        },
    ),
    "guest.k3s": (
        "strong",
        {
            "a flag": lambda case: case.said(
                k3s_exec=["/usr/local/bin/k3s server --config /etc/rancher/k3s/config.yaml --token x"]
            ),
            "another version": lambda case: case.said(k3s_installed=["v1.0.0+k3s1"]),
            "disabled": lambda case: case.said(k3s_enabled=["disabled"]),
            "no path unit": lambda case: case.said(**{"unit.k3s-config.path": ["inactive/dead/success"]}),
            "no mount": lambda case: case.said(**{"unit.usr-local-bin.mount": ["failed/failed/exit-code"]}),
        },
    ),
    "guest.firewall": (
        "board",
        {
            "failed": lambda case: case.said(**{"unit.layer1-firewall.service": ["failed/failed/exit-code"]}),
            "off": lambda case: case.said(**{"unit.layer1-firewall.service": ["inactive/dead/success"]}),
        },
    ),
    "talos.version": ("talos", {"older": lambda case: case.talos(version="v1.0.0")}),
    "talos.mutual_tls": ("talos", {"maintenance": lambda case: case.talos(anonymous=True)}),
    "talos.no_ssh": ("talos", {"open": lambda case: case.talos(ssh=True)}),
    "talos.read_only": (
        "talos",
        {"writable": lambda case: case.talos(mounts="/dev/vda / xfs rw,relatime 0 0\n")},
    ),
    "talos.encryption": (
        "talos",
        {
            "one open": lambda case: case.talos(encryption={"STATE": "luks2", "EPHEMERAL": "none"}),
            "one missing": lambda case: case.talos(encryption={"STATE": "luks2"}),
        },
    ),
    "talos.secure_boot": ("talos", {"off": lambda case: case.talos(secure_boot=False)}),
}


def directory_of(case: Case):
    assert case.facts.domain is not None
    assert case.facts.domain.host is not None
    return case.facts.domain.host.directory


def tap_of(case: Case) -> str:
    assert case.facts.domain is not None
    assert case.facts.domain.xml is not None
    return one(case.facts.domain.xml, "devices/interface/target").get("dev", "")


ALWAYS_WEAKER = {"hypervisor.board", "guest.usr_writable_system"}


def test_every_row_has_a_case_that_turns_it_and_no_case_is_of_no_row() -> None:
    assert set(MUTATIONS) == {row.id for row in ROWS}
    assert len({row.id for row in ROWS}) == len(ROWS)
    assert all(ways for _, ways in MUTATIONS.values())


@pytest.mark.parametrize("row", [row.id for row in ROWS if row.id not in ALWAYS_WEAKER])
def test_the_row_holds_where_all_is_well(row: str) -> None:
    base, _ = MUTATIONS[row]
    finding = BASES[base]().finding(row)
    assert finding.verdict == Verdict.HOLDS, finding.evidence
    assert finding.evidence
    assert (finding.means, finding.remedy, finding.key) == ("", "", None)


@pytest.mark.parametrize(
    ("row", "way"),
    [(row, way) for row, (_, ways) in MUTATIONS.items() for way in ways if row not in ALWAYS_WEAKER],
)
def test_breaking_the_thing_turns_the_row(row: str, way: str) -> None:
    base, ways = MUTATIONS[row]
    finding = ways[way](BASES[base]()).finding(row)
    assert finding.verdict == Verdict.BROKEN, finding.evidence
    assert finding.evidence
    assert finding.means
    assert finding.remedy
    assert "{" not in finding.remedy


@pytest.mark.parametrize("row", sorted(ALWAYS_WEAKER))
def test_what_a_board_never_has_is_weaker_by_its_own_key(row: str) -> None:
    finding = board().finding(row)
    assert finding.verdict == Verdict.WEAKER
    assert finding.key is not None
    assert finding.key.startswith("layer1:nodes[0].")


def test_a_board_that_had_a_read_only_usr_would_hold() -> None:
    assert board().said(usr_mode=["ro"]).verdict("guest.usr_writable_system") == Verdict.HOLDS


@pytest.mark.parametrize("base", BASES)
def test_what_nobody_could_read_holds_nowhere(base: str) -> None:
    case = BASES[base]()
    blind = replace(case, facts=Facts(guest=Guest(problem="no route to host")))
    for finding in blind.findings():
        if finding.id not in {"hypervisor.board", "image.signature"}:
            assert finding.verdict == Verdict.UNKNOWN, finding.id
            assert finding.means.startswith("if it is not so: "), finding.id


@pytest.mark.parametrize(
    ("unread", "rows"),
    [
        (lambda case: case.process(label=None), {"svirt.label"}),
        (lambda case: case.host(profiles={case.intent.uuid: None}), {"svirt.profile"}),
        (lambda case: case.process(open_files=None), {"files.open"}),
        (lambda case: case.process(memory_max=None), {"memory.hard_limit"}),
        (
            lambda case: case.process(status={}),
            {
                *("qemu.uid", "qemu.capabilities", "qemu.no_new_privileges", "qemu.seccomp"),
                *("files.disks", "files.seed"),  # whose owner is compared with QEMU's user
            },
        ),
        (lambda case: case.host(rules=None), {"network.rules"}),
        (lambda case: case.host(directory=None), {"files.directory"}),
        (
            lambda case: case.file(".", format=None, backing=None, external_data=None, sha512=None),
            {"image.base", "image.overlay"},
        ),
        (lambda case: case.said(usr_is=None), {"guest.usr_verity"}),
        (lambda case: case.said(usr_write=None), {"guest.usr_write_refused"}),
        (lambda case: case.said(sshd=None), {"guest.ssh"}),
        (lambda case: case.guest(offered=None), {"guest.ssh"}),
        (lambda case: case.domain(network=None), {"network.mode"}),
    ],
)
def test_a_fact_that_is_missing_makes_its_rows_unknown_and_no_other(
    unread: Callable[[Case], Case], rows: set[str]
) -> None:
    turned = {each.id for each in unread(strong()).findings() if each.verdict != Verdict.HOLDS}
    assert turned == rows
    assert all(unread(strong()).verdict(row) == Verdict.UNKNOWN for row in rows)


def test_the_lab_is_weaker_by_its_own_keys_and_holds_otherwise() -> None:
    found = {each.id: each.key for each in lab().findings() if each.verdict != Verdict.HOLDS}
    assert found == {
        "hypervisor.kvm": "layer1:hosts.home.accel",
        "svirt.label": "layer1:hosts.home.svirt",
        "svirt.profile": "layer1:hosts.home.svirt",
        "svirt.asked": "layer1:hosts.home.svirt",
        "memory.hard_limit": "layer1:hosts.home.memory_hard_limit",
        "image.signature": "layer1:images.flatcar.source",
    }
    assert {each.verdict for each in lab().findings()} == {Verdict.HOLDS, Verdict.WEAKER}


def test_what_the_lab_lacks_is_broken_where_the_stack_claims_it() -> None:
    claimed = replace(lab(), intent=strong().intent)
    broken = {each.id for each in claimed.findings() if each.verdict == Verdict.BROKEN}
    assert broken == {
        "hypervisor.kvm",
        "svirt.label",
        "svirt.profile",
        "svirt.asked",
        "memory.hard_limit",
        "domain.drift",
    }


def test_a_wall_that_stands_though_nobody_asked_holds() -> None:
    unasked = replace(strong(), intent=lab().intent)
    for row in ("svirt.label", "svirt.profile", "svirt.asked", "hypervisor.kvm"):
        assert unasked.verdict(row) == Verdict.HOLDS, row


def test_drift_shows_both_sides() -> None:
    evidence = set_text("vcpu", "4")(strong()).finding("domain.drift").evidence
    assert evidence == "vcpu: wanted 1, is 4"


def test_every_device_is_named() -> None:
    evidence = strong().finding("qemu.devices").evidence
    for name in ("4 pcie-root-port", "1 virtio-blk-pci", "1 ide-cd", "1 virtio-net-pci", "1 virtio-rng-pci"):
        assert name in evidence
    assert (
        "qemu-xhci" in append("-device", '{"driver":"qemu-xhci"}')(strong()).finding("qemu.devices").evidence
    )


def test_flatcars_own_extensions_over_usr_are_no_break() -> None:
    case = strong().said(usr_mount=["squashfs /dev/mapper/usr", "overlay sysext"], usr_mode=["ro", "ro"])
    assert case.verdict("guest.usr_verity") == Verdict.HOLDS
    assert case.verdict("guest.usr_read_only") == Verdict.HOLDS


# The threats.
def test_each_threat_has_rows_and_each_row_but_liveness_has_a_threat() -> None:
    assert {threat for row in ROWS for threat in row.threats} == set(Threat)
    assert {row.id for row in ROWS if not row.threats} == {"domain.running", "guest.answers", "talos.version"}


@pytest.mark.parametrize("threat", Threat)
def test_a_threat_is_as_bad_as_its_worst_row(threat: Threat) -> None:
    def verdict(case: Case) -> Verdict:
        rows = summary("s", case.findings())
        assert [row.id for row in rows] == [f"threat.{each}" for each in Threat]
        return next(row.verdict for row in rows if row.id == f"threat.{threat}")

    assert verdict(strong()) == Verdict.HOLDS
    mine = [row.id for row in ROWS if threat in row.threats and MUTATIONS[row.id][0] == "strong"]
    for row in mine:
        way = next(iter(MUTATIONS[row][1].values()))
        assert verdict(way(strong())) == Verdict.BROKEN, row
    assert verdict(lab()) == Verdict.WEAKER
    assert verdict(replace(strong(), facts=Facts())) == Verdict.UNKNOWN


def test_nothing_seen_is_no_threat_averted() -> None:
    assert {row.verdict for row in summary("s", [])} == {Verdict.UNKNOWN}


def test_a_weaker_threat_names_its_keys() -> None:
    row = next(row for row in summary("s", lab().findings()) if row.id == "threat.memory")
    assert row.key == "layer1:hosts.home.memory_hard_limit"
    assert "k3s-1 memory.hard_limit" in row.evidence
