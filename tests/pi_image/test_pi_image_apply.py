"""apply.sh and firstrun.sh, run for real on a board of Debian parts: a first boot that fails, and on.

Boot 1 starts the first boot, which fails half way. Boot 2 starts it again by itself, and it ends in a reboot.
Boot 3 looks at the board, and applies bundles again as `up` does.
"""

from __future__ import annotations

import io
import shutil
import stat
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from pi_board_support import Disk
from pi_image_support import HOST_KEY, SETTINGS

from layer1.pi.bundle import archive, boot_files, bundle, digest
from layer1.pi.release import Mechanism, Release

RELEASE = Release(codename="trixie", image_date="2026-04-13", mechanism=Mechanism.CLOUD_INIT)
FAT = "boot/firmware"
NEXT = replace(
    SETTINGS,
    user="ops",
    hostname="pi-2",
    address="192.168.1.21/24",
    operator_networks=(),
    cluster_networks=(),
)

FIRST = """
sh /boot/firmware/firstrun.sh
echo $? >/root/first.code
systemctl poweroff -ff
"""

LOOK = r"""
mkdir /root/out
cd /root/out
until systemctl --quiet is-active ssh.service; do sleep 0.2; done
apply() { sh "$2/apply.sh" "$2" >"$1" 2>&1; echo $? >"$1.code"; cp /var/lib/layer1/applied "$1.applied"; }
apply second /root/same
nft list ruleset >ruleset
sshd -T >sshd
sshd -T -C user=layer1-status,host=x,addr=10.0.0.9 >sshd.status
sshd -T -C user=layer1-apply,host=x,addr=10.0.0.9 >sshd.apply
for unit in ssh layer1-firewall layer1-packages.timer k3s-install k3s-config.path nftables avahi-daemon \
    avahi-daemon.socket bluetooth regenerate_ssh_host_keys; do
    echo "$unit $(systemctl is-enabled $unit 2>/dev/null) $(systemctl is-active $unit)"
done >units
getent shadow pi layer1 layer1-status layer1-apply root >shadow
getent passwd pi >passwd
id -nG pi >pi.groups
sudo -l -U layer1 >sudo.operator
sudo -l -U layer1-apply >sudo.apply
sudo -l -U pi >sudo.pi
sysctl vm.overcommit_memory kernel.panic net.ipv4.conf.all.rp_filter >sysctl
hostname >hostname
journalctl --header >journal
tar -cf other.tar -C / etc/layer1 etc/ssh/layer1-keys  # what the next bundle must change
mkdir -p /etc/ssh/layer1-keys && echo "ssh-ed25519 AAAA stray" >/etc/ssh/layer1-keys/stray
apply next /root/next
apply next-again /root/next
nft list ruleset >ruleset.next
sshd -T >sshd.next
cp /var/lib/layer1/reboot-required reboot-required.next
ls /etc/ssh/layer1-keys >keys.next
cp -a /root/next /root/broken
echo "Nonsense yes" >>/root/broken/files/etc/ssh/sshd_config.d/00-layer1.conf
apply broken /root/broken
sshd -T >sshd.broken
systemctl is-active ssh >ssh.broken
apply mended /root/next
echo done >done
systemctl poweroff -ff
"""

SYSV_PI = "pi:x:1000:1000::/home/pi:/bin/bash"


@dataclass(frozen=True)
class Seen:
    """What the boots left behind."""

    disk: Disk
    after_first: dict[str, str]
    after_second: set[str]

    def __call__(self, name: str) -> str:
        return (self.disk.upper / "root/out" / name).read_text()

    def path(self, name: str) -> Path:
        return self.disk.upper / name


def _unpacked(disk: Disk, name: str, content: dict[str, str]) -> None:
    with tarfile.open(fileobj=io.BytesIO(archive(content))) as tar:
        tar.extractall(disk.upper / "root" / name, filter="data")


