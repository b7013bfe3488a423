"""Every judge of a host: where its check holds, what breaks it, what the stack's own keys make of that."""

from __future__ import annotations

from typing import Any

import pytest
from doctor_support import (
    ALL_CAPABILITIES,
    GIB,
    HUNG,
    NOTHING,
    RAN,
    WEAK,
    host,
    kvm,
    libvirt,
    pool,
    rows,
    steps,
    wants,
)

from layer1.doctor.check import Answer, Check, findings, judged
from layer1.doctor.examine import HOST_CHECKS
from layer1.doctor.host_checks import judge_clock
from layer1.doctor.host_probe import Daemon, Rom
from layer1.findings import Verdict, failed
from layer1.model import Board, HostConfig

NO_CAPABILITY = Daemon("libvirtd", "libvirtd (enforce)", ALL_CAPABILITIES & ~(1 << 24), "8388608")
ACCEL, SVIRT = "layer1:hosts.home.accel", "layer1:hosts.home.svirt"
LIMIT = "layer1:hosts.home.memory_hard_limit"

# (row, what is changed on a good host, words of the evidence, words of the remedy)
BROKEN: list[tuple[str, dict[str, Any], str, str]] = [
    ("libvirt.version", libvirt(version=(8, 10, 0)), "libvirt 8.10.0", "upgrade"),
    (
        "libvirt.group",
        host(groups=["operator"]),
        "operator is in operator",
        "usermod -aG libvirt operator",
    ),
    ("libvirt.guests", libvirt(guests={}), "x86_64 missing", "apt-get install qemu-system-x86"),
    ("libvirt.guests", wants(arches=("aarch64",)), "aarch64 missing", "accel: tcg"),
    ("apparmor.kernel", host(apparmor=None), "no AppArmor", "apparmor=1"),
    ("apparmor.kernel", host(apparmor="N"), "enabled is N", "apparmor=1"),
    (
        "apparmor.libvirtd",
        host(daemon=Daemon("libvirtd", "unconfined", 0, "unlimited")),
        "libvirtd runs as unconfined",
        "aa-enforce /etc/apparmor.d/usr.sbin.libvirtd",
    ),
    (
        "apparmor.libvirtd",
        host(daemon=Daemon("virtqemud", "virtqemud (complain)", 0, "unlimited")),
        "(complain)",
        "restart virtqemud",
    ),
    ("apparmor.libvirtd", host(daemon=Daemon("libvirtd", None, 0, "0")), "gives it no label", "aa-enforce"),
    ("apparmor.secmodel", libvirt(secmodels=("none", "dac")), "none, dac", "restart libvirtd"),
    (
        "qemu_conf.security_driver",
        host(qemu_conf='security_driver = "none"'),
        'security_driver is "none"',
        "sed -i",
    ),
    (
        "qemu_conf.security_driver",
        host(qemu_conf='security_driver = ["selinux"]'),
        'security_driver is ["selinux"]',
        "sed -i",
    ),
    (
        "qemu_conf.security_driver",
        host(qemu_conf="", apparmor=None),
        "finds none here",
        "first AppArmor",
    ),
    (
        "qemu_conf.require_confined",
        host(qemu_conf="#security_require_confined = 1\n"),
        "not set, which means 0",
        "tee -a /etc/libvirt/qemu.conf",
    ),
    (
        "qemu_conf.require_confined",
        host(qemu_conf="security_require_confined = 0\n"),
        "security_require_confined is 0",
        "sed -i",
    ),
    ("qemu_conf.seccomp", host(qemu_conf="seccomp_sandbox = 0"), "seccomp_sandbox is 0", "sed -i"),
    ("qemu_conf.seccomp", host(seccomp=False), "no seccomp", "kernel"),
    ("kvm.runs", kvm(rom=HUNG), "/dev/kvm opens, and that is all", "accel: tcg"),
    ("kvm.runs", kvm(rom=Rom("ended", "status 1: no")), "end QEMU (status 1: no)", "accel: tcg"),
    ("kvm.runs", kvm(opens=False, problem="No such file or directory", rom=None), "does not open", "VT-x"),
    ("kvm.runs", kvm(qemu_may_open=False), "QEMU's user may not open it", "chgrp kvm /dev/kvm"),
    ("kvm.level", kvm(rom=HUNG), "could only be emulated", "KVM"),
    (
        "cpu.mitigations",
        host(vulnerabilities={"mds": "Vulnerable: no microcode"}),
        "mds (Vulnerable: no microcode)",
        "intel-microcode",
    ),
    (
        "cpu.mitigations",
        host(vulnerabilities={"mds": "Mitigation: Clear CPU buffers; SMT vulnerable"}),
        "SMT vulnerable",
        "nosmt",
    ),
    ("cpu.iommu", host(iommu_groups=0), "no IOMMU groups", "intel_iommu=on"),
    ("memory.ksm", host(ksm_run="1"), "run is 1", "echo 2 | sudo tee /sys/kernel/mm/ksm/run"),
    ("memory.cgroup", host(memory_controller=None), "no control group", "cgroup_enable=memory"),
    ("memory.memlock", host(daemon=NO_CAPABILITY), "lacks CAP_SYS_RESOURCE", "LimitMEMLOCK=infinity"),
    ("clock.synchronised", host(clock=False), "no time service", "chrony"),
    ("pool.path", steps(1, mode=0o750), "may not pass /srv (0:0 0750)", "chmod o+x /srv"),
    ("pool.path", steps(2, mode=0o777), "others than root may write to /srv/pool", "chmod go-w /srv/pool"),
    ("pool.path", steps(1, uid=1000), "others than root may write to /srv ", "chown root: /srv"),
    ("pool.path", steps(1, mode=0o775, gid=50), "others than root may write to /srv ", "chmod go-w /srv"),
    ("pool.filesystem", pool(filesystem="tmpfs"), "lost with a reboot", "pool_path"),
    ("pool.filesystem", pool(filesystem="nfs4"), "does not keep owners", "pool_path"),
    ("pool.space", pool(free_bytes=39 * GIB), "39.0 GiB free", "lower disk_gib"),
    (
        "firmware.files",
        wants(files=("/usr/share/OVMF/gone.fd",)),
        "missing: /usr/share/OVMF/gone.fd",
        "apt-get install ovmf",
    ),
    (
        "firmware.files",
        wants(files=("/usr/share/AAVMF/gone.fd",)),
        "missing",
        "apt-get install qemu-efi-aarch64",
    ),
    ("swtpm", host(programs={"swtpm": None, "swtpm_setup": "/x"}), "missing: swtpm", "swtpm-tools"),
    ("network.overlap", wants(bridge="another"), "10.11.0.0/24 by l1-bridge", "layer1:network.cidr"),
    ("network.overlap", wants(cidr="192.168.0.0/16"), "192.168.1.0/24 by eth0", "layer1:network.cidr"),
]


