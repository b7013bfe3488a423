"""The walls that only an ordinary host enforces, proven in one: our own stack, and what a broken QEMU can do.

Real: Debian's kernel with AppArmor, libvirt, QEMU, the engine, the whole way over qemu+ssh. Emulated: the
host, and the domains once more inside it, so their guests are not waited for. The tests stand in the order
of the stack's life.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from engine_project import Project
from walls_support import BUT_THE_WAIT, HOST_NAME, NETWORK, POOL, Inside, Machine

from lab.walls.boot import USER, Host
from layer1 import ssh, virsh

pytestmark = [pytest.mark.walls, pytest.mark.engine, pytest.mark.timeout(1800)]

MIB = 1024**2
UNCONFINED = """<domain type='qemu'><name>loose</name><memory unit='MiB'>64</memory>
<os><type arch='x86_64' machine='q35'>hvm</type></os>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator></devices>{}</domain>"""


def test_the_host_demands_apparmor_of_every_domain(inside: Inside, before: set[str]) -> None:
    assert inside("cat /sys/module/apparmor/parameters/enabled") == "Y"
    assert inside("cat /proc/$(pidof libvirtd)/attr/current") == "libvirtd (enforce)"
    assert "<model>apparmor</model>" in inside("virsh --connect qemu:///system capabilities")
    assert not [line for line in before if line.startswith("libvirt-")]


def test_the_stack_comes_up_over_ssh_with_the_strong_defaults(project: Project, host: Host) -> None:
    states = [virsh.domain_state(host.uri, f"{project.prefix}-{node}") for node in ("n1", "n2")]
    assert states == ["paused (user)", "paused (user)"]
    weaker = {
        line.partition("WEAKER: ")[2].partition(":")[0]
        for line in "".join(project.printed).splitlines()
        if "WEAKER" in line
    }
    assert weaker == {"hypervisor", "image_signature"}, "no wall of the host is down by choice"


def test_a_second_up_over_ssh_finds_nothing_to_do(project: Project, n1: Machine, n2: Machine) -> None:
    # The provider takes a paused domain for one to be started, and fails at it.
    with n1.awake(), n2.awake():
        said = project.pulumi(
            *("up", "--stack", project.stack, "--yes", "--skip-preview", "--refresh", "--expect-no-changes"),
            *BUT_THE_WAIT,
        )
    assert "unchanged" in said


def test_a_host_with_another_key_is_refused_by_the_engine_and_by_virsh(
    project: Project, host: Host, tmp_path: Path
) -> None:
    strange = tmp_path / "known_hosts"
    other = (project.folder.parent / "host" / "operator.pub").read_text().split()
    strange.write_text(f"[127.0.0.1]:{host.port} {other[0]} {other[1]}\n")
    uri = host.uri.replace(str(host.known_hosts), str(strange))
    assert "Host key verification failed" in virsh.virsh(uri, "version").stderr
    with project.changed() as config:
        config["hosts"][HOST_NAME]["uri"] = uri
        project.write()
        said = project.pulumi("preview", "--stack", project.stack, "--refresh", *BUT_THE_WAIT, ok=False)
    assert "knownhosts: key mismatch" in said


def test_a_node_is_reached_through_the_host_by_the_uris_own_keys(host: Host, tmp_path: Path) -> None:
    login = {"user": USER, "address": NETWORK.replace(".0/24", ".1"), "host_key": host.host_key}
    key = host.key.read_text()
    with ssh.session(ssh.Login(**login, key=key, jump=host.uri)) as ask:
        through = ask("echo $SSH_CONNECTION", timeout_s=90)
    assert through.returncode == 0, through.stderr
    assert through.stdout.split()[2] == login["address"], "it came in on the network of the nodes"
    strange = tmp_path / "known_hosts"
    strange.write_text(f"[127.0.0.1]:{host.port} {host.key.with_suffix('.pub').read_text()}")
    uri = host.uri.replace(str(host.known_hosts), str(strange))
    with ssh.session(ssh.Login(**login, key=key, jump=uri)) as ask:
        refused = ask("true", timeout_s=90)
    assert ssh.lost(refused)
    assert "Host key verification failed" in refused.stderr
    assert not ssh.stranger(refused), "the host is the stranger, not the node"


def test_each_qemu_is_confined_by_a_profile_of_its_own(inside: Inside, n1: Machine, n2: Machine) -> None:
    profiles = inside.profiles()
    for node in (n1, n2):
        assert profiles[node.profile] == "enforce"
        assert inside(f"cat /proc/{node.pid()}/attr/current") == f"{node.profile} (enforce)"


def test_qemu_is_nobody(inside: Inside, n1: Machine) -> None:
    text = inside(f"cat /proc/{n1.pid()}/status")
    status = dict(line.split(":", 1) for line in text.splitlines())
    assert "0" not in status["Uid"].split()
    assert int(status["CapEff"], 16) == 0
    assert status["NoNewPrivs"].strip() == "1"
    assert status["Seccomp"].strip() == "2"


def test_a_running_qemu_opens_its_own_files_and_no_neighbours(n1: Machine, n2: Machine) -> None:
    for own in ("root", "seed"):
        assert n1.opens(n1.file(own)) is None
    for path in (
        n2.file("root"),
        n2.file("seed"),
        "/etc/hostname",
        "/etc/shadow",
        f"/etc/libvirt/qemu/{n2.name}.xml",
    ):
        assert n1.opens(path) == f"Could not open '{path}': Permission denied"


def test_without_enforcement_the_same_qemu_opens_the_neighbours_disk(n1: Machine, n2: Machine) -> None:
    with n1.unenforced():
        assert n1.opens(n2.file("seed")) is None
    assert "Permission denied" in str(n1.opens(n2.file("seed")))


def test_frames_with_a_foreign_claim_are_dropped_and_good_ones_pass(n1: Machine) -> None:
    with n1.awake():
        passed = n1.inject()
    assert passed == {name: name.startswith("good") for name in passed}
    assert sum(passed.values()) == 3
    assert len(passed) == 11


def test_without_the_filter_every_one_of_those_frames_passes(n1: Machine) -> None:
    with n1.awake(), n1.without_filter():
        passed = n1.inject()
    assert set(passed.values()) == {True}


@pytest.mark.parametrize("label", ["<seclabel type='none'/>", "<seclabel type='none' model='apparmor'/>"])
def test_an_unconfined_domain_is_refused(inside: Inside, label: str) -> None:
    create = "cat >/tmp/loose.xml; virsh --connect qemu:///system create --paused /tmp/loose.xml"
    refused = inside.run(create, stdin=UNCONFINED.format(label))
    assert refused.returncode != 0
    assert "Unconfined guests are not allowed on this host" in refused.stderr


def test_memory_is_bounded_as_the_stack_computes_it(inside: Inside, n1: Machine) -> None:
    assert int(inside(f"cat '{n1.limit_file()}'")) == (512 + 1024) * MIB


def _state_after(host: Host, machine: Machine, before: str) -> str:
    """The machine's state once libvirt has noticed that its QEMU is gone, which takes it a moment."""
    end = time.monotonic() + 60
    while (state := virsh.domain_state(host.uri, machine.name)).startswith(before) and time.monotonic() < end:
        time.sleep(0.5)
    return state