def _prepare(disk: Disk) -> None:
    """Make a board as Raspberry Pi's images are: the login pi with sudo, and a FAT with our files."""
    for name, data in boot_files(SETTINGS, RELEASE).files.items():
        disk.write(f"{FAT}/{name}", data, 0o755)
    disk.write(f"{FAT}/cmdline.txt", "root=/dev/x rootwait cgroup_memory=1 cgroup_enable=memory\n")
    for file, line in {
        "passwd": SYSV_PI,
        "group": "pi:x:1000:",
        "shadow": "pi:$6$not$real:20000:0:99999:7:::",
    }.items():
        with (disk.upper / "etc" / file).open("a") as stream:
            stream.write(f"{line}\n")
    sudo = (disk.upper / "etc/group").read_text()
    (disk.upper / "etc/group").write_text(sudo.replace("sudo:x:27:", "sudo:x:27:pi"))
    disk.write("etc/sudoers.d/010_pi-nopasswd", "pi ALL=(ALL) NOPASSWD: ALL\n", 0o440)
    disk.write("etc/ssh/sshd_config.d/rename_user.conf", "Banner /etc/issue\n")
    disk.write("home/pi/.ssh/authorized_keys", "ssh-ed25519 AAAA old\n")
    disk.write("etc/cloud/cloud.cfg", "")
    disk.write("etc/netplan/50-cloud-init.yaml", "network: {}\n")
    disk.write("etc/hosts", "127.0.0.1 localhost\n127.0.1.1 raspberrypi\n")
    disk.write("var/log/journal/old", "old\n")
    disk.write("var/swap", "swap\n")
    disk.write("etc/rpi/swap.conf", "")
    disk.write("usr/sbin/NetworkManager", "#!/bin/sh\nexec sleep infinity\n", 0o755)
    unit = "[Service]\nExecStart=/usr/sbin/NetworkManager\n[Install]\nWantedBy=multi-user.target\n"
    disk.write(
        "usr/lib/systemd/system/NetworkManager.service", unit
    )  # a stand-in: the keyfile's format is not read
    keys = "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n"
    disk.write("usr/lib/systemd/system/regenerate_ssh_host_keys.service", keys)
    _unpacked(disk, "same", bundle(SETTINGS))
    _unpacked(disk, "next", bundle(NEXT))
    disk.at_boot("first", FIRST, "ConditionPathExists=!/root/first.code")
    disk.at_boot("look", LOOK, "ConditionPathExists=/var/lib/layer1/applied")


@pytest.fixture(scope="module")
def seen() -> Iterator[Seen]:
    folder = Path(tempfile.mkdtemp(prefix="layer1-board-"))
    disk = Disk(folder / folder.name)
    try:
        _prepare(disk)
        nft = disk.upper / "usr/sbin/nft"
        disk.write("usr/sbin/nft", "#!/bin/sh\necho no netlink >&2\nexit 1\n", 0o755)
        disk.boot()
        after_first = {
            "code": (disk.upper / "root/first.code").read_text(),
            "log": (disk.upper / FAT / "layer1-firstboot.log").read_text(),
            "names": " ".join(
                sorted(path.name for path in (disk.upper / FAT).iterdir() if not _whiteout(path))
            ),
            "applied": str((disk.upper / "var/lib/layer1/applied").exists()),
            "mode": oct(stat.S_IMODE((disk.upper / "var/lib/layer1/firstboot").stat().st_mode)),
        }
        nft.unlink()
        disk.boot()
        after_second = {path.name for path in (disk.upper / FAT).iterdir() if not _whiteout(path)}
        disk.boot()
        assert (disk.upper / "root/out/done").exists(), (disk.folder / "console").read_text()[-2000:]
        yield Seen(disk, after_first, after_second)
    finally:
        disk.discard()
        shutil.rmtree(folder)


def _whiteout(path: Path) -> bool:
    """Say whether it is overlayfs' sign that a file of the tree is gone."""
    return stat.S_ISCHR(path.lstat().st_mode)


