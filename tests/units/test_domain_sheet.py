"""The hardened domain: what the provider emits, through our sheet by the real xsltproc.

`provider_xml/` holds the XML as pulumi-libvirt 0.5.4 hands it to xsltproc, caught there; the aarch64 file
differs from it as the provider's source says (firmware by name besides the path, no graphics).
"""

from __future__ import annotations

import re
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit_support import HERE, STACK, assert_golden, load, minimal

from layer1 import domain_sheet, machine
from layer1.errors import RenderError
from layer1.model import Node, StackConfig

TEMPLATE = domain_sheet.ASSETS / "libvirt" / "domain.xsl"
PROVIDER_XML = HERE / "provider_xml"
_STRONG: dict[str, Any] = {}
_WEAK = {"accel": "tcg", "svirt": "none", "memory_hard_limit": False}
_PI = {"uri": "qemu+ssh://operator@pi/system"}
_DISKS = {
    "data_disks": [{"name": "longhorn", "size_gib": 10}],
    "passthrough_disks": ["/dev/disk/by-id/usb-Key_1"],
}
_TALOS = {"os": "talos", "role": "controlplane", "ssh_authorized_keys": None}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "x86_64-bios-tcg": (_WEAK, {}),
    "x86_64-bios-kvm": (_STRONG, {}),
    "x86_64-bios-kvm-disks": (_STRONG, _DISKS),
    "x86_64-uefi-kvm": (_STRONG, _DISKS | {"firmware": "uefi"}),
    "x86_64-secureboot-kvm": (_STRONG, _DISKS | _TALOS),
    "aarch64-uefi-kvm": (_PI, _DISKS | {"arch": "aarch64"}),
}
POOL = f"/var/lib/libvirt/images/layer1-{STACK}"


def _stack(case: str, on: dict[str, Any] | None = None) -> tuple[StackConfig, Node]:
    host, node = CASES[case]
    host = host if on is None else on
    talos = {"encryption": "tpm"} if case == "x86_64-secureboot-kvm" else {}
    raw = minimal(**node) | {"hosts": {"home": host}, "defaults": {"memory_mib": 2048}, "talos": talos}
    stack = load(raw)
    return stack, stack.nodes[0]


def _xslt(sheet: str, document: Path, folder: Path) -> str:
    path = folder / "sheet.xsl"
    path.write_text(sheet)
    done = subprocess.run(["xsltproc", str(path), str(document)], check=True, capture_output=True, text=True)
    assert not done.stderr
    return done.stdout


def _hardened(case: str, folder: Path) -> str:
    stack, node = _stack(case)
    return _xslt(machine.machine(stack, node).sheet, PROVIDER_XML / f"{case}.xml", folder)


def _parse(text: str) -> ET.Element:
    return ET.fromstring(text)  # noqa: S314 - our own


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def domain(case: str, tmp_path: Path) -> ET.Element:
    return _parse(_hardened(case, tmp_path))


def _pretty(text: str) -> str:
    root = _parse(text)
    for element in root.iter():
        element.text = (element.text or "").strip() or None
        element.tail = None
    ET.indent(root, " ")
    return ET.tostring(root, encoding="unicode") + "\n"


def _one(element: ET.Element, path: str) -> ET.Element:
    found = element.findall(path)
    assert len(found) == 1, path
    return found[0]


def test_the_hardened_domain_is_the_golden_one(case: str, tmp_path: Path) -> None:
    assert_golden(f"domain/{case}.xml", _pretty(_hardened(case, tmp_path)))