def test_a_qemu_that_outgrows_its_limit_is_killed_and_nothing_else(
    inside: Inside, host: Host, n1: Machine, n2: Machine
) -> None:
    facts = "cat /proc/sys/kernel/random/boot_id; pidof libvirtd"
    was, pid, scope = inside(facts), n2.pid(), n2.scope()
    assert n2.grow("within", 768), "half of the limit is no harm"
    assert int(inside(f"cat '{scope}/libvirt/memory.current'")) > 768 * MIB
    assert not n2.grow("beyond", 1024)
    log = inside("dmesg")
    assert "oom-kill:constraint=CONSTRAINT_MEMCG" in log
    assert f"Memory cgroup out of memory: Killed process {pid} (qemu-system-x86)" in log
    assert "constraint=CONSTRAINT_NONE" not in log, "the host itself never ran short"
    assert _state_after(host, n2, "paused") == "shut off (crashed)"
    assert inside(facts) == was
    assert virsh.domain_state(host.uri, n1.name) == "paused (user)"


def test_destroy_leaves_no_profile_rule_scope_or_file(
    project: Project, inside: Inside, before: set[str], n1: Machine, n2: Machine
) -> None:
    project.destroy()
    after = inside.inventory()
    assert after - before == {
        # Debian's libvirt keeps these: a profile that is not loaded and names no file, QEMU's log, and until
        # the host restarts the number of a dnsmasq that is gone.
        *(f"/etc/apparmor.d/libvirt/{node.profile}" for node in (n1, n2)),
        *(f"{node.name}.log" for node in (n1, n2)),
        f"/run/libvirt/network/{project.prefix}.pid",
        "loose.log",
    }
    assert before - after == set()
    for node in (n1, n2):
        assert POOL not in inside(f"cat /etc/apparmor.d/libvirt/{node.profile}")