def test_a_first_boot_that_fails_says_so_keeps_its_bundle_and_claims_nothing(seen: Seen) -> None:
    assert seen.after_first["code"] == "1\n"
    assert "failed: nft does not take the firewall's rules" in seen.after_first["log"]
    assert "FAILED; it runs again at the next boot" in seen.after_first["log"]
    assert seen.after_first["applied"] == "False"
    assert "firstrun.sh" in seen.after_first["names"]
    # The host key had left the FAT before anything else was done.
    assert "layer1.tar" not in seen.after_first["names"]
    assert seen.after_first["mode"] == "0o700"


def test_the_next_boot_runs_it_again_to_its_end_and_leaves_no_trace(seen: Seen) -> None:
    log = seen.path(f"{FAT}/layer1-firstboot.log").read_text()
    assert log.count("first boot of bundle") == 2
    assert log.rstrip().endswith("done")
    assert "changed: user layer1\n" in log.partition("FAILED")[0]
    assert "changed: user layer1\n" not in log.partition("FAILED")[2]
    assert seen.after_second == {"cmdline.txt", "layer1-firstboot.log"}
    assert not seen.path("var/lib/layer1/firstboot").exists()
    assert not seen.path("etc/systemd/system/layer1-firstboot.service").exists()
    assert seen.path("etc/cloud/cloud-init.disabled").exists()
    secret = HOST_KEY.splitlines()[2]
    for path in (seen.path(FAT), seen.path("var/lib/layer1"), seen.path("var/log")):
        assert not any(
            secret in file.read_text(errors="replace") for file in path.rglob("*") if file.is_file()
        )


def test_a_second_run_changes_nothing(seen: Seen) -> None:
    assert seen("second.code") == "0\n"
    assert seen("second") == ""
    assert seen("second.applied").strip() == digest(bundle(SETTINGS))


def test_ssh_takes_keys_of_three_users_alone(seen: Seen) -> None:
    lines = seen("sshd").splitlines()
    assert "hostkey /etc/ssh/layer1_host_ed25519_key" in lines
    assert sum(line.startswith("hostkey ") for line in lines) == 1
    for wanted in (
        "passwordauthentication no",
        "kbdinteractiveauthentication no",
        "permitrootlogin no",
        "authenticationmethods publickey",
        "authorizedkeysfile /etc/ssh/layer1-keys/%u",
        "banner none",
    ):
        assert wanted in lines
    allowed = [line for line in lines if line.startswith("allowusers")]
    assert allowed == ["allowusers layer1", "allowusers layer1-status", "allowusers layer1-apply"]
    assert "forcecommand /usr/local/lib/layer1/status.sh" in seen("sshd.status").splitlines()
    assert "forcecommand /usr/local/lib/layer1/receive.sh" in seen("sshd.apply").splitlines()
    assert "disableforwarding yes" in seen("sshd.apply").splitlines()


def test_nobody_has_a_password_and_pi_has_no_login(seen: Seen) -> None:
    fields = {line.split(":")[0]: line.split(":") for line in seen("shadow").splitlines()}
    assert {fields[name][1] for name in ("pi", "layer1", "layer1-status", "layer1-apply", "root")} == {"*"}
    assert fields["pi"][7] == "1"
    assert seen("passwd").strip().endswith(":/usr/sbin/nologin")
    assert seen("pi.groups").split() == ["pi"]
    assert _gone(seen, "home/pi/.ssh/authorized_keys")
    assert _gone(seen, "etc/sudoers.d/010_pi-nopasswd")
    assert "not allowed to run sudo" in seen("sudo.pi")
    assert "(ALL : ALL) NOPASSWD: ALL" in seen("sudo.operator")
    assert seen("sudo.apply").strip().endswith("(root) NOPASSWD: /usr/local/lib/layer1/receive.sh")


def _gone(seen: Seen, path: str) -> bool:
    place = seen.path(path)
    return not place.exists() or _whiteout(place)