def test_libvirts_schema_takes_the_hardened_domain(case: str, tmp_path: Path) -> None:
    path = tmp_path / "domain.xml"
    path.write_text(_hardened(case, tmp_path))
    done = subprocess.run(
        ["virt-xml-validate", str(path), "domain"], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_nothing_is_attached_that_nobody_needs(domain: ET.Element) -> None:
    for kind in (
        "sound",
        "serial",
        "console",
        "parallel",
        "graphics",
        "video",
        "channel",
        "watchdog",
        "input",
    ):
        assert not domain.findall(f"devices/{kind}"), kind
    for kind in ("redirdev", "hostdev", "filesystem", "smartcard", "shmem", "panic", "hub", "vsock"):
        assert not domain.findall(f"devices/{kind}"), kind
    assert {disk.get("device") for disk in domain.findall("devices/disk")} == {"disk", "cdrom"}
    assert _one(domain, "devices/controller[@type='usb']").attrib == {"type": "usb", "model": "none"}
    assert _one(domain, "devices/memballoon").attrib == {"model": "none"}
    assert _one(domain, "devices/audio").attrib == {"id": "1", "type": "none"}
    assert not [item for item in domain.iter() if "commandline" in item.tag]


_UNWANTED = [
    *("graphics", "video", "channel", "console", "serial", "parallel", "sound", "audio", "input", "watchdog"),
    *("memballoon", "rng", "redirdev", "hostdev", "panic", "tpm"),
]


@pytest.mark.parametrize("kind", _UNWANTED)
def test_what_a_provider_adds_by_itself_is_taken_away(kind: str, tmp_path: Path) -> None:
    stack, node = _stack("x86_64-bios-kvm")
    text = (PROVIDER_XML / "x86_64-bios-kvm.xml").read_text()
    more = f'<{kind} mark="1"/><controller type="usb" mark="1"/></devices><commandline mark="1"/>'
    source = tmp_path / "provider.xml"
    source.write_text(text.replace("</devices>", more))
    result = _xslt(machine.machine(stack, node).sheet, source, tmp_path)
    assert "mark=" not in result
    assert _pretty(result) == _pretty(_hardened("x86_64-bios-kvm", tmp_path))


def test_only_devices_of_the_allow_list_are_there(case: str, domain: ET.Element) -> None:
    allowed = {"emulator", "disk", "interface", "controller", "memballoon", "audio", "rng"}
    allowed |= {"tpm"} if "secureboot" in case else set()
    assert {device.tag for device in _one(domain, "devices")} <= allowed
    controllers = {device.get("type") for device in domain.findall("devices/controller")}
    assert controllers == ({"usb", "scsi"} if case.startswith("aarch64") else {"usb"})


def test_disks_are_virtio_files_in_the_pool_with_discard(case: str, domain: ET.Element) -> None:
    disks = domain.findall("devices/disk[@device='disk']")
    kinds = [disk.get("type") for disk in disks]
    assert kinds == (
        ["file"] if case in ("x86_64-bios-tcg", "x86_64-bios-kvm") else ["file", "file", "block"]
    )
    for disk in disks:
        assert _one(disk, "target").get("bus") == "virtio"
        driver = _one(disk, "driver").attrib
        assert driver["type"] == ("raw" if disk.get("type") == "block" else "qcow2"), "never probed"
        assert (driver["discard"], driver["detect_zeroes"]) == ("unmap", "unmap")
        assert (driver["cache"], driver["io"]) == ("none", "native")
    sources = [dict(_one(disk, "source").attrib) for disk in disks]
    assert (
        sources
        == [
            {"file": f"{POOL}/k3s-1-root-0123456789ab.qcow2"},
            {"file": f"{POOL}/k3s-1-data-longhorn.qcow2"},
            {"dev": "/dev/disk/by-id/usb-Key_1"},
        ][: len(sources)]
    )
    assert not domain.findall(".//source[@pool]"), "no AppArmor rule is written for these"


def test_the_seed_is_a_read_only_cdrom(case: str, domain: ET.Element) -> None:
    disk = _one(domain, "devices/disk[@device='cdrom']")
    assert disk.get("type") == "file"
    assert _one(disk, "source").attrib == {"file": f"{POOL}/k3s-1-seed-0123456789ab.iso"}
    assert _one(disk, "target").attrib == {
        "dev": "sda",
        "bus": "scsi" if case.startswith("aarch64") else "sata",
    }
    assert _one(disk, "driver").get("type") == "raw"
    assert _one(disk, "readonly") is not None
    assert _one(disk, "serial").text == "cloudinit", "by this the provider tells the seed from the disks"


def test_the_card_is_bound_to_its_mac_and_address(case: str, domain: ET.Element) -> None:
    _, node = _stack(case)
    card = _one(domain, "devices/interface")
    assert _one(card, "mac").get("address") == node.mac.upper()
    assert _one(card, "model").get("type") == "virtio"
    assert _one(card, "rom").get("enabled") == "no"
    filtered = _one(card, "filterref")
    assert filtered.get("filter") == "clean-traffic"
    assert [dict(item.attrib) for item in filtered] == [{"name": "IP", "value": node.ip}]


def test_the_label_is_asked_for_where_the_host_has_it(case: str, domain: ET.Element) -> None:
    labels = [dict(item.attrib) for item in domain.findall("seclabel")]
    strong = [{"type": "dynamic", "model": "apparmor", "relabel": "yes"}]
    assert labels == ([] if case == "x86_64-bios-tcg" else strong)


def test_memory_is_bounded_and_not_shared(case: str, domain: ET.Element) -> None:
    limits = [(item.get("unit"), item.text) for item in domain.findall("memtune/hard_limit")]
    assert limits == ([] if case == "x86_64-bios-tcg" else [("MiB", "3072")])
    assert _one(domain, "memoryBacking/nosharepages") is not None
    assert (_one(domain, "memory").get("unit"), _one(domain, "memory").text) == ("MiB", "2048")


def test_the_rest_of_the_machine(case: str, domain: ET.Element) -> None:
    _, node = _stack(case)
    arm, emulated = case.startswith("aarch64"), case.endswith("tcg")
    assert _one(domain, "uuid").text == node.uuid
    assert domain.get("type") == ("qemu" if emulated else "kvm")
    assert _one(domain, "cpu").get("mode") == ("maximum" if emulated else "host-passthrough")
    disabled = {item.get("name") for item in domain.findall("cpu/feature[@policy='disable']")}
    assert disabled == (set() if arm or emulated else {"vmx", "svm"})
    kind = _one(domain, "os/type")
    assert kind.get("arch") == node.arch
    assert re.fullmatch("virt-.*" if arm else "pc-q35-.*", kind.get("machine", ""))
    assert "firmware" not in _one(domain, "os").attrib, "libvirt 9 refuses it besides a path"
    assert bool(domain.findall("os/loader")) == (node.firmware == "uefi")
    ends = {name: _one(domain, name).text for name in ("on_poweroff", "on_reboot", "on_crash")}
    assert ends == {"on_poweroff": "destroy", "on_reboot": "restart", "on_crash": "destroy"}
    pm = [[item.get("enabled") for item in element] for element in domain.findall("pm")]
    assert pm == ([] if arm else [["no", "no"]]), "libvirt refuses these on the machine virt"
    assert _one(domain, "clock").get("offset") == "utc"
    random = _one(domain, "devices/rng")
    assert random.get("model") == "virtio"
    assert _one(random, "rate").attrib == {"bytes": "1024", "period": "1000"}
    assert bool(domain.findall("features/pmu[@state='off']")) == (not emulated)
    assert bool(domain.findall("features/vmport[@state='off']")) == (not arm)


def test_secure_boot_and_the_vtpm_come_together_or_not_at_all(case: str, domain: ET.Element) -> None:
    secure = "secureboot" in case
    loaders = [loader.get("secure") for loader in domain.findall("os/loader")]
    assert ("yes" in loaders) == secure
    assert bool(domain.findall("features/smm[@state='on']")) == secure, "else the guest can change the keys"
    tpms = domain.findall("devices/tpm")
    assert [tpm.get("model") for tpm in tpms] == (["tpm-crb"] if secure else [])
    for tpm in tpms:
        backend = {"type": "emulator", "version": "2.0", "persistent_state": "yes"}
        assert _one(tpm, "backend").attrib == backend, "a replaced domain keeps the disk's key"


def test_uefi_is_found_by_path_not_by_libvirt() -> None:
    for case, code in (
        ("x86_64-uefi-kvm", "/usr/share/OVMF/OVMF_CODE_4M.fd"),
        ("aarch64-uefi-kvm", "/usr/share/AAVMF/AAVMF_CODE.fd"),
        ("x86_64-secureboot-kvm", "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd"),
        ("x86_64-bios-kvm", None),
    ):
        assert machine.machine(*_stack(case)).firmware == code


def test_the_arguments_that_the_provider_has() -> None:
    described = machine.machine(*_stack("x86_64-bios-kvm-disks"))
    assert (described.domain_name, described.domain_type) == (f"layer1-{STACK}-k3s-1", "kvm")
    assert (described.arch, described.machine, described.cpu_mode) == ("x86_64", "q35", "host-passthrough")
    assert (described.memory_mib, described.vcpus) == (2048, 2)
    assert described.passthrough_disks == ("/dev/disk/by-id/usb-Key_1",)
    assert machine.machine(*_stack("x86_64-bios-tcg")).cpu_mode == "maximum"
    assert machine.machine(*_stack("aarch64-uefi-kvm")).machine == "virt"


@pytest.mark.parametrize(("memory", "limit"), [(512, 1536), (2048, 3072), (4096, 5120), (8192, 10240)])
def test_the_hard_limit_leaves_room_for_qemu(memory: int, limit: int) -> None:
    assert domain_sheet.hard_limit_mib(memory) == limit
    stack = load(minimal(memory_mib=memory))
    sheet = _parse(machine.machine(stack, stack.nodes[0]).sheet)
    assert _one(sheet, "{*}param[@name='hard-limit-mib']").text == str(limit)


# The sheet itself.
PARAMETERS = {
    "uuid": "7135ee94-0ee7-5dbd-a2cf-cd241921b62e",
    "ip": "10.11.0.20",
    "virtual-ip": "",
    "pool-path": POOL,
    "accel": "kvm",
    "arch": "x86_64",
    "svirt": "apparmor",
    "hard-limit-mib": "3072",
    "secure-boot": "no",
}


def test_the_place_for_block_devices_is_marked() -> None:
    assert TEMPLATE.read_text().count("<!-- USB_PASSTHROUGH_PLACEHOLDER -->") == 1


def _reindent(text: str) -> str:
    return re.sub(r"\n +", "\n\t\t", text)


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL),
        lambda text: re.sub(r"<!--", "<!-- changed ", text),
        lambda text: text.replace("</xsl:template>", "</xsl:template><!-- more -->\n\n\n"),
        _reindent,
        lambda text: text.replace("><xsl:", ">\n      <xsl:"),
        lambda text: text.replace("    | devices/parallel", "\n\n        | devices/parallel"),
    ],
)
def test_a_comment_or_an_indentation_changes_no_byte(edit: Any, tmp_path: Path) -> None:
    copy = tmp_path / TEMPLATE.name
    text = edit(TEMPLATE.read_text())
    assert text != TEMPLATE.read_text()
    copy.write_text(text)
    assert domain_sheet.render_sheet(copy, PARAMETERS) == domain_sheet.render_sheet(TEMPLATE, PARAMETERS)


