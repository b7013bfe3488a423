"""The checks of a host itself: its hypervisor, processor, memory, clock, storage and routes."""

from __future__ import annotations

from ipaddress import IPv4Network

from layer1.doctor.check import Answer, Check, Unlearned, UnlearnedError, judged, learned
from layer1.doctor.host_probe import Facts, Rom, Step, permits
from layer1.doctor.view import HostView, uri_user
from layer1.findings import Verdict

OLDEST_LIBVIRT = (9, 0, 0)
_CAP_SYS_RESOURCE = 1 << 24
_GIB = 1 << 30
_VOLATILE = ("tmpfs", "ramfs", "overlay", "squashfs")
_FOREIGN = ("nfs", "nfs4", "cifs", "smb3", "9p", "vfat", "exfat", "ntfs", "ntfs3", "fuseblk")
_TRUE = ("Y", "1")


def reachable(view: HostView) -> Answer:
    """Say whether libvirt answers."""
    libvirt = learned(view.libvirt)
    version = ".".join(map(str, libvirt.version))
    return Answer(Verdict.HOLDS, f"{view.config.uri}: libvirt {version}, {libvirt.hypervisor}")


def new_enough(view: HostView) -> Answer:
    """Say whether libvirt is one that the domain sheet is known to work with."""
    version = learned(view.libvirt).version
    oldest, found = (".".join(map(str, numbers)) for numbers in (OLDEST_LIBVIRT, version))
    return judged(
        version >= OLDEST_LIBVIRT,
        f"libvirt {found}; {oldest} is the oldest that the domains were tried with",
        "upgrade the host to Debian 12 or Ubuntu 24.04, or newer",
    )


def group(view: HostView) -> Answer:
    """Say whether the user may speak to libvirt."""
    facts = learned(view.facts)
    member = facts.user == "root" or "libvirt" in facts.groups
    return judged(
        member,
        f"{facts.user} is {'root' if facts.user == 'root' else 'in ' + ', '.join(facts.groups)}"
        + ("; the group libvirt equals root on the host" if member else ""),
        f"sudo usermod -aG libvirt {uri_user(view.config.uri) or facts.user}, then log in again",
    )


def guests(view: HostView) -> Answer | None:
    """Say whether libvirt has the emulator for the nodes' architectures, by KVM where that is wanted."""
    wanted = "qemu" if view.accel_key else "kvm"
    offered = learned(view.libvirt).guests
    if not view.needs.arches:
        return None
    missing = [arch for arch in view.needs.arches if wanted not in offered.get(arch, frozenset())]
    packages = {"x86_64": "qemu-system-x86", "aarch64": "qemu-system-arm"}
    unknown = [arch for arch in missing if not offered.get(arch)]
    openly = f"or say openly that they are emulated, by layer1:hosts.{view.name}.accel: tcg"
    return judged(
        not missing,
        f"domains of type {wanted}: "
        + ", ".join(f"{arch} {'missing' if arch in missing else 'offered'}" for arch in view.needs.arches),
        f"sudo apt-get install {' '.join(packages[arch] for arch in unknown)}"
        if unknown
        else f"put these nodes on a host of that architecture with KVM, {openly}",
    )