def test_the_firewall_drops_what_is_not_named(seen: Seen) -> None:
    rules = seen("ruleset")
    assert rules.count("table ") == 1
    assert "hook input priority filter; policy drop;" in rules
    assert "ip saddr { 10.9.0.0/16, 192.168.1.0/24 } tcp dport { 22, 6443 } accept" in rules
    assert "ip saddr 192.168.1.0/24 udp dport 8472 accept" in rules
    assert 'iifname { "cni0", "flannel.1" } tcp dport { 6443, 10250 } accept' in rules
    assert rules.count("dport") == 4
    assert "hook forward" not in rules


def test_units_are_on_and_off_as_they_must(seen: Seen) -> None:
    units = {line.split(" ", 1)[0]: line.split(" ", 1)[1] for line in seen("units").splitlines()}
    assert units["ssh"] == "enabled active"
    assert units["layer1-firewall"] == "enabled active"
    assert units["layer1-packages.timer"] == "enabled active"
    assert units["k3s-install"].startswith("enabled ")
    assert units["k3s-config.path"].startswith("disabled ")  # the installer's step enables it
    for name in ("nftables", "avahi-daemon", "avahi-daemon.socket", "bluetooth", "regenerate_ssh_host_keys"):
        assert units[name] == "masked inactive", name


def test_kernel_journal_swap_and_names(seen: Seen) -> None:
    assert "vm.overcommit_memory = 1" in seen("sysctl")
    assert "net.ipv4.conf.all.rp_filter = 2" in seen("sysctl")
    assert "/run/log/journal/" in seen("journal")
    assert "/var/log/journal/" not in seen("journal")
    assert _gone(seen, "var/log/journal")
    assert _gone(seen, "var/swap")
    assert "Mechanism=none" in seen.path("etc/rpi/swap.conf.d/90-layer1.conf").read_text()
    assert seen("hostname") == "pi-1\n"
    assert _gone(seen, "etc/netplan/50-cloud-init.yaml")
    assert stat.S_IMODE(seen.path("etc/rancher/k3s").stat().st_mode) == 0o700


def test_another_bundle_changes_what_differs_and_nothing_else(seen: Seen) -> None:
    assert seen("next.code") == "0\n"
    assert sorted(seen("next").splitlines()) == sorted(
        [
            "changed: user ops",
            "changed: /etc/sudoers.d/layer1",
            "changed: /etc/ssh/layer1-keys/ops",
            "changed: /etc/ssh/layer1-keys/layer1 is gone",
            "changed: /etc/ssh/layer1-keys/stray is gone",
            "changed: /etc/ssh/sshd_config.d/00-layer1.conf",
            "changed: /etc/layer1/firewall.nft",
            "changed: /etc/hostname",
            "changed: /etc/hosts",
            "changed: /etc/NetworkManager/system-connections/layer1.nmconnection",
            f"changed: applied {digest(bundle(NEXT))}",
        ]
    )
    assert seen("next-again") == ""
    assert seen("reboot-required.next") == "the network's settings\n"
    assert seen("keys.next").split() == ["layer1-apply", "layer1-status", "ops"]
    assert "tcp dport { 22, 6443 } accept" in seen("ruleset.next")
    assert "8472" not in seen("ruleset.next")
    assert "allowusers ops" in seen("sshd.next").splitlines()
    keyfile = seen.path("etc/NetworkManager/system-connections/layer1.nmconnection")
    assert stat.S_IMODE(keyfile.stat().st_mode) == 0o600
    assert "address1=192.168.1.21/24,192.168.1.1\n" in keyfile.read_text()
    assert seen.path("etc/hosts").read_text() == "127.0.0.1 localhost\n127.0.1.1 pi-2\n"


def test_a_configuration_that_sshd_refuses_keeps_the_one_before_and_counts_as_not_applied(seen: Seen) -> None:
    assert seen("broken.code") == "1\n"
    assert "Bad configuration option: Nonsense" in seen("broken")
    assert "sshd does not take its new configuration; the one before is back" in seen("broken")
    assert not seen.path("root/out/broken.applied").exists()
    assert seen("sshd.broken") == seen("sshd.next")
    assert seen("ssh.broken") == "active\n"
    assert seen("mended.code") == "0\n"
    assert seen("mended") == f"changed: applied {digest(bundle(NEXT))}\n"
