"""A board's whole way, on a practice board: the real image code, the real first boot, the real SSH after it.

Real: what Layer 1 writes and runs, systemd's first-boot mechanism, sshd, nftables, AppArmor, NetworkManager.
Stand-in: the Pi's firmware and kernel (lab/arm64/firmware.py), Raspberry Pi OS' own programs, k3s.
The tests stand in the order of the board's life; each of the last ones goes on from the one before.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from arm64_support import K3S_VERSION, LIMIT_S, USER, Keys, Shell, wait_until

from lab.arm64.boot import Board
from lab.arm64.firmware import boot_file_names, kernel_arguments, read_boot_file
from layer1 import ssh
from layer1.node_status import Status, first, parse_status
from layer1.pi import partitions, remote
from layer1.pi.bundle import BoardSettings, archive, bundle, digest
from layer1.pi.remote import Applied, BoardTarget
from layer1.processes import run

API, CLOSED = 6443, 8000
pytestmark = [pytest.mark.arm64, pytest.mark.timeout(1800)]


def _refused(board: Board, keys: Keys, *, user: str, key: str = "operator", method: str = "publickey") -> str:
    """Return what sshd offers to someone whom it does not let in."""
    options = {
        "PreferredAuthentications": method,
        "IdentitiesOnly": "yes",
        "IdentityFile": str(keys.folder / key),
        "UserKnownHostsFile": str(keys.known_hosts),
        "StrictHostKeyChecking": "yes",
        "HostKeyAlias": "guest",
        "NumberOfPasswordPrompts": "1",
        "ConnectTimeout": "30",
    }
    words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    result = run(["ssh", "-F", "none", *words, "-p", str(board.port), f"{user}@127.0.0.1", "true"])
    assert result.returncode == 255, result.stdout
    found = re.search(r"Permission denied \((.*)\)", result.stderr)
    assert found, result.stderr
    return found[1]


def _values(text: str) -> dict[str, str]:
    return dict(line.split(maxsplit=1) for line in text.splitlines())


def _get(board: Board, port: int) -> int:
    """Ask the guest over HTTP from outside, and return curl's exit code."""
    url = f"http://127.0.0.1:{board.forwarded(port)}/"
    return run(["curl", "--silent", "--output", "/dev/null", "--max-time", "15", url]).returncode


# Before and during the first boot.


def test_control_nobody_can_log_in_to_the_image_as_it_comes(base: Path) -> None:
    root = f"{base}?offset={partitions.read(base).root.start_bytes}"
    shadow = run(["debugfs", "-R", "cat /etc/shadow", root]).stdout
    passwords = {line.split(":")[0]: line.split(":")[1] for line in shadow.splitlines()}
    assert "pi" in passwords
    assert USER not in passwords
    assert set(passwords.values()) <= {"*", "!", "!*"}
    wants = run(["debugfs", "-R", "ls -p /etc/systemd/system/multi-user.target.wants", root]).stdout
    assert "NetworkManager.service" in wants
    assert "ssh.service" not in wants


def test_a_pulled_plug_leaves_what_the_next_boot_needs(interrupted: tuple[Board, set[str]]) -> None:
    board, names = interrupted
    assert "firstrun.sh" in names
    assert len(board.starts) >= 2, "Raspberry Pi OS' own first boot came before"


def test_each_start_read_the_card_anew(board: Board) -> None:
    lines = [start.arguments for start in board.starts]
    assert "init=/usr/lib/raspberrypi-sys-mods/firstboot" in lines[0], "Raspberry Pi OS' own first boot"
    assert "systemd.run=/boot/firmware/firstrun.sh" in lines[0]
    again = [line for line in lines[1:] if "systemd.run=" in line]
    assert len(again) == 2, "cut once, whole once"
    assert "systemd." not in lines[-1]
    assert len(lines) == 4


def test_the_first_boot_ended_well_and_left_no_secret_on_the_fat(
    card: Path, board: Board, keys: Keys
) -> None:
    names = boot_file_names(card)
    assert not names & {"firstrun.sh", "layer1.tar", "user-data"}
    log = read_boot_file(card, "layer1-firstboot.log")
    assert log.splitlines()[-1] == "done"
    secret_line = keys.private("host").splitlines()[1]
    assert secret_line not in log
    boot = partitions.read(card).boot
    with card.open("rb") as stream:
        stream.seek(boot.start_bytes)
        content = stream.read(boot.size_bytes)
    assert b"[all]" in content or b"arm_64bit=1" in content, "this is the FAT partition"
    assert secret_line.encode() not in content, "not in free clusters either"


# The board as it is after it.


def test_key_login_as_the_operator_on_the_pinned_host_key(ask: Shell, board: Board, keys: Keys) -> None:
    assert ask("id -un; hostname; uname -m").split() == [USER, "pi-1", "aarch64"]
    assert ask("sudo -n id -u") == "0"
    scanned = run(
        ["ssh-keyscan", "-T", "30", "-t", "ed25519,rsa,ecdsa", "-p", str(board.port), "127.0.0.1"],
        timeout_s=60,
    ).stdout
    assert {" ".join(line.split()[1:3]) for line in scanned.splitlines() if not line.startswith("#")} == {
        " ".join(keys.public("host").split()[:2])
    }


