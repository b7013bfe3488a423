"""The registry: every row of the audit, what it guards against, and what its loss means."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from layer1.audit import judge_domain, judge_files, judge_guest, judge_network, judge_process
from layer1.audit.facts import Facts
from layer1.audit.intent import Intent
from layer1.audit.seen import Seen, no
from layer1.audit.views import Judge, Subject
from layer1.findings import Finding, Verdict
from layer1.model import Os
from layer1.walls import Wall


class Threat(StrEnum):
    """The mission's threats, as the README's table has them."""

    ESCAPE = "escape"
    QEMU = "qemu"
    BACKDOOR = "backdoor"
    MEMORY = "memory"
    READS = "reads"
    PIVOT = "pivot"


THREATS = {
    Threat.ESCAPE: "Escape from a container to root in the VM",
    Threat.QEMU: "Bug in QEMU",
    Threat.BACKDOOR: "Persistent backdoor",
    Threat.MEMORY: "Memory overflow by a neighbour",
    Threat.READS: "Reads across VMs",
    Threat.PIVOT: "Pivot to the host or the network",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One hardening choice.

    Attributes:
        id: its stable name.
        what: what it is, in a few words.
        threats: what it stands against.
        applies: to which nodes.
        judge: looks at what was seen.
        means: what breaks or is lost where it is not so.
        remedy: what mends it; `{domain}`, `{uri}`, `{stack}`, `{node}` and `{address}` are filled in.
        wall: the wall of `layer1.walls` whose key may have taken it away.
    """

    id: str
    what: str
    threats: tuple[Threat, ...]
    applies: Callable[[Intent], bool]
    judge: Judge
    means: str
    remedy: str
    wall: str | None = None


def _in_domain(intent: Intent) -> bool:
    return intent.domain is not None


def _on_board(intent: Intent) -> bool:
    return intent.domain is None


def _over_ssh(intent: Intent) -> bool:
    return intent.os != Os.TALOS


def _on_flatcar(intent: Intent) -> bool:
    return intent.os == Os.FLATCAR


def _on_raspios(intent: Intent) -> bool:
    return intent.os == Os.K3S_PIOS


def _on_talos(intent: Intent) -> bool:
    return intent.os == Os.TALOS


def _with_secure_boot(intent: Intent) -> bool:
    return intent.domain is not None and intent.domain.secure_boot


def _board_hypervisor(_: Subject) -> Seen:
    """A board has none."""
    return no("the node is a board of its own")


_ANEW = (
    "find out who changed it; then `virsh -c {uri} destroy {domain}`, `virsh -c {uri} undefine {domain} "
    "--keep-nvram`, `make refresh STACK={stack}`, `make up STACK={stack}`: a new domain, the same disks"
)
_RESTART = "`virsh -c {uri} destroy {domain}`, `virsh -c {uri} start {domain}`: libvirt sets it anew"
_DOCTOR = "`make doctor` says what the host lacks; then restart the domain"
_REPROVISION = "take the node for lost: drop it from the stack, `make up STACK={stack}`, put it back"