def test_on_a_good_host_every_row_holds_and_asks_for_nothing() -> None:
    found = rows()
    assert {row.verdict for row in found.values()} == {Verdict.HOLDS}, found
    assert set(found) == {check.id for check in HOST_CHECKS}
    assert all(row.evidence and not row.means and not row.remedy for row in found.values())


@pytest.mark.parametrize(("row", "change", "evidence", "remedy"), BROKEN)
def test_what_breaks_a_row_says_what_is_lost_and_what_mends_it(
    row: str, change: dict[str, Any], evidence: str, remedy: str
) -> None:
    found = rows(**change)[row]
    assert found.verdict == Verdict.BROKEN
    assert evidence in found.evidence
    assert remedy in found.remedy
    assert found.means
    assert found.key is None


def test_every_check_has_a_case_that_breaks_it() -> None:
    broken = {row for row, *_ in BROKEN} | {"libvirt.reachable"}  # unknown is its only failure
    assert broken == {check.id for check in HOST_CHECKS}


@pytest.mark.parametrize("unreachable", ["facts", "libvirt"])
def test_what_cannot_be_learned_is_unknown_and_never_holds(unreachable: str) -> None:
    found = rows(**{unreachable: NOTHING})
    held = {identity for identity, row in found.items() if row.verdict == Verdict.HOLDS}
    other = rows(**{"libvirt" if unreachable == "facts" else "facts": NOTHING})
    assert held.isdisjoint(identity for identity, row in other.items() if row.verdict == Verdict.HOLDS)
    for row in found.values():
        if row.verdict != Verdict.HOLDS:
            assert (row.verdict, row.evidence, row.remedy) == (Verdict.UNKNOWN, "no answer", "ask again")
            assert row.means
    assert failed(found.values())


def test_a_host_that_says_nothing_is_unknown_on_every_row_and_a_weak_stack_is_no_excuse() -> None:
    found = rows(facts=NOTHING, libvirt=NOTHING, config=WEAK)
    assert {row.verdict for row in found.values()} == {Verdict.UNKNOWN}