@pytest.mark.parametrize("method", ["password", "keyboard-interactive", "none"])
@pytest.mark.parametrize("user", [USER, "root", "pi"])
def test_sshd_offers_keys_alone(board: Board, keys: Keys, user: str, method: str) -> None:
    assert _refused(board, keys, user=user, method=method) == "publickey"


@pytest.mark.parametrize(
    ("user", "key"),
    [
        ("root", "operator"),
        ("pi", "operator"),
        (USER, "stranger"),
        (USER, "status"),
        ("layer1-apply", "operator"),
    ],
)
def test_other_users_and_other_keys_are_refused(board: Board, keys: Keys, user: str, key: str) -> None:
    assert _refused(board, keys, user=user, key=key) == "publickey"


def test_the_images_own_user_is_closed(ask: Shell) -> None:
    password, expiry = ask("sudo getent shadow pi | cut -d: -f2,8").split(":")
    assert password[0] in "*!"
    assert expiry == "1"
    assert ask("sudo -l -U pi").endswith("is not allowed to run sudo on pi-1.")
    hashes = ask("sudo getent shadow | cut -d: -f2").split()
    assert {value[0] for value in hashes} <= {"*", "!"}, "nobody has a password"


def test_the_kernel_has_the_arguments_and_the_memory_controller(ask: Shell) -> None:
    words = ask("cat /proc/cmdline").split()
    assert {"cgroup_memory=1", "cgroup_enable=memory", "apparmor=1", "security=apparmor"} <= set(words)
    assert "memory" in ask("cat /sys/fs/cgroup/cgroup.controllers").split()


def test_the_firewall_drops_what_is_not_allowed(board: Board, ask: Shell) -> None:
    table = ask("sudo nft list table inet layer1")
    assert "hook input priority filter; policy drop;" in table
    assert "tcp dport { 22, 6443 } accept" in table
    assert "ip saddr 10.0.2.0/24 udp dport 8472 accept" in table
    for port in (API, CLOSED):
        ask(f"sudo systemd-run --quiet --unit=listener-{port} python3 -m http.server --directory /run {port}")
        wait_until(lambda port=port: bool(ask(f"ss -tlnH sport = :{port}")), f"something listens on {port}")
    assert _get(board, API) == 0, "the control: what is allowed arrives"
    assert _get(board, CLOSED) == 28, "curl gives up: nothing answers"
    ask(f"sudo systemctl stop listener-{API} listener-{CLOSED}")


def test_apparmor_confines(ask: Shell) -> None:
    assert ask("cat /sys/module/apparmor/parameters/enabled") == "Y"
    assert "apparmor" in ask("cat /sys/kernel/security/lsm").split(",")
    assert ask("systemctl is-active apparmor.service") == "active"


def test_the_kernels_settings_read_back(ask: Shell, facts: BoardSettings) -> None:
    wanted = bundle(facts)["files/etc/sysctl.d/90-layer1.conf"]
    settings = [line.lstrip("-") for line in wanted.splitlines() if line and not line.startswith("#")]
    pairs = [line.split("=") for line in settings]  # "-": it may be missing; here none is
    assert len(pairs) > 10
    found = ask(f"/usr/sbin/sysctl {' '.join(name for name, _ in pairs)}")
    assert [line.split(" = ") for line in found.splitlines()] == pairs


def test_swap_is_off_and_the_log_is_in_memory(ask: Shell) -> None:
    assert len(ask("cat /proc/swaps").splitlines()) == 1
    ask("test ! -e /var/swap && test ! -e /var/log/journal")
    assert ask("ls /run/log/journal") != ""


def test_services_that_nobody_needs_are_off(ask: Shell) -> None:
    names = "avahi-daemon.service avahi-daemon.socket dphys-swapfile.service userconfig.service"
    assert set(ask(f"systemctl is-enabled {names} || true").split()) == {"masked"}
    assert set(ask(f"systemctl is-active {names} || true").split()) == {"inactive"}


def test_nothing_failed_and_the_network_is_the_configured_one(ask: Shell) -> None:
    wait_until(lambda: ask("systemctl is-system-running || true") == "running", "the system is up")
    assert ask("systemctl --failed --no-legend") == ""
    assert "layer1" in ask("nmcli --terse --fields NAME connection show --active").split()


def test_updates_come_by_themselves(ask: Shell) -> None:
    assert ask("apt-config dump APT::Periodic::Unattended-Upgrade").endswith('"1";')
    assert ask("apt-config dump Unattended-Upgrade::Automatic-Reboot").endswith('"false";')
    assert ask("systemctl is-enabled apt-daily-upgrade.timer") == "enabled"
    ask("sudo systemctl start layer1-packages.service")  # all is there, so it asks no mirror


# The boundary to Layer 2.