ROWS: tuple[Row, ...] = (
    Row(
        id="domain.running",
        what="the domain runs",
        threats=(),
        applies=_in_domain,
        judge=judge_domain.running,
        means="the node serves nothing, and what only a running machine shows cannot be audited",
        remedy="`virsh -c {uri} start {domain}`; if it is gone: `make refresh STACK={stack}`, then `make up`",
    ),
    Row(
        id="hypervisor.kvm",
        what="guest code runs behind KVM",
        threats=(Threat.ESCAPE, Threat.QEMU, Threat.READS),
        applies=_in_domain,
        judge=judge_process.accelerator,
        means="guest code runs in QEMU's emulator, which promises no isolation",
        remedy=_ANEW,
        wall="hypervisor",
    ),
    Row(
        id="hypervisor.board",
        what="a hypervisor stands around the node",
        threats=(Threat.ESCAPE, Threat.PIVOT),
        applies=_on_board,
        judge=_board_hypervisor,
        means="who breaks out of a container is on the board itself",
        remedy="run the node in a domain",
        wall="hypervisor",
    ),
    Row(
        id="svirt.label",
        what="QEMU is confined by its domain's AppArmor profile",
        threats=(Threat.QEMU, Threat.READS, Threat.PIVOT),
        applies=_in_domain,
        judge=judge_process.label,
        means="a broken QEMU reads other nodes' disks, and whatever its user may",
        remedy=_DOCTOR,
        wall="svirt",
    ),
    Row(
        id="svirt.profile",
        what="the AppArmor profile names no other VM's disk",
        threats=(Threat.QEMU, Threat.READS),
        applies=_in_domain,
        judge=judge_process.profile,
        means="the profile opens files that are not this node's to a broken QEMU",
        remedy=f"look for additions in /etc/apparmor.d/libvirt; {_RESTART}",
        wall="svirt",
    ),
    Row(
        id="svirt.asked",
        what="the domain asks for an AppArmor label by name",
        threats=(Threat.QEMU, Threat.READS),
        applies=_in_domain,
        judge=judge_domain.security_label,
        means="on a host that has lost AppArmor the domain would start unconfined",
        remedy=_ANEW,
        wall="svirt",
    ),
    Row(
        id="qemu.user_by_libvirt",
        what="nobody chose QEMU's user by hand",
        threats=(Threat.QEMU,),
        applies=_in_domain,
        judge=judge_domain.user_label,
        means="the domain's description names the user that QEMU runs as, which can be root",
        remedy=_ANEW,
    ),
    Row(
        id="qemu.uid",
        what="QEMU is not root",
        threats=(Threat.QEMU, Threat.PIVOT),
        applies=_in_domain,
        judge=judge_process.uid,
        means="a bug in QEMU is root on the host",
        remedy="set user and group in the host's qemu.conf to QEMU's own; then restart the domain",
    ),
    Row(
        id="qemu.capabilities",
        what="QEMU has no capability",
        threats=(Threat.QEMU, Threat.PIVOT),
        applies=_in_domain,
        judge=judge_process.capabilities,
        means="a bug in QEMU has some of root's rights on the host",
        remedy="remove clear_emulator_capabilities from the host's qemu.conf; then restart the domain",
    ),
    Row(
        id="qemu.no_new_privileges",
        what="QEMU cannot gain privileges",
        threats=(Threat.QEMU, Threat.PIVOT),
        applies=_in_domain,
        judge=judge_process.no_new_privileges,
        means="a set-user-id program started by a broken QEMU would have its owner's rights",
        remedy="set seccomp_sandbox = 1 in the host's qemu.conf; then restart the domain",
    ),
    Row(
        id="qemu.seccomp",
        what="the kernel filters QEMU's system calls",
        threats=(Threat.QEMU, Threat.PIVOT),
        applies=_in_domain,
        judge=judge_process.seccomp,
        means="a broken QEMU starts programs and reaches more of the kernel",
        remedy="set seccomp_sandbox = 1 in the host's qemu.conf; then restart the domain",
    ),
    Row(
        id="qemu.devices",
        what="QEMU's command line has only the devices of a node",
        threats=(Threat.QEMU, Threat.PIVOT),
        applies=_in_domain,
        judge=judge_process.devices,
        means="each device more is code more that the guest can attack",
        remedy=_ANEW,
    ),
    Row(
        id="qemu.options",
        what="QEMU's other options are those of a node",
        threats=(Threat.QEMU, Threat.READS, Threat.PIVOT),
        applies=_in_domain,
        judge=judge_process.words,
        means="an option nobody planned opens a file, a screen, a socket or a way to steer QEMU",
        remedy=_ANEW,
    ),
    Row(
        id="qemu.own_words",
        what="nothing is handed to QEMU past libvirt",
        threats=(Threat.QEMU,),
        applies=_in_domain,
        judge=judge_domain.own_words,
        means="libvirt knows no rule for what it did not make, and does not support it",
        remedy=_ANEW,
    ),
    Row(
        id="domain.devices",
        what="libvirt's live description has only the devices of a node",
        threats=(Threat.QEMU, Threat.PIVOT),
        applies=_in_domain,
        judge=judge_domain.devices,
        means="each device more is code more that the guest can attack, or a way in",
        remedy=_ANEW,
    ),
    Row(
        id="domain.drift",
        what="the running machine is the planned one",
        threats=(Threat.QEMU, Threat.BACKDOOR),
        applies=_in_domain,
        judge=judge_domain.drift,
        means="somebody changed the machine past the stack, which does not see it",
        remedy=_ANEW,
    ),
    Row(
        id="domain.disks",
        what="the disks are the node's own, as planned",
        threats=(Threat.READS, Threat.BACKDOOR),
        applies=_in_domain,
        judge=judge_domain.disks,
        means="the node reads or writes what is not its own, or its seed can be changed from inside",
        remedy=_ANEW,
    ),
    Row(
        id="memory.hard_limit",
        what="the kernel bounds the memory of the whole QEMU",
        threats=(Threat.MEMORY,),
        applies=_in_domain,
        judge=judge_process.hard_limit,
        means="a runaway QEMU can take the host's memory",
        remedy=_RESTART,
        wall="memory_hard_limit",
    ),
    Row(
        id="memory.fixed",
        what="the guest's memory is fixed",
        threats=(Threat.MEMORY,),
        applies=_in_domain,
        judge=judge_domain.fixed_memory,
        means="the guest has other memory than the stack counts with",
        remedy=_ANEW,
    ),
    Row(
        id="memory.not_shared",
        what="no page of memory is merged with a neighbour's",
        threats=(Threat.READS,),
        applies=_in_domain,
        judge=judge_process.not_shared,
        means="a neighbour can learn by timing what is in this node's memory",
        remedy=_ANEW,
    ),
    Row(
        id="files.directory",
        what="the pool's directory cannot be listed",
        threats=(Threat.READS,),
        applies=_in_domain,
        judge=judge_files.directory,
        means="whoever is on the host sees which disks and seeds there are, or can put others there",
        remedy="on the host: `chown root:root` and `chmod 0711` on the directory",
    ),
    Row(
        id="files.disks",
        what="disks are readable by their owner alone",
        threats=(Threat.READS,),
        applies=_in_domain,
        judge=judge_files.disk_modes,
        means="whoever is on the host reads the node's data",
        remedy="on the host: `chmod 0600` on the file; what was on it may have been read: change its keys",
    ),
    Row(
        id="files.seed",
        what="the seed is readable by its owner alone",
        threats=(Threat.READS, Threat.PIVOT),
        applies=_in_domain,
        judge=judge_files.seed_mode,
        means="the seed holds the node's keys: whoever read it can pose as the node",
        remedy=f"on the host: `chmod 0600` on the file; then {_REPROVISION}",
    ),
    Row(
        id="files.open",
        what="QEMU has only its own files open",
        threats=(Threat.READS,),
        applies=_in_domain,
        judge=judge_process.open_files,
        means="this QEMU reads or writes another machine's data now",
        remedy=f"`virsh -c {{uri}} qemu-monitor-command {{domain}} --hmp info block` says why; {_RESTART}",
    ),
    Row(
        id="image.base",
        what="the base volume is the verified image, hashed now",
        threats=(Threat.BACKDOOR,),
        applies=_in_domain,
        judge=judge_files.base_digest,
        means="every node on it runs a system that nobody verified",
        remedy=f"find out who changed it; {_REPROVISION}, with the base volume made anew",
    ),
    Row(
        id="image.overlay",
        what="the root disk stands on that base volume",
        threats=(Threat.BACKDOOR, Threat.READS),
        applies=_in_domain,
        judge=judge_files.overlay,
        means="the node runs another system than the stack made it from",
        remedy=_REPROVISION,
    ),
    Row(
        id="image.signature",
        what="a pinned signing key vouches for the image",
        threats=(Threat.BACKDOOR,),
        applies=_on_flatcar,
        judge=judge_files.image_vouched,
        means="only a digest vouches for the image, and nobody signs it",
        remedy="`python -m layer1 image verify` says what vouches for an image",
        wall="image_signature",
    ),
    Row(
        id="boot.secure",
        what="the firmware starts signed code alone, beside a vTPM",
        threats=(Threat.BACKDOOR,),
        applies=_with_secure_boot,
        judge=judge_domain.secure_boot,
        means="code that nobody signed can start before the system",
        remedy=_ANEW,
    ),
    Row(
        id="network.card",
        what="the network card is the planned one",
        threats=(Threat.PIVOT,),
        applies=_in_domain,
        judge=judge_domain.card,
        means="the node is on another network, or boots from it",
        remedy=_ANEW,
    ),
    Row(
        id="network.filter",
        what="libvirt has bound the traffic filter to the card",
        threats=(Threat.PIVOT,),
        applies=_in_domain,
        judge=judge_network.binding,
        means="the node can pose as its neighbours and as the host",
        remedy=_ANEW,
    ),
    Row(
        id="network.rules",
        what="the kernel has the filter's rules",
        threats=(Threat.PIVOT,),
        applies=_in_domain,
        judge=judge_network.rules,
        means="the node can pose as its neighbours and as the host",
        remedy=f"find out who removed them (another firewall that flushes the bridge's tables?); {_RESTART}",
    ),
    Row(
        id="network.mode",
        what="the network leads where the plan says",
        threats=(Threat.PIVOT,),
        applies=_in_domain,
        judge=judge_network.network,
        means="the nodes reach, or are reached from, more than the stack says",
        remedy="if only the live one differs, `virsh -c {uri} net-destroy` and `net-start`; else `make up`",
    ),
    Row(
        id="guest.answers",
        what="the node answers with its pinned host key and is well",
        threats=(),
        applies=_over_ssh,
        judge=judge_guest.answers,
        means="a part of the node's system failed",
        remedy="log in and look: `systemctl --failed`",
    ),
    Row(
        id="guest.usr_read_only",
        what="/usr is mounted read-only",
        threats=(Threat.ESCAPE, Threat.BACKDOOR),
        applies=_on_flatcar,
        judge=judge_guest.read_only_usr,
        means="root in the node can change the system's programs",
        remedy=f"somebody is root there; {_REPROVISION}",
    ),
    Row(
        id="guest.usr_verity",
        what="/usr is verified by dm-verity",
        threats=(Threat.ESCAPE, Threat.BACKDOOR),
        applies=_on_flatcar,
        judge=judge_guest.verified_usr,
        means="nothing notices a changed block of the system",
        remedy=f"somebody is root there; {_REPROVISION}",
    ),
    Row(
        id="guest.usr_write_refused",
        what="a write below /usr is refused",
        threats=(Threat.ESCAPE, Threat.BACKDOOR),
        applies=_on_flatcar,
        judge=judge_guest.write_refused,
        means="the system's programs can be changed",
        remedy=f"somebody is root there; {_REPROVISION}",
    ),
    Row(
        id="guest.usr_writable_system",
        what="/usr is read-only and verified",
        threats=(Threat.ESCAPE, Threat.BACKDOOR),
        applies=_on_raspios,
        judge=judge_guest.read_only_usr,
        means="root can change the system, and that stays",
        remedy="use Talos on the board",
        wall="immutable_usr",
    ),
    Row(
        id="guest.autologin",
        what="no console gives a shell without a password",
        threats=(Threat.ESCAPE,),
        applies=_on_flatcar,
        judge=judge_guest.no_autologin,
        means="whoever reaches a console is root on the node",
        remedy=_REPROVISION,
    ),
    Row(
        id="guest.ssh",
        what="sshd takes keys alone, of named users, never root's",
        threats=(Threat.ESCAPE, Threat.PIVOT),
        applies=_over_ssh,
        judge=judge_guest.ssh,
        means="a password or another key opens the node",
        remedy=f"see what changed in /etc/ssh/sshd_config.d on the node; {_REPROVISION}",
        wall="ssh_keys_only",
    ),
    Row(
        id="guest.k3s",
        what="k3s is the pinned version, with Layer 2's file and no flag",
        threats=(Threat.BACKDOOR,),
        applies=_over_ssh,
        judge=judge_guest.k3s_unit,
        means="k3s runs otherwise than Layer 1 made it and Layer 2 expects",
        remedy="see `systemctl cat k3s.service` on the node for drop-ins of nobody's; else re-provision",
    ),
    Row(
        id="guest.firewall",
        what="the board drops what no rule lets in",
        threats=(Threat.PIVOT,),
        applies=_on_raspios,
        judge=judge_guest.board_firewall,
        means="every port of the board is open to its network",
        remedy="on the board: `systemctl restart layer1-firewall.service`, and see why it failed",
        wall="firewall",
    ),
    Row(
        id="talos.version",
        what="Talos answers the cluster's key, in the stack's version",
        threats=(),
        applies=_on_talos,
        judge=judge_guest.talos_version,
        means="the node runs another system than the stack says",
        remedy="`make up STACK={stack}` upgrades it",
    ),
    Row(
        id="talos.mutual_tls",
        what="Talos tells nothing without a certificate",
        threats=(Threat.ESCAPE, Threat.PIVOT),
        applies=_on_talos,
        judge=judge_guest.talos_mutual_tls,
        means="the node waits for a config, and whoever reaches it first owns it",
        remedy="cut it off the network; `make up STACK={stack}` gives it its config",
    ),
    Row(
        id="talos.no_ssh",
        what="nothing answers where SSH would be",
        threats=(Threat.ESCAPE, Threat.PIVOT),
        applies=_on_talos,
        judge=judge_guest.talos_no_ssh,
        means="something listens on the node that Talos does not have",
        remedy="see `talosctl -n {address} netstat` for who listens",
        wall="no_shell",
    ),
    Row(
        id="talos.read_only",
        what="Talos' root file system is read-only",
        threats=(Threat.ESCAPE, Threat.BACKDOOR),
        applies=_on_talos,
        judge=judge_guest.talos_read_only,
        means="the system can be changed while it runs",
        remedy=_REPROVISION,
        wall="immutable_root",
    ),
    Row(
        id="talos.encryption",
        what="Talos' disks are encrypted",
        threats=(Threat.READS,),
        applies=_on_talos,
        judge=judge_guest.talos_encryption,
        means="the disk holds the cluster's keys as they are: whoever copies it has them",
        remedy=_REPROVISION,
        wall="disk_encryption",
    ),
    Row(
        id="talos.secure_boot",
        what="Talos was started by Secure Boot",
        threats=(Threat.BACKDOOR,),
        applies=_with_secure_boot,
        judge=judge_guest.talos_secure_boot,
        means="code that nobody signed may have started before Talos",
        remedy=_REPROVISION,
    ),
)