def kvm(view: HostView) -> Answer:
    """Say whether KVM runs code; a device that only opens proves nothing."""
    facts = learned(view.facts)
    device, key = facts.kvm, view.accel_key
    if key and device.emulated.outcome != "ran":
        return Answer(
            Verdict.BROKEN,
            f"emulation, which {key} chose: {_rom_words(device.emulated)}",
            f"sudo apt-get install --reinstall {_qemu_package(facts)}",
            means="no guest starts at all",
        )
    if not device.opens:
        denied = device.problem == "Permission denied"
        if denied and not key:
            raise UnlearnedError(
                Unlearned(
                    f"/dev/kvm ({device.owner}) does not open for {facts.user}: {device.problem}",
                    f"run it as root, or: sudo usermod -aG kvm {facts.user}, then log in again",
                )
            )
        return judged(
            False,
            f"/dev/kvm does not open: {device.problem}",
            "switch on virtualisation (VT-x, AMD-V) in the machine's firmware, or nested one where "
            "the host is a virtual machine; sudo modprobe kvm_intel or kvm_amd",
            key,
        )
    assert device.rom is not None  # noqa: S101 - it opened, so the ROM was run
    if device.rom.outcome == "missing":
        raise UnlearnedError(
            Unlearned(
                f"/dev/kvm opens, but there is no QEMU to try it with ({_qemu_package(facts)})",
                f"sudo apt-get install {_qemu_package(facts)}",
            )
        )
    if device.rom.outcome != "ran":
        return judged(
            False,
            f"/dev/kvm opens, and that is all: a kernel's first steps under it {_rom_words(device.rom)}; "
            f"without it they {_rom_words(device.emulated)}",
            "use a host whose KVM runs guests (a physical machine, or one with real nested virtualisation); "
            "elsewhere say it openly with accel: tcg",
            key,
        )
    return judged(
        bool(device.qemu_may_open),
        f"a kernel's first steps run under /dev/kvm ({device.owner})"
        + ("" if device.qemu_may_open else "; QEMU's user may not open it"),
        "sudo chgrp kvm /dev/kvm && sudo chmod 0660 /dev/kvm",
        key,
    )


def _rom_words(rom: Rom) -> str:
    said = f" ({rom.said})" if rom.said else ""
    return {"ran": "run", "hung": f"hang{said}", "missing": "could not be tried, no QEMU"}.get(
        rom.outcome, f"end QEMU{said}"
    )


def _qemu_package(facts: Facts) -> str:
    return "qemu-system-arm" if facts.arch == "aarch64" else "qemu-system-x86"


def level(view: HostView) -> Answer:
    """Say whether the guests are emulated, nested, or on the machine itself."""
    facts = learned(view.facts)
    place = "a virtual machine itself" if facts.virtual else "a physical machine"
    if view.accel_key:
        return Answer(
            Verdict.WEAKER,
            f"guests are emulated (accel: tcg); the host is {place}",
            f"where KVM runs code, take {view.accel_key} away",
            view.accel_key,
        )
    if facts.kvm.rom is None or facts.kvm.rom.outcome != "ran":
        return Answer(
            Verdict.BROKEN,
            f"KVM runs nothing here, so guests could only be emulated; the host is {place}",
            "what the row about KVM says",
        )
    nested = "; guests are nested, and the outer hypervisor's walls count too" if facts.virtual else ""
    return Answer(Verdict.HOLDS, f"guests run by KVM; the host is {place}{nested}")


def mitigations(view: HostView) -> Answer:
    """Say whether the kernel counters every flaw of the processor that it knows."""
    facts = learned(view.facts)
    if facts.vulnerabilities is None:
        raise UnlearnedError(
            Unlearned(
                "the kernel says nothing in /sys/devices/system/cpu/vulnerabilities",
                "use a kernel of 4.15 or newer, with sysfs mounted",
            )
        )
    open_ones = {
        name: text
        for name, text in facts.vulnerabilities.items()
        if text.startswith("Vulnerable") or "SMT vulnerable" in text
    }
    microcode = f"; microcode {facts.microcode}" if facts.microcode else ""
    if not open_ones:
        return Answer(Verdict.HOLDS, f"{len(facts.vulnerabilities)} known flaws, none open{microcode}")
    smt = any("SMT vulnerable" in text for text in open_ones.values())
    return judged(
        False,
        "open: " + ", ".join(f"{name} ({text})" for name, text in open_ones.items()) + microcode,
        "sudo apt-get install intel-microcode or amd64-microcode, take mitigations=off from the kernel's "
        "command line, reboot"
        + ("; against SMT: mitigations=auto,nosmt" if smt else "")
        + ("; in a virtual machine the outer host has to do it" if facts.virtual else ""),
        view.accel_key,
    )