def test_any_other_edit_changes_the_sheet(tmp_path: Path) -> None:
    copy = tmp_path / TEMPLATE.name
    copy.write_text(TEMPLATE.read_text().replace('model="none"', 'model="virtio"', 1))
    assert domain_sheet.render_sheet(copy, PARAMETERS) != domain_sheet.render_sheet(TEMPLATE, PARAMETERS)


def test_a_sheet_and_its_parameters_must_match() -> None:
    with pytest.raises(RenderError, match=r"domain\.xsl declares"):
        domain_sheet.render_sheet(TEMPLATE, PARAMETERS | {"more": ""})
    with pytest.raises(RenderError, match=r"domain\.xsl declares"):
        domain_sheet.render_sheet(TEMPLATE, {})


# Characters that XML 1.0 can hold, those that mean something to it among them; outer space is not kept.
_TEXT = st.text(
    st.sampled_from("<>&'\"{}$]?!-/\\ \n\t") | st.characters(exclude_categories=["Cs", "Cc", "Cn"]),
    max_size=20,
).map(str.strip)


@given(_TEXT, _TEXT, _TEXT)
def test_the_same_parameters_give_the_same_bytes(uuid: str, ip: str, pool: str) -> None:
    parameters = PARAMETERS | {"uuid": uuid, "ip": ip, "pool-path": pool}
    assert domain_sheet.render_sheet(TEMPLATE, parameters) == domain_sheet.render_sheet(TEMPLATE, parameters)


