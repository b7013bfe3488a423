"""Judges what the guest says of itself. Whoever is root in it can lie: these rows are its word, no more."""

from __future__ import annotations

import re

from layer1.audit.seen import Seen, differences, no, unknown
from layer1.audit.views import Answer, Subject, TalosAnswer, by_answer, by_talos
from layer1.model import Os
from layer1.node_status import first

_EXEC = "/usr/local/bin/k3s server --config /etc/rancher/k3s/config.yaml"
_EXTENSIONS = "overlay sysext"
"""What systemd-sysext mounts over /usr, read-only, for Flatcar's own extensions."""
_OLDER = "the node's status script says nothing of it: the node was made by an older Layer 1"
_SSHD = {
    "passwordauthentication": "no",
    "kbdinteractiveauthentication": "no",
    "permitemptypasswords": "no",
    "permitrootlogin": "no",
    "authenticationmethods": "publickey",
    "allowagentforwarding": "no",
    "x11forwarding": "no",
}


@by_answer
def answers(answer: Answer) -> Seen:
    """The node answers with the stack's own host key, and its system is well."""
    status, intent = answer.status, answer.intent
    system = first(status, "system")
    failed = ", ".join(status.get("failed", []))
    release = f"{first(status, 'os')} {first(status, 'os_version')}"
    said = f"SSH to {intent.address}, pinned host key: {release}, system {system}"
    return Seen(system == "running", f"{said}{f'; failed: {failed}' if failed else ''}")


@by_answer
def read_only_usr(answer: Answer) -> Seen:
    """/usr is mounted read-only, wherever it is mounted."""
    status = answer.status
    modes = status.get("usr_mode", [])
    if not modes:
        return no("/proc/mounts: /usr is no mount of its own")
    said = f"/proc/mounts: {', '.join(status.get('usr_fs', []))} {', '.join(modes)} on /usr"
    return Seen(all(mode == "ro" for mode in modes), said)


@by_answer
def verified_usr(answer: Answer) -> Seen:
    """The device below /usr is dm-verity's, read-only, and has met no block that is not the image's."""
    status = answer.status
    device, is_device = first(status, "usr_device"), first(status, "usr_is")
    if "usr_is" not in status:
        return unknown(_OLDER)
    mapped = next((line.split() for line in status.get("mapped", []) if is_device in line.split()), None)
    if mapped is None or "ro=1" not in mapped:
        return no(f"/usr is on {device or 'nothing of its own'}, which is no read-only mapped device")
    verity = {line.partition(":")[0]: line.split()[-1] for line in status.get("verity", []) if ":" in line}
    over = [mount for mount in status.get("usr_mount", [])[1:] if mount != _EXTENSIONS]
    if over:
        return no(f"over {device} on /usr is mounted: {', '.join(over)}")
    state = verity.get(mapped[0])
    if state is None:
        return no(f"dmsetup status --target verity: nothing of {mapped[0]}, which /usr is on")
    word = "verified" if state == "V" else f"state {state}: corrupted"
    said = f"dmsetup status: {device} is dm-verity's, {word}"
    root_hash = first(status, "usr_hash")
    return Seen(state == "V", f"{said}{f', root hash {root_hash[:12]}…' if root_hash else ''}")


@by_answer
def write_refused(answer: Answer) -> Seen:
    """A write below /usr is refused because the file system is read-only, not for want of permission."""
    status = answer.status
    if "usr_write" not in status:
        return unknown(_OLDER)
    said = first(status, "usr_write")
    return Seen(said == "Read-only file system", f"a write to /usr: {said or 'it succeeded'}")


@by_answer
def no_autologin(answer: Answer) -> Seen:
    """No console gives a shell without a password."""
    status = answer.status
    return Seen(
        first(status, "autologin") == "no",
        f"flatcar.autologin on the kernel command line: {first(status, 'autologin')}",
    )