@pytest.mark.parametrize(
    ("row", "change", "key"),
    [
        ("apparmor.kernel", host(apparmor=None), SVIRT),
        ("apparmor.libvirtd", host(daemon=Daemon("libvirtd", None, 0, "0")), SVIRT),
        ("apparmor.secmodel", libvirt(secmodels=("none", "dac")), SVIRT),
        ("qemu_conf.security_driver", host(qemu_conf="", apparmor=None), SVIRT),
        ("qemu_conf.require_confined", host(qemu_conf=""), SVIRT),
        ("kvm.runs", kvm(rom=HUNG), ACCEL),
        ("kvm.runs", kvm(opens=False, problem="No such device", rom=None), ACCEL),
        ("kvm.level", {}, ACCEL),
        ("cpu.mitigations", host(vulnerabilities={"mds": "Vulnerable"}), ACCEL),
        ("cpu.iommu", host(iommu_groups=0), ACCEL),
        ("memory.cgroup", host(memory_controller=None), LIMIT),
        ("memory.memlock", host(daemon=NO_CAPABILITY), LIMIT),
    ],
)
def test_what_the_stack_gave_up_is_weaker_by_choice_and_names_the_key(
    row: str, change: dict[str, Any], key: str
) -> None:
    found = rows(**change, config=WEAK)[row]
    assert (found.verdict, found.key) == (Verdict.WEAKER, key)
    assert found.evidence
    assert found.means
    assert not failed([found])


def test_a_weak_stack_on_a_good_host_still_reads_what_the_host_can() -> None:
    found = rows(config=WEAK)
    assert "run under /dev/kvm" in found["kvm.runs"].evidence
    assert found["kvm.runs"].verdict == Verdict.HOLDS
    assert [row.id for row in found.values() if row.verdict == Verdict.WEAKER] == ["kvm.level"]


@pytest.mark.parametrize("row", ["qemu_conf.seccomp", "memory.ksm", "pool.path", "network.overlap"])
def test_no_key_of_a_stack_excuses_what_it_does_not_choose(row: str) -> None:
    for identity, change, *_ in BROKEN:
        if identity == row:
            assert rows(**change, config=WEAK)[row].verdict == Verdict.BROKEN


def test_emulation_that_does_not_run_is_broken_where_it_was_chosen() -> None:
    found = rows(**kvm(emulated=Rom("missing"), rom=RAN), config=WEAK)["kvm.runs"]
    assert found.verdict == Verdict.BROKEN
    assert found.means == "no guest starts at all"
    assert "qemu-system-x86" in found.remedy


def test_a_kvm_that_is_closed_to_this_user_alone_is_unknown() -> None:
    found = rows(**kvm(opens=False, problem="Permission denied", rom=None))["kvm.runs"]
    assert found.verdict == Verdict.UNKNOWN
    assert "usermod -aG kvm operator" in found.remedy


def test_a_kvm_that_cannot_be_tried_is_unknown() -> None:
    assert rows(**kvm(rom=Rom("missing")))["kvm.runs"].verdict == Verdict.UNKNOWN


def test_settings_that_cannot_be_read_are_unknown() -> None:
    closed = rows(**host(qemu_conf=None, qemu_conf_problem="/etc/libvirt/qemu.conf: Permission denied"))
    damaged = rows(**host(qemu_conf="security_driver = "))
    for row in ("qemu_conf.security_driver", "qemu_conf.require_confined", "qemu_conf.seccomp"):
        assert (closed[row].verdict, damaged[row].verdict) == (Verdict.UNKNOWN, Verdict.UNKNOWN)
        assert "sudo" in closed[row].remedy


@pytest.mark.parametrize(
    ("row", "change"),
    [
        ("memory.memlock", host(daemon=None)),
        ("apparmor.libvirtd", host(daemon=None)),
        ("cpu.mitigations", host(vulnerabilities=None)),
        ("clock.synchronised", host(clock=None)),
        ("network.overlap", host(routes=None)),
        ("pool.path", pool(qemu_ids=None)),
    ],
)
def test_one_fact_that_is_missing_is_one_unknown_row(row: str, change: dict[str, Any]) -> None:
    assert rows(**change)[row].verdict == Verdict.UNKNOWN


def test_more_than_enough_is_well() -> None:
    unlimited = Daemon("libvirtd", "libvirtd (enforce)", 0, "unlimited")
    assert rows(**host(daemon=unlimited))["memory.memlock"].verdict == Verdict.HOLDS
    assert rows(**host(user="root", groups=["root"]))["libvirt.group"].verdict == Verdict.HOLDS
    assert rows(**host(ksm_run=None))["memory.ksm"].verdict == Verdict.HOLDS
    assert rows(**libvirt(version=(11, 3, 0)))["libvirt.version"].verdict == Verdict.HOLDS
    assert rows(**host(qemu_conf=""))["qemu_conf.security_driver"].verdict == Verdict.HOLDS
    # What the stack has there already is not asked for again; a sticky folder lets nobody replace things.
    assert rows(**pool(free_bytes=10 * GIB, used_bytes=30 * GIB))["pool.space"].verdict == Verdict.HOLDS
    assert rows(**steps(1, mode=0o1777))["pool.path"].verdict == Verdict.HOLDS
    assert rows(**steps(1, mode=0o775))["pool.path"].verdict == Verdict.HOLDS, "its group is root's"
    listed = rows(**host(qemu_conf='security_driver = ["selinux", "apparmor"]'))
    assert listed["qemu_conf.security_driver"].verdict == Verdict.HOLDS
    assert rows(**pool(nearest="/srv"))["pool.path"].evidence.startswith("/srv/pool is not there yet")