@settings(max_examples=15)
@given(_TEXT, _TEXT, _TEXT)
def test_any_text_stays_a_text(
    tmp_path_factory: pytest.TempPathFactory, uuid: str, ip: str, pool: str
) -> None:
    sheet = domain_sheet.render_sheet(TEMPLATE, PARAMETERS | {"uuid": uuid, "ip": ip, "pool-path": pool})
    folder = tmp_path_factory.mktemp("sheet")
    root = _parse(_xslt(sheet, PROVIDER_XML / "x86_64-bios-kvm.xml", folder))
    assert (_one(root, "uuid").text or "") == uuid
    assert _one(root, "devices/interface/filterref/parameter").get("value") == ip
    assert _one(root, "devices/disk[@device='disk']/source").get("file") == (
        f"{pool}/k3s-1-root-0123456789ab.qcow2"
    )
    assert {device.tag for device in _one(root, "devices")} == {
        *("disk", "interface", "controller", "memballoon", "audio", "rng")
    }


def test_a_virtual_address_is_let_through_besides_the_nodes_own(tmp_path: Path) -> None:
    sheet = domain_sheet.render_sheet(TEMPLATE, PARAMETERS | {"virtual-ip": "10.11.0.9"})
    root = _parse(_xslt(sheet, PROVIDER_XML / "x86_64-bios-kvm.xml", tmp_path))
    bound = _one(root, "devices/interface/filterref").findall("parameter")
    assert [(each.get("name"), each.get("value")) for each in bound] == [
        ("IP", PARAMETERS["ip"]),
        ("IP", "10.11.0.9"),
    ]