def iommu(view: HostView) -> Answer:
    """Say whether devices are kept from memory that is not theirs."""
    facts = learned(view.facts)
    if facts.iommu_groups:
        return Answer(Verdict.HOLDS, f"on: {facts.iommu_groups} groups")
    if facts.virtual and not view.accel_key:
        return Answer(
            Verdict.HOLDS,
            "none in this virtual machine, whose devices are the outer host's; no node is given a device",
        )
    board = f"layer1:hosts.{view.name}.board" if view.config.board else None
    return judged(
        False,
        "no IOMMU groups; no node is given a device",
        "switch VT-d or AMD-Vi on in the machine's firmware and put intel_iommu=on on the kernel's command "
        "line (AMD: on by itself)",
        view.accel_key or board,
    )


def ksm(view: HostView) -> Answer:
    """Say whether the kernel merges equal pages of different machines."""
    run = learned(view.facts).ksm_run
    if run is None:
        return Answer(Verdict.HOLDS, "the kernel has no KSM")
    return judged(
        run == "0",
        f"/sys/kernel/mm/ksm/run is {run}",
        "sudo systemctl disable --now ksmtuned; echo 2 | sudo tee /sys/kernel/mm/ksm/run",
    )


def memory_controller(view: HostView) -> Answer:
    """Say whether control groups can limit memory."""
    version = learned(view.facts).memory_controller
    return judged(
        version is not None,
        f"control groups {version} limit memory" if version else "no control group limits memory",
        "put cgroup_enable=memory on the kernel's command line, and reboot",
        view.limit_key,
    )


def memlock(view: HostView) -> Answer:
    """Say whether libvirt can raise the limit of locked memory, which it does with a hard limit."""
    daemon = learned(view.facts).daemon
    if daemon is None:
        raise UnlearnedError(_no_daemon(view))
    able = bool(daemon.capabilities & _CAP_SYS_RESOURCE)
    free = daemon.memlock_hard == "unlimited"
    return judged(
        able or free,
        f"{daemon.name} {'has' if able else 'lacks'} CAP_SYS_RESOURCE, its locked memory is limited to "
        f"{daemon.memlock_hard}" + ("" if free else " bytes"),
        f"run {daemon.name} on a machine whose root may raise limits; or sudo systemctl edit {daemon.name}: "
        "[Service] LimitMEMLOCK=infinity",
        view.limit_key,
    )


def _no_daemon(view: HostView) -> Unlearned:
    return Unlearned(
        f"no process libvirtd or virtqemud on the host of {view.config.uri}",
        "sudo systemctl start libvirtd, on the host that the URI names",
    )


def clock(view: HostView) -> Answer:
    """Say whether a time service steers the host's clock."""
    return judge_clock(
        learned(view.facts).clock, "layer1:images.flatcar.source" if view.needs.timeless else None
    )


def judge_clock(synchronised: bool | None, key: str | None) -> Answer:
    """Say whether a time service steers a clock, as the kernel has it.

    Args:
        synchronised: what the kernel says, None where it does not.
        key: what chose that nothing in the stack depends on the time.
    """
    if synchronised is None:
        raise UnlearnedError(
            Unlearned("the kernel does not say whether its clock is steered", "timedatectl timesync-status")
        )
    return judged(
        synchronised,
        "a time service steers the clock"
        if synchronised
        else "no time service steers the clock"
        + ("; nothing in this stack is signed or has a certificate, so nothing reads it" if key else ""),
        "sudo apt-get install chrony, or: sudo timedatectl set-ntp true",
        key,
    )