def test_rows_that_no_node_needs_are_left_out() -> None:
    found = rows(**wants(arches=(), disk_gib=0, files=(), vtpm=False, cidr=""))
    left_out = {check.id for check in HOST_CHECKS} - set(found)
    assert left_out == {"libvirt.guests", "pool.space", "firmware.files", "swtpm", "network.overlap"}


def test_a_nested_host_says_so_and_needs_no_iommu_of_its_own() -> None:
    found = rows(**host(virtual=True, iommu_groups=0))
    assert "nested" in found["kvm.level"].evidence
    assert (found["kvm.level"].verdict, found["cpu.iommu"].verdict) == (Verdict.HOLDS, Verdict.HOLDS)


def test_a_board_that_is_a_host_has_no_iommu_by_choice() -> None:
    config = HostConfig(pool_path="/srv/pool", board=Board.RPI4)
    found = rows(**host(iommu_groups=0), config=config)["cpu.iommu"]
    assert (found.verdict, found.key) == (Verdict.WEAKER, "layer1:hosts.home.board")


def test_only_a_stack_in_which_nothing_reads_the_time_may_have_a_free_running_clock() -> None:
    free = host(clock=False)
    assert rows(**free, **wants(timeless=True))["clock.synchronised"].verdict == Verdict.WEAKER
    assert rows(**free, config=WEAK)["clock.synchronised"].verdict == Verdict.BROKEN
    assert judge_clock(True, None).verdict == Verdict.HOLDS


def test_what_confines_is_not_recommended_where_it_would_stop_libvirt() -> None:
    """`security_require_confined` without any driver: libvirt then starts no guest at all."""
    remedy = rows(**host(qemu_conf="", apparmor=None))["qemu_conf.require_confined"].remedy
    assert remedy.startswith("first AppArmor in the kernel")
    assert not rows(**host(qemu_conf=""))["qemu_conf.require_confined"].remedy.startswith("first")


def test_a_remote_user_is_the_one_who_joins_the_group() -> None:
    config = HostConfig(uri="qemu+ssh://admin@attic/system", pool_path="/srv/pool")
    assert "usermod -aG libvirt admin" in rows(**host(groups=[]), config=config)["libvirt.group"].remedy


def test_a_question_that_does_not_arise_makes_no_row() -> None:
    asked: Check[Answer | None] = Check(id="x", what="x", means="y", judge=lambda view: view)
    assert findings("home", [asked], None) == []
    assert findings("home", [asked], judged(False, "seen", "mend"))[0].means == "y"


def test_the_evidence_says_what_was_seen() -> None:
    """Words that a reader decides by, on both sides."""
    physical, virtual = rows(), rows(**host(virtual=True))
    assert physical["kvm.level"].evidence == "guests run by KVM; the host is a physical machine"
    assert "the host is a virtual machine itself; guests are nested" in virtual["kvm.level"].evidence
    assert physical["cpu.mitigations"].evidence == "2 known flaws, none open; microcode 0xf0"
    assert "microcode" not in rows(**host(microcode=None))["cpu.mitigations"].evidence
    assert "equals root on the host" in physical["libvirt.group"].evidence
    assert "equals root" not in rows(**host(groups=["operator"]))["libvirt.group"].evidence
    assert physical["memory.memlock"].evidence.endswith("limited to 8388608 bytes")
    unlimited = Daemon("libvirtd", "libvirtd (enforce)", 0, "unlimited")
    assert rows(**host(daemon=unlimited))["memory.memlock"].evidence.endswith("limited to unlimited")
    assert f"take {ACCEL} away" in rows(config=WEAK)["kvm.level"].remedy
    flawed = {"mds": "Vulnerable"}
    outer = "the outer host has to do it"
    assert outer in rows(**host(virtual=True, vulnerabilities=flawed))["cpu.mitigations"].remedy
    assert outer not in rows(**host(vulnerabilities=flawed))["cpu.mitigations"].remedy
    free = rows(**host(clock=False))["clock.synchronised"].evidence
    assert free == "no time service steers the clock"
    assert "nothing reads it" in judge_clock(False, "a.key").evidence