# Volumes and pools, as the provider's volume_def.go and pool_def.go write them.
_VOLUME = """<volume><name>k3s-1-seed.iso</name><allocation unit="bytes">0</allocation>
<capacity unit="bytes">1048576</capacity><target><format type="iso"></format>{permissions}</target>
</volume>"""
_POOL = """<pool type="dir"><name>layer1-unit</name><target><path>/srv/layer1-unit</path></target></pool>"""


@pytest.mark.parametrize("permissions", ["", "<permissions><mode>644</mode></permissions>"])
def test_a_volume_is_readable_by_its_owner_alone(permissions: str, tmp_path: Path) -> None:
    path = tmp_path / "volume.xml"
    path.write_text(_VOLUME.format(permissions=permissions))
    result = _xslt(domain_sheet.volume_sheet(), path, tmp_path)
    assert [item.text for item in _parse(result).iter("mode")] == ["0600"]
    path.write_text(result)
    subprocess.run(["virt-xml-validate", str(path), "storagevol"], check=True, capture_output=True)


def test_a_pools_directory_cannot_be_listed(tmp_path: Path) -> None:
    path = tmp_path / "pool.xml"
    path.write_text(_POOL)
    result = _xslt(domain_sheet.pool_sheet(), path, tmp_path)
    assert [item.text for item in _parse(result).iter("mode")] == ["0711"]
    assert [item.text for item in _parse(result).iter("path")] == ["/srv/layer1-unit"]
    path.write_text(result)
    subprocess.run(["virt-xml-validate", str(path), "storagepool"], check=True, capture_output=True)


@pytest.mark.engine
@pytest.mark.parametrize("case", [name for name in CASES if name.startswith("x86_64")])
def test_libvirt_makes_a_qemu_command_of_it(case: str, tmp_path: Path) -> None:
    # Emulated, so that the test needs no KVM and no AppArmor; the devices are the same.
    text = (PROVIDER_XML / f"{case}.xml").read_text()
    source = tmp_path / "provider.xml"
    source.write_text(text.replace('type="kvm"', 'type="qemu"').replace("host-passthrough", "maximum"))
    stack, node = _stack(case, _WEAK)
    domain = tmp_path / "domain.xml"
    domain.write_text(_xslt(machine.machine(stack, node).sheet, source, tmp_path))
    done = subprocess.run(
        ["virsh", "--connect", "qemu:///system", "domxml-to-native", "qemu-argv", str(domain)],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    command = done.stdout
    for part in (
        "-nodefaults",
        "-no-user-config",
        "mem-merge=off",
        "usb=off",
        "-display none",
        "elevateprivileges=deny",
    ):
        assert part in command, part
    for part in (
        '"driver":"usb',
        "isa-serial",
        "virtserialport",
        "virtio-balloon",
        "-vga",
        "-spice",
        "-vnc",
        "i6300esb",
    ):
        assert part not in command, part
    assert '"driver":"ide-cd","bus":"ide.0"' in command
    assert f"-uuid {node.uuid}" in command
