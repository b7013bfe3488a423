"""The practice image itself, booted by plain QEMU: real Ignition, real sshd."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from lab_samples import MARK, Keys

from lab.boot import OVMF, Guest

pytestmark = [pytest.mark.guest, pytest.mark.timeout(900)]
LIMIT_S = 300  # of one boot, under emulation on a busy machine


def answer(guest: Guest, keys: Keys, command: str) -> str:
    result = guest.ssh(command, **keys.login)
    assert result.returncode == 0, f"{command}: {result.stderr}{result.stdout}"
    return result.stdout.strip()


def assert_provisioned(guest: Guest, keys: Keys) -> None:
    def ask(command: str) -> str:
        return answer(guest, keys, command)

    assert ask("hostname") == "k3s-1"
    assert ask("sudo stat -c '%a %U' /etc/rancher/k3s /etc/rancher/k3s/token") == "700 root\n600 root"
    assert ask("sudo cat /etc/rancher/k3s/token") == MARK
    assert ask("systemctl is-active hello.service usr-local-bin.mount") == "active\nactive"
    assert ask("systemctl is-enabled hello.service") == "enabled"
    assert ask("systemctl is-enabled locksmithd.service || true") == "masked"
    assert ask("id -Gn status").split() == ["status", "systemd-journal", "observers"]
    assert ask("systemctl --failed --no-legend") == ""

    words = ask("cat /proc/cmdline").split()
    assert "flatcar.autologin" not in words
    assert words.count("layer1.test") == words.count("quiet") == 1


def assert_usr_is_closed(guest: Guest, keys: Keys) -> None:
    for attempt in ("touch /usr/x", "mount -o remount,rw /usr", "touch /usr/bin/x"):
        result = guest.ssh(f"sudo {attempt}", **keys.login)
        assert result.returncode != 0, attempt
    device, kind, options = answer(
        guest, keys, "awk '$2 == \"/usr\" {print $1, $3, $4}' /proc/mounts"
    ).split()
    assert (device, kind) == ("/dev/mapper/usr", "squashfs")
    assert "ro" in options.split(",")
    assert answer(guest, keys, "sudo touch /usr/local/bin/x /opt/x /var/x && stat /opt/k3s/bin/x")
    assert guest.ssh("test -e /opt/bin", **keys.login).returncode != 0


def assert_no_config_left(guest: Guest, keys: Keys) -> None:
    # through a pipe: sudo writes its command line into the journal
    search = f"echo {MARK} | sudo grep -rlsF -f - /run /var /opt /home /root /tmp || true"
    assert answer(guest, keys, search) == ""
    assert answer(guest, keys, "sudo stat -c %a /var/log/ignition.log /run/initramfs/boot.log") == "600\n600"


def assert_k3s_stand_in_installs(guest: Guest, keys: Keys, url: str) -> None:
    release = url.replace("127.0.0.1", "10.0.2.2")  # the host, as QEMU's user network shows it
    answer(
        guest,
        keys,
        "sudo mkdir -p /etc/rancher/k3s && echo 'cluster-init: true' | sudo tee /etc/rancher/k3s/config.yaml",
    )
    environment = f"GITHUB_URL={release} INSTALL_K3S_VERSION=v1.33.4+k3s1 INSTALL_K3S_SKIP_SELINUX_RPM=true"
    answer(
        guest,
        keys,
        f"curl -sf -o /tmp/install.sh {release}/install.sh && sudo env {environment} sh /tmp/install.sh",
    )
    assert answer(guest, keys, "systemctl is-active k3s.service") == "active"
    assert answer(guest, keys, "sudo cat /var/lib/rancher/k3s/args.log") == "k3s server"
    assert answer(guest, keys, "sudo cat /var/lib/rancher/k3s/config-keys.log") == "cluster-init"
    assert "v1.33.4+k3s1" in answer(guest, keys, "/usr/local/bin/k3s --version")


def test_first_boot_provisions_and_later_boots_do_not(
    image: Path, rendered: str, keys: Keys, url: str, tmp_path: Path
) -> None:
    with Guest(tmp_path, image, rendered) as guest:
        first = guest.wait_ssh(**_limits(keys))
        assert guest.reboots == 1, "one reboot for the kernel arguments"
        assert_provisioned(guest, keys)
        assert_usr_is_closed(guest, keys)
        assert_no_config_left(guest, keys)
        assert int(answer(guest, keys, "df --output=size -m / | tail -1")) > 1500, "ROOT grows to the disk"
        assert_k3s_stand_in_installs(guest, keys, url)
        identity = answer(guest, keys, "cat /etc/machine-id; sudo cat /var/lib/ignition/provisioned")
        answer(guest, keys, "echo kept | sudo tee /etc/kept /var/kept")
        assert guest.ssh("true", key=keys.host, known_hosts=keys.known_hosts).returncode != 0, "only our key"

        guest.press_power_button()
        off = guest.wait_off(LIMIT_S)

        guest.start()
        second = guest.wait_ssh(**_limits(keys))
        assert guest.reboots == 0
        assert answer(guest, keys, "cat /etc/machine-id; sudo cat /var/lib/ignition/provisioned") == identity
        assert answer(guest, keys, "cat /etc/kept /var/kept") == "kept\nkept"
        assert "Ignition does not run" in answer(guest, keys, "sudo cat /run/initramfs/boot.log")
        assert_provisioned(guest, keys)
        assert answer(guest, keys, "systemctl is-enabled k3s.service") == "enabled"
        assert answer(guest, keys, "systemctl is-system-running --wait || true") == "running"
        assert answer(guest, keys, "systemctl is-active k3s.service") == "active"
    print(f"first boot {first:.0f} s, power off {off:.0f} s, second boot {second:.0f} s")


def _limits(keys: Keys) -> dict[str, Any]:
    return {**keys.login, "timeout": LIMIT_S}


@pytest.mark.skipif(not OVMF.exists(), reason="needs the Debian package ovmf")
def test_uefi_boots_as_well(image: Path, rendered: str, keys: Keys, tmp_path: Path) -> None:
    with Guest(tmp_path, image, rendered, uefi=True) as guest:
        guest.wait_ssh(**_limits(keys))
        assert guest.reboots == 1
        assert_provisioned(guest, keys)
        assert answer(guest, keys, "ls -d /sys/firmware/efi") == "/sys/firmware/efi"


def test_a_network_without_dhcp_does_not_stop_the_config_drive(
    image: Path, config: dict[str, Any], tmp_path: Path
) -> None:
    unit = "[Service]\nType=oneshot\nExecStart=/usr/bin/systemctl --no-block poweroff\n"
    unit += "[Install]\nWantedBy=multi-user.target\n"
    config["systemd"]["units"] = [{"name": "off.service", "enabled": True, "contents": unit}]
    with Guest(tmp_path, image, json.dumps(config), answering_network=False) as guest:
        guest.wait_off(LIMIT_S)
        assert guest.root_file("/var/log/ignition-failed.log") is None
        assert guest.root_file("/var/lib/ignition/provisioned")
        assert "nothing answers DHCP" in (guest.root_file("/var/log/ignition.log") or "")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"ignition": {"version": "9.9.0"}}, "unsupported config version"),
        (
            {"storage": {"files": [{"path": "/usr/local/bin/x", "contents": {"source": f"data:,{MARK}"}}]}},
            "read-only",
        ),
    ],
    ids=["version", "write-below-usr"],
)
def test_a_broken_config_powers_off_with_a_reason_and_without_the_config(
    image: Path, config: dict[str, Any], change: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    config.pop("kernelArguments")
    secret = config["storage"]["files"]
    config.update(change)
    config["storage"]["files"] = [*secret, *change.get("storage", {}).get("files", [])]
    with Guest(tmp_path, image, json.dumps(config)) as guest:
        guest.wait_off(LIMIT_S)
        log = guest.root_file("/var/log/ignition-failed.log")
        assert log is not None
        assert reason in log
        assert "FAILED: Ignition stage" in log
        assert MARK not in log
        assert "BEGIN OPENSSH PRIVATE KEY" not in log
        assert guest.root_file("/var/lib/ignition/provisioned") is None