def pool_path(view: HostView) -> Answer:
    """Say whether QEMU's user gets to the pool, and nobody else can put something in its place."""
    facts = learned(view.facts)
    pool = facts.pool
    there = pool.nearest == view.config.pool_path
    place = f"{view.config.pool_path}{'' if there else f' is not there yet; {pool.nearest} is'}"
    if pool.qemu_ids is None:
        raise UnlearnedError(
            Unlearned(
                "the user that QEMU runs as does not exist", "sudo apt-get install libvirt-daemon-system"
            )
        )
    ids = pool.qemu_ids
    closed = [step for step in pool.steps if not permits(step.mode, (step.uid, step.gid), ids, 1)]
    if closed:
        return judged(
            False,
            f"{place}; QEMU's user {ids[0]} may not pass {_step(closed[0])}",
            f"sudo chmod o+x {closed[0].path}, or another layer1:hosts.{view.name}.pool_path",
        )
    open_steps = [step for step in pool.steps if _writable(step)]
    if open_steps:
        return Answer(
            Verdict.BROKEN,
            f"{place}; others than root may write to {_step(open_steps[0])}",
            f"sudo chown root: {open_steps[0].path} && sudo chmod go-w {open_steps[0].path}, or another "
            f"layer1:hosts.{view.name}.pool_path",
            means="who may write there can move the pool away and put their own disks in its place",
        )
    return Answer(Verdict.HOLDS, f"{place}: {_step(pool.steps[-1])}; QEMU's user {ids[0]} gets there")


def _writable(step: Step) -> bool:
    """Whether a folder belongs to others than root, or they may replace what is in it."""
    others = step.mode & 0o002 or (step.mode & 0o020 and step.gid != 0)
    return step.uid != 0 or bool(others and not step.mode & 0o1000)


def _step(step: Step) -> str:
    return f"{step.path} ({step.uid}:{step.gid} {step.mode:04o})"


def pool_filesystem(view: HostView) -> Answer:
    """Say whether the pool's file system keeps disks, and their owner and mode."""
    pool = learned(view.facts).pool
    volatile, foreign = pool.filesystem in _VOLATILE, pool.filesystem in _FOREIGN
    return judged(
        not volatile and not foreign,
        f"{pool.nearest} is on {pool.filesystem}"
        + ("; it is lost with a reboot" if volatile else "")
        + ("; it does not keep owners and modes as libvirt sets them" if foreign else ""),
        f"put the pool on ext4, xfs or btrfs: layer1:hosts.{view.name}.pool_path",
    )


def pool_space(view: HostView) -> Answer | None:
    """Say whether the nodes' disks have room when they are full."""
    if not view.needs.disk_gib:
        return None
    pool = learned(view.facts).pool
    room = pool.free_bytes + pool.used_bytes
    return judged(
        room >= view.needs.disk_gib * _GIB,
        f"{pool.free_bytes / _GIB:.1f} GiB free, {pool.used_bytes / _GIB:.1f} GiB taken by this stack; its "
        f"disks may grow to {view.needs.disk_gib} GiB",
        f"make room on {pool.nearest}, lower disk_gib, or take another layer1:hosts.{view.name}.pool_path",
    )


def firmware(view: HostView) -> Answer | None:
    """Say whether the firmware that the nodes name is there."""
    if not view.needs.files:
        return None
    files = learned(view.facts).files
    missing = [path for path in view.needs.files if not files.get(path)]
    packages = {"qemu-efi-aarch64" if "AAVMF" in path else "ovmf" for path in missing}
    return judged(
        not missing,
        f"missing: {', '.join(missing)}" if missing else f"there: {', '.join(view.needs.files)}",
        f"sudo apt-get install {' '.join(sorted(packages))}",
    )


def swtpm(view: HostView) -> Answer | None:
    """Say whether a vTPM can be had, where a node has one."""
    if not view.needs.vtpm:
        return None
    programs = learned(view.facts).programs
    missing = [name for name in ("swtpm", "swtpm_setup") if not programs.get(name)]
    return judged(
        not missing,
        f"missing: {', '.join(missing)}" if missing else f"{programs['swtpm']}, {programs['swtpm_setup']}",
        "sudo apt-get install swtpm swtpm-tools",
    )