def judge(facts: Facts, intent: Intent) -> list[Finding]:
    """Judge a node by every row that applies to it."""
    return [_finding(row, facts, intent) for row in ROWS if row.applies(intent)]


def _finding(row: Row, facts: Facts, intent: Intent) -> Finding:
    seen = row.judge(Subject(facts, intent))
    wall = intent.walls.get(row.wall) if row.wall else None
    chosen = wall is not None and not wall.on
    if seen.there is None:
        verdict = Verdict.UNKNOWN
    elif seen.there:
        verdict = Verdict.HOLDS
    else:
        verdict = Verdict.WEAKER if chosen else Verdict.BROKEN
    return Finding(
        id=row.id,
        subject=intent.name,
        what=row.what,
        verdict=verdict,
        evidence=seen.evidence,
        means=_means(row, verdict, wall),
        remedy=_remedy(row, intent, verdict, wall),
        key=wall.key if wall and verdict == Verdict.WEAKER else None,
    )


def _means(row: Row, verdict: Verdict, wall: Wall | None) -> str:
    if verdict == Verdict.HOLDS:
        return ""
    if verdict == Verdict.WEAKER and wall is not None:
        return wall.text
    return row.means if verdict == Verdict.BROKEN else f"if it is not so: {row.means}"


def _remedy(row: Row, intent: Intent, verdict: Verdict, wall: Wall | None) -> str:
    if verdict == Verdict.HOLDS:
        return ""
    if verdict == Verdict.WEAKER and wall is not None:
        return f"change {wall.key} where the machine can do better"
    if verdict == Verdict.UNKNOWN:
        return "mend what the evidence names, then run the audit again"
    domain = intent.domain
    return row.remedy.format(
        domain=domain.machine.domain_name if domain else intent.name,
        uri=domain.uri if domain else "",
        stack=intent.stack,
        node=intent.name,
        address=intent.address,
    )
