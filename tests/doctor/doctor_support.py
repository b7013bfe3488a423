"""A good host in facts, which each test changes at one point."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

from layer1.doctor.check import Unlearned, findings
from layer1.doctor.examine import HOST_CHECKS
from layer1.doctor.host_probe import Daemon, Facts, Kvm, Pool, Rom, Step
from layer1.doctor.view import HostView, Libvirt, Needs
from layer1.findings import Finding
from layer1.model import Accel, HostConfig, Svirt

GIB = 1 << 30
ALL_CAPABILITIES = 0x1FFFFFFFFFF
RAN, HUNG = Rom("ran"), Rom("hung")
KVM = Kvm(opens=True, problem="", owner="0:108 0660", qemu_may_open=True, rom=RAN, emulated=RAN)
POOL = Pool(
    nearest="/srv/pool",
    steps=[Step("/", 0, 0, 0o755), Step("/srv", 0, 0, 0o755), Step("/srv/pool", 0, 0, 0o711)],
    filesystem="ext4",
    free_bytes=100 * GIB,
    used_bytes=0,
    qemu_ids=[64055, 108],
)
FACTS = Facts(
    arch="x86_64",
    user="operator",
    groups=["libvirt", "operator"],
    virtual=False,
    kvm=KVM,
    apparmor="Y",
    daemon=Daemon("libvirtd", "libvirtd (enforce)", ALL_CAPABILITIES, "8388608"),
    qemu_conf='security_driver = "apparmor"\nsecurity_require_confined = 1\n',
    qemu_conf_problem="",
    seccomp=True,
    vulnerabilities={"meltdown": "Mitigation: PTI", "l1tf": "Not affected"},
    microcode="0xf0",
    ksm_run="0",
    iommu_groups=12,
    memory_controller="v2",
    clock=True,
    pool=POOL,
    files={"/usr/share/OVMF/OVMF_CODE_4M.fd": True, "/usr/share/AAVMF/AAVMF_CODE.fd": True},
    programs={"swtpm": "/usr/bin/swtpm", "swtpm_setup": "/usr/bin/swtpm_setup", "ip": "/usr/sbin/ip"},
    routes=[["192.168.1.0/24", "eth0"], ["10.11.0.0/24", "l1-bridge"]],
)
LIBVIRT = Libvirt(
    version=(9, 0, 0),
    hypervisor="QEMU 7.2.22",
    secmodels=("apparmor", "dac"),
    qemu_user="64055",
    guests={"x86_64": frozenset({"qemu", "kvm"}), "aarch64": frozenset({"qemu"})},
)
NEEDS = Needs(
    arches=("x86_64",),
    disk_gib=40,
    files=("/usr/share/OVMF/OVMF_CODE_4M.fd",),
    vtpm=True,
    cidr="10.11.0.0/24",
    bridge="l1-bridge",
    timeless=False,
    pool_directory="/srv/pool/layer1-unit",
)
STRONG = HostConfig(pool_path="/srv/pool")
WEAK = HostConfig(pool_path="/srv/pool", accel=Accel.TCG, svirt=Svirt.NONE, memory_hard_limit=False)
VIEW = HostView(name="home", config=STRONG, needs=NEEDS, libvirt=LIBVIRT, facts=FACTS)
NOTHING = Unlearned("no answer", "ask again")


def host(**facts: Any) -> dict[str, Any]:
    """A change of the host's own facts."""
    return {"facts": replace(FACTS, **facts)}


def kvm(**changes: Any) -> dict[str, Any]:
    return host(kvm=replace(KVM, **changes))


def pool(**changes: Any) -> dict[str, Any]:
    return host(pool=replace(POOL, **changes))


def steps(at: int, **changes: Any) -> dict[str, Any]:
    """A change of one folder on the way to the pool."""
    changed = copy.copy(POOL.steps)
    changed[at] = replace(changed[at], **changes)
    return pool(steps=changed)


def libvirt(**changes: Any) -> dict[str, Any]:
    return {"libvirt": replace(LIBVIRT, **changes)}


def wants(**changes: Any) -> dict[str, Any]:
    return {"needs": replace(NEEDS, **changes)}


def rows(**changes: Any) -> dict[str, Finding]:
    """Every row of the good host with changes, by its id."""
    return {row.id: row for row in findings("home", HOST_CHECKS, replace(VIEW, **changes))}
