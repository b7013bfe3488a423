"""A Talos node's seed, read inside a guest: label, files and bytes as the real talosctl made them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from lab_samples import Keys

from lab.boot import Guest
from layer1 import seed_iso
from layer1.talos import machine_config
from layer1.talos import seed as talos_seed
from layer1.talos.machine_config import ClusterSpec, MachineSpec, Role

pytestmark = [pytest.mark.guest, pytest.mark.timeout(900)]
LIMIT_S = 300


@pytest.fixture(scope="module")
def files() -> dict[str, str]:
    """What `up` puts on the seed of a control plane."""
    cluster = ClusterSpec(
        name="lab",
        endpoint="10.11.0.20",
        control_planes=("10.11.0.20",),
        operator_networks=("10.11.0.1",),
    )
    machine = MachineSpec(
        role=Role.CONTROLPLANE,
        hostname="cp-1",
        address="10.11.0.20/24",
        gateway="10.11.0.1",
        schematic_id="a" * 64,
    )
    config = machine_config.generate_config(machine_config.generate_secrets(), cluster, machine)
    machine_config.validate(config)
    return talos_seed.files(config, machine, "7135ee94-0ee7-5dbd-a2cf-cd241921b62e")


@pytest.fixture
def iso(files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LAYER1_WORK", str(tmp_path / "work"))
    return seed_iso.build("cp-1-seed.iso", talos_seed.LABEL, files)


def test_a_guest_reads_from_the_seed_what_talos_will_read(
    image: Path, rendered: str, keys: Keys, files: dict[str, str], iso: Path
) -> None:
    folder = iso.parent.parent
    with Guest(folder, image, rendered, discs=[iso]) as guest:
        guest.wait_ssh(**keys.login, timeout=LIMIT_S)

        def ask(command: str) -> str:
            result = guest.ssh(command, **keys.login)
            assert result.returncode == 0, f"{command}: {result.stderr}{result.stdout}"
            return result.stdout.strip()

        # Talos finds the volume by its label among all block devices, and mounts it read-only.
        (device,) = ask("sudo blkid --match-token LABEL=cidata --output device").split()
        assert ask(f"sudo blkid --output value --match-tag TYPE {device}") == "iso9660"
        ask(f"sudo mkdir /run/seed && sudo mount -o ro -t iso9660 {device} /run/seed")
        assert set(ask("sudo ls -A /run/seed").split()) == set(talos_seed.FILES)
        for name, text in files.items():
            digest = hashlib.sha256(text.encode()).hexdigest()
            assert ask(f"sudo sha256sum /run/seed/{name}").split()[0] == digest, name
        assert guest.ssh("sudo touch /run/seed/more", **keys.login).returncode != 0