def test_k3s_is_installed_and_waits_for_its_config(ask: Shell) -> None:
    wait_until(lambda: ask("cat /var/lib/layer1/k3s-installed || true") == K3S_VERSION, "k3s is installed")
    wait_until(lambda: ask("systemctl is-active k3s-config.path || true") == "active", "the path unit waits")
    assert ask("systemctl is-active k3s.service || true") == "inactive"
    assert ask("sudo stat -c '%a %U:%G' /etc/rancher/k3s") == "700 root:root"
    assert ask("sudo ls -A /etc/rancher/k3s") == ""
    assert K3S_VERSION in ask("/usr/local/bin/k3s --version")


def test_a_config_starts_k3s(ask: Shell) -> None:
    ask("echo 'write-kubeconfig-mode: \"0600\"' | sudo tee /etc/rancher/k3s/config.yaml")
    wait_until(lambda: ask("systemctl is-active k3s.service || true") == "active", "k3s runs")
    command = ask("systemctl show k3s.service --property=ExecStart --value")
    assert "argv[]=/usr/local/bin/k3s server --config /etc/rancher/k3s/config.yaml ;" in command
    assert ask("sudo cat /var/lib/rancher/k3s/args.log") == (
        "k3s server --config /etc/rancher/k3s/config.yaml"
    )
    assert ask("sudo cat /var/lib/rancher/k3s/config-keys.log") == "write-kubeconfig-mode"


# Layer 1 again, over SSH.


def _apply(keys: Keys, facts: BoardSettings) -> Applied:
    target = BoardTarget(
        hostname=facts.hostname,
        address="127.0.0.1",
        host_key=facts.host_public,
        apply_key=keys.private("apply"),
        status_key=keys.private("status"),
        timeout_s=LIMIT_S,
    )
    return remote.apply(target, bundle(facts))


@pytest.mark.usefixtures("port_22")
def test_the_same_bundle_changes_nothing(ask: Shell, keys: Keys, facts: BoardSettings) -> None:
    assert ask("cat /var/lib/layer1/applied") == digest(bundle(facts))
    done = _apply(keys, facts)
    assert (done.digest, done.changed, done.rebooted) == (digest(bundle(facts)), [], False)


@pytest.mark.usefixtures("port_22")
def test_a_second_run_of_the_script_itself_changes_nothing(
    ask: Shell, facts: BoardSettings, keys: Keys
) -> None:
    before = ask("date +%s")
    wanted = digest(bundle(facts))
    login = ssh.Login(
        user="layer1-apply", address="127.0.0.1", host_key=facts.host_public, key=keys.private("apply")
    )
    with ssh.session(login) as gate:
        sent = gate(f"apply {wanted}", stdin=archive(bundle(facts)))
        assert sent.returncode == 0, sent.stderr

        def state() -> Status:
            return parse_status(gate("applied").stdout)

        wait_until(lambda: first(state(), "apply") == "idle", "the second run ended")
        assert first(state(), "result") == f"{wanted} 0"
        assert "log" not in state(), "no line of a change"
    assert ask(f"sudo find /etc /usr/local /var/lib/layer1 -newermt @{before}") == "/var/lib/layer1"


@pytest.mark.usefixtures("port_22")
def test_another_key_changes_exactly_that(ask: Shell, keys: Keys, facts: BoardSettings) -> None:
    changed = replace(facts, ssh_authorized_keys=(keys.public("operator"), keys.public("stranger")))
    done = _apply(keys, changed)
    assert done.changed == [f"/etc/ssh/layer1-keys/{USER}", f"applied {digest(bundle(changed))}"]
    assert not done.rebooted
    assert ask.board.ssh("true", **keys.login("stranger")).returncode == 0
    again = _apply(keys, facts)
    assert again.changed == [f"/etc/ssh/layer1-keys/{USER}", f"applied {digest(bundle(facts))}"]
    assert ask.board.ssh("true", **keys.login("stranger")).returncode == 255


@pytest.mark.usefixtures("port_22")
def test_what_needs_a_reboot_reboots_and_k3s_comes_back(
    board: Board, ask: Shell, keys: Keys, facts: BoardSettings
) -> None:
    starts = len(board.starts)
    changed = replace(facts, nameservers=(*facts.nameservers, "10.0.2.4"))
    done = _apply(keys, changed)
    assert done.rebooted
    assert len(board.starts) == starts + 1
    assert done.changed == [
        "/etc/NetworkManager/system-connections/layer1.nmconnection",
        f"applied {digest(bundle(changed))}",
    ]
    assert "10.0.2.4" in ask("cat /etc/resolv.conf")
    wait_until(lambda: ask("systemctl is-active k3s.service || true") == "active", "k3s runs again")
    assert "policy drop" in ask("sudo nft list table inet layer1")
    boots = ask("sudo journalctl --list-boots --no-pager | grep -cE '^ *-?[0-9]+ '")
    assert boots == "1", "the log does not outlive a boot"


# The stand-in of the Pi's kernel.


def test_control_without_the_words_the_stand_in_kernel_has_neither(board: Board) -> None:
    line = board.starts[-1].arguments
    for word, off in (("cgroup_enable=memory", "cgroup_disable=memory"), ("apparmor=1", "apparmor=0")):
        assert off not in line.split()
        assert off in kernel_arguments(line.replace(word, "")).split()