def network(view: HostView) -> Answer | None:
    """Say whether the nodes' network is free on the host; its own bridge is no stranger."""
    if not view.needs.cidr:
        return None
    facts = learned(view.facts)
    if facts.routes is None:
        raise UnlearnedError(
            Unlearned("`ip -json route show` gave no answer", "sudo apt-get install iproute2, then ip route")
        )
    wanted = IPv4Network(view.needs.cidr)
    clashes = [
        f"{destination} by {device}"
        for destination, device in facts.routes
        if device != view.needs.bridge and IPv4Network(destination).overlaps(wanted)
    ]
    return judged(
        not clashes,
        f"{wanted} meets the route to {', '.join(clashes)}"
        if clashes
        else f"{wanted} meets none of {len(facts.routes)} routes",
        "choose another layer1:network.cidr, such as one of 10.0.0.0/8 that `ip route` on the host lacks",
    )


LIBVIRT: tuple[Check[HostView], ...] = (
    Check(
        id="libvirt.reachable",
        what="libvirt answers",
        means="nothing can be made on this host, and nothing of it is known",
        judge=reachable,
    ),
    Check(
        id="libvirt.version",
        what="libvirt is new enough",
        means="libvirt may refuse a domain, or leave out one of its walls",
        judge=new_enough,
    ),
    Check(
        id="libvirt.group",
        what="the user may speak to libvirt",
        means="libvirt does not let the program in",
        judge=group,
    ),
    Check(
        id="libvirt.guests",
        what="QEMU for the nodes",
        means="a domain of these nodes cannot be defined",
        judge=guests,
    ),
)

MACHINE: tuple[Check[HostView], ...] = (
    Check(
        id="kvm.runs",
        what="KVM runs code",
        means="guests do not start under KVM; emulation isolates nothing (QEMU, docs/system/security)",
        judge=kvm,
    ),
    Check(
        id="kvm.level",
        what="what is below the guests",
        means="QEMU's emulator promises no isolation: who breaks it is on the host, in QEMU's process",
        judge=level,
    ),
    Check(
        id="cpu.mitigations",
        what="flaws of the processor are countered",
        means="a guest may read memory of other guests or of the host through the processor",
        judge=mitigations,
    ),
    Check(
        id="cpu.iommu",
        what="IOMMU",
        means="a device, or its firmware, that was taken over reads and writes all memory of the host",
        judge=iommu,
    ),
    Check(
        id="memory.ksm",
        what="pages are not merged (KSM)",
        means="machines on this host that do not refuse it share pages, and learn by timing what others hold",
        judge=ksm,
    ),
    Check(
        id="memory.cgroup",
        what="memory can be limited",
        means="the hard limit is not enforced: a QEMU that grows takes the host's memory",
        judge=memory_controller,
    ),
    Check(
        id="memory.memlock",
        what="libvirt may set a hard limit",
        means='a domain with a hard limit does not start ("cannot limit locked memory")',
        judge=memlock,
    ),
)

CLOCK: Check[HostView] = Check(
    id="clock.synchronised",
    what="the clock is in sync",
    means="signatures and certificates are judged by a wrong time; etcd and TLS between nodes fail",
    judge=clock,
)

PLACES: tuple[Check[HostView], ...] = (
    Check(
        id="pool.path",
        what="the pool's path",
        means="QEMU does not get to its disks: no node starts",
        judge=pool_path,
    ),
    Check(
        id="pool.filesystem",
        what="the pool's file system",
        means="disks are lost, or not closed to others",
        judge=pool_filesystem,
    ),
    Check(
        id="pool.space",
        what="room for the nodes' disks",
        means="when the file system is full, guests are paused in the middle of a write",
        judge=pool_space,
    ),
    Check(
        id="firmware.files",
        what="UEFI firmware (OVMF, AAVMF)",
        means="a domain that names it does not start",
        judge=firmware,
    ),
    Check(id="swtpm", what="swtpm", means="a domain with a vTPM does not start", judge=swtpm),
    Check(
        id="network.overlap",
        what="the nodes' network is free",
        means="libvirt refuses the network, or the host loses the way to what has these addresses now",
        judge=network,
    ),
)