def ssh(subject: Subject) -> Seen:
    """The node's sshd offers keys alone, and its settings say so."""
    facts, intent = subject.facts, subject.intent
    status, offered = facts.guest.status, facts.guest.offered
    if status is None or offered is None:
        return unknown(facts.guest.problem or "the node did not say how one may log in")
    if offered != "publickey":
        return no(f"a stranger to root@{intent.address}: {offered}, wanted publickey alone")
    said = dict(line.partition(" ")[::2] for line in status.get("sshd", []))
    if not said:
        return unknown("a stranger is offered publickey alone, but the node did not tell sshd's settings")
    users = {"layer1-status", intent.user} | ({"layer1-apply"} if intent.os == Os.K3S_PIOS else set())
    allowed = {line.partition(" ")[2] for line in status.get("sshd", []) if line.startswith("allowusers ")}
    return differences(
        [
            *((name, value, said.get(name)) for name, value in _SSHD.items()),
            ("allowusers", users, {user for line in allowed for user in line.split()}),
        ],
        f"a stranger is offered publickey alone; sshd -T: no password, not root, {' '.join(sorted(users))}",
    )


@by_answer
def k3s_unit(answer: Answer) -> Seen:
    """k3s is the version that the stack names, starts by itself, and takes Layer 2's file and no flag."""
    status, intent = answer.status, answer.intent
    return differences(
        [
            ("version", intent.k3s_version, first(status, "k3s_installed")),
            ("ExecStart", _EXEC, " ".join(first(status, "k3s_exec").split())),
            ("enabled", "enabled", first(status, "k3s_enabled")),
            ("path unit", "active", first(status, "unit.k3s-config.path").partition("/")[0]),
            ("/usr/local/bin", "active", first(status, "unit.usr-local-bin.mount").partition("/")[0])
            if intent.os == Os.FLATCAR
            else ("", "", ""),
        ],
        f"k3s {intent.k3s_version}: {_EXEC}",
    )


@by_answer
def board_firewall(answer: Answer) -> Seen:
    """The board's own firewall is loaded."""
    status = answer.status
    state = first(status, "unit.layer1-firewall.service")
    if not state:
        return unknown("the board says nothing of its firewall")
    return Seen(
        state.startswith("active/") and state.endswith("/success"), f"layer1-firewall.service: {state}"
    )


# --- Talos ---


@by_talos
def talos_version(answer: TalosAnswer) -> Seen:
    """The node answers the cluster's talosconfig, and runs the version that the stack names."""
    talos, intent = answer.talos, answer.intent
    return differences(
        [("version", intent.talos_version, talos.version)], f"talosctl version: {talos.version}"
    )


@by_talos
def talos_mutual_tls(answer: TalosAnswer) -> Seen:
    """The API tells nothing to somebody without a certificate."""
    talos = answer.talos
    if talos.anonymous is None:
        return unknown("it was not asked without a certificate")
    return Seen(
        not talos.anonymous,
        "talosctl version --insecure: " + ("it answers: maintenance mode" if talos.anonymous else "refused"),
    )


@by_talos
def talos_no_ssh(answer: TalosAnswer) -> Seen:
    """Nothing takes connections where SSH would be."""
    talos = answer.talos
    if talos.ssh is None:
        return unknown("port 22 was not tried")
    return Seen(not talos.ssh, f"port 22 is {'open' if talos.ssh else 'closed'}")


@by_talos
def talos_read_only(answer: TalosAnswer) -> Seen:
    """The root file system is mounted read-only."""
    talos = answer.talos
    if talos.mounts is None:
        return unknown("the API did not give /proc/mounts")
    roots = [line.split() for line in talos.mounts.splitlines() if re.match(r"\S+ / ", line)]
    if not roots:
        return unknown("/proc/mounts names no root")
    kind, options = roots[-1][2], roots[-1][3]
    return Seen("ro" in options.split(","), f"/proc/mounts: / is {kind} {options}")


@by_talos
def talos_encryption(answer: TalosAnswer) -> Seen:
    """STATE and EPHEMERAL are encrypted."""
    talos = answer.talos
    if talos.encryption is None:
        return unknown("the API did not tell of its volumes")
    said = ", ".join(f"{name} {value}" for name, value in sorted(talos.encryption.items()))
    whole = talos.encryption.keys() == {"STATE", "EPHEMERAL"}
    return Seen(whole and "none" not in talos.encryption.values(), f"volume status: {said or 'no volumes'}")


@by_talos
def talos_secure_boot(answer: TalosAnswer) -> Seen:
    """The node says that it was started by Secure Boot."""
    talos = answer.talos
    if talos.secure_boot is None:
        return unknown("the API did not tell of its boot")
    return Seen(talos.secure_boot, f"security state: secureBoot {str(talos.secure_boot).lower()}")
