"""Boards on the real engine: the shipped Pulumi.pi.yaml from local image sources, and its boards once booted.

Stand-ins: a disk without a system where the factory has Talos' image, a disk in the shape of Raspberry Pi
OS that a key made here signs, the stand-in of the Talos API at the one board's address, and Debian in
namespaces as the other board (tests/arm64 boots such an image).
"""

from __future__ import annotations

import hashlib
import json
import lzma
import os
import secrets
import shutil
import stat
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pi_image_support
import pi_remote_support
import pytest
import yaml
from engine_project import ProcessListWatch, Project
from image_support import Signer
from talos_project import cluster_secrets, own_addresses, standin

from layer1.images.artefact import RASPIOS_POLICIES
from layer1.images.lockfile import Entry, LockFile
from layer1.paths import REPOSITORY, cache_dir
from layer1.pi.bundle import bundle, digest
from layer1.pi.stack import parsed_settings
from layer1.talos import schematic

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

PREFIX = "layer1:"
TALOS_ADDRESS, K3S_ADDRESS = "10.77.0.31", pi_remote_support.ADDRESS
MADE, PUBLISHED = "2025-10-01", "2025-10-02"
SIGNED = datetime(2025, 10, 2, 9, 0, tzinfo=UTC)
FAMILY = "raspios_oldstable_lite_arm64"
SCHEMATIC = schematic.schematic_id(schematic.read(schematic.BOARDS["rpi4"]))
TALOS_BOARD = {"face": "maintenance", "role": "controlplane", "schematic": SCHEMATIC}
MIB = 1 << 20


@pytest.fixture(scope="module")
def signer() -> Iterator[Signer]:
    made = Signer("raspios")
    yield made
    made.close()


@pytest.fixture(scope="module")
def pi(tmp_path_factory: pytest.TempPathFactory, signer: Signer, operator_key: Path) -> Iterator[Project]:
    """Pulumi.pi.yaml as it ships, but for addresses, keys and image sources that are here."""
    folder = tmp_path_factory.mktemp("pi")
    shipped = yaml.safe_load((REPOSITORY / "Pulumi.pi.yaml").read_text())["config"]
    config = {key.removeprefix(PREFIX): value for key, value in shipped.items()}
    config["pi"]["cidr"] = "10.77.0.0/24"
    config["defaults"]["ssh_authorized_keys"] = [operator_key.with_suffix(".pub").read_text().strip()]
    config["defaults"]["ready_timeout_s"] = 60
    talos, k3s = config["nodes"]
    talos["ip"], k3s["ip"], k3s["name"] = TALOS_ADDRESS, K3S_ADDRESS, pi_remote_support.HOSTNAME
    config["images"]["talos"] |= {"version": "v1.13.0", "base_url": f"file://{folder}/factory"}
    config["images"]["raspios"] |= {"version": f"{MADE}@{PUBLISHED}", "base_url": f"file://{folder}/raspios"}
    config["talos"] |= {"bootstrap_timeout_s": 60}
    project = Project(folder / "project", f"p{secrets.token_hex(3)}", config)
    _provide_raspios(project, folder, signer)
    _provide_talos(project, folder)
    yield project
    if project.state()["deployment"].get("resources"):
        project.destroy()


def _provide_raspios(project: Project, folder: Path, signer: Signer) -> None:
    """Put an image where the server has it, and this test's key where this test's copy has the pinned one."""
    image = pi_image_support.make(folder / "shape")
    where = folder / "raspios" / FAMILY / "images" / f"{FAMILY}-{PUBLISHED}"
    where.mkdir(parents=True)
    packed = lzma.compress(image.read_bytes(), preset=0)
    name = f"{MADE}-raspios-bookworm-arm64-lite.img.xz"
    (where / name).write_bytes(packed)
    (where / f"{name}.sig").write_bytes(signer.sign(packed, SIGNED))
    (where / f"{name}.sha256").write_text(f"{hashlib.sha256(packed).hexdigest()}  {name}\n")
    pinned = RASPIOS_POLICIES[0][1]
    shutil.copy(signer.key_file, project.program / pinned.key_file.relative_to(REPOSITORY))
    code = project.program / "layer1" / "images" / "artefact.py"
    assert pinned.primary_fingerprint in code.read_text()
    code.write_text(code.read_text().replace(pinned.primary_fingerprint, signer.primary))


def _provide_talos(project: Project, folder: Path) -> None:
    image = folder / "factory" / "image" / SCHEMATIC / "v1.13.0" / "metal-arm64.raw.xz"
    image.parent.mkdir(parents=True)
    image.write_bytes(lzma.compress(b"talos" + bytes(4 * MIB), preset=0))
    _pin(project, f"talos/v1.13.0/{SCHEMATIC}/metal-arm64.raw.xz", image, "raw")
    installer = folder / "install.sh"
    installer.write_text("#!/bin/sh\n")
    _pin(project, "k3s-installer/v1.36.4+k3s1", installer, "script")


def _pin(project: Project, name: str, file: Path, file_format: str) -> None:
    entry = {
        "url": f"file://{file}",
        "sha512": hashlib.sha512(file.read_bytes()).hexdigest(),
        "size_bytes": file.stat().st_size,
        "file_format": file_format,
        "pinned_at": "2026-01-01T00:00:00Z",
    }
    lock = LockFile.load(project.program / "assets" / "images.lock.yaml")
    lock.with_entry(name, Entry.model_validate(entry)).save()


def boards(project: Project) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(project.pulumi("stack", "output", "layer1_boards", "--json"))
    return parsed


def request_of(project: Project, name: str) -> dict[str, Any]:
    resources = project.state(secrets=True)["deployment"]["resources"]
    command = next(r for r in resources if r["urn"].endswith(f"::{name}"))
    stdin = command["inputs"]["stdin"]
    parsed: dict[str, Any] = json.loads(json.loads(stdin["plaintext"]) if isinstance(stdin, dict) else stdin)
    return parsed


def test_as_shipped_it_previews_without_a_board_or_the_internet(pi: Project) -> None:
    planned = pi.plan()
    assert set(planned) == {"create"}
    assert {"pi-talos-image", "pi-1-image"} <= planned["create"]
    said = pi.printed[-1]
    assert "write the image file to a card by hand" in said
    assert "WEAKER: hypervisor" in said
    assert not [name for name in planned["create"] if "libvirt" in name or "domain" in name]


def test_up_makes_an_image_file_for_each(pi: Project) -> None:
    pi.up()
    made = boards(pi)
    assert set(made) == {"pi-talos", "pi-1"}
    for board in made.values():
        file = Path(board["image_file"])
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert hashlib.sha256(file.read_bytes()).hexdigest() == board["sha256"]
        assert board["board"] == "rpi4"
    k3s, talos = Path(made["pi-1"]["image_file"]), Path(made["pi-talos"]["image_file"])
    assert "systemd.run=" in pi_image_support.fat_file(k3s, "cmdline.txt").decode()
    assert talos.read_bytes()[:5] == b"talos"
    assert made["pi-1"]["personalisation"]
    assert made["pi-1"]["image"]["verified_by"] == "signature"
    assert pi.outputs()["nodes"]["pi-1"]["booted"] is False
    assert pi.plan() == {}


def test_the_private_keys_are_nowhere_in_plain_text(pi: Project) -> None:
    settings = request_of(pi, "pi-1-image")["settings"]
    middle = settings["host_private"].splitlines()[2]
    assert middle not in json.dumps(pi.state())
    assert not [text for text in pi.printed if middle in text]
    image = Path(boards(pi)["pi-1"]["image_file"])
    holders = subprocess.run(
        ["grep", "-rlaF", "-f", "-", str(pi.folder)],
        input=middle,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.split()
    assert holders == [str(image)], "the board needs it there until it has booted"


def test_another_key_writes_that_image_again_and_nothing_else(pi: Project) -> None:
    before = boards(pi)
    other = pi_remote_support.OPERATOR[1]
    with pi.changed():
        pi.config["nodes"][1]["ssh_authorized_keys"] = [other]
        assert pi.plan() == {"update": {"pi-1-image"}}
        pi.up()
        after = boards(pi)
        assert after["pi-1"]["sha256"] != before["pi-1"]["sha256"]
        assert after["pi-talos"] == before["pi-talos"]
        assert "write the image file to a card by hand" in after["pi-1"]["next"]
    pi.up()
    assert boards(pi) == before, "the same board, the same bytes"


def test_a_card_that_is_not_there_fails_its_own_step_alone(pi: Project) -> None:
    with pi.changed():
        card = {"device": "/dev/disk/by-id/usb-No_Such_Reader_1", "confirm_erase": "A1B2"}
        pi.config["nodes"][1] |= card
        assert pi.plan() == {"create": {"pi-1-flash"}}
        said = pi.up(ok=False)
        assert "/dev/disk/by-id/usb-No_Such_Reader_1" in said
        assert "Traceback" not in said
    pi.up()
    assert pi.plan() == {}


def test_a_board_that_does_not_answer_is_not_reported_as_done(pi: Project) -> None:
    with pi.changed():
        pi.config["nodes"][1]["booted"] = True
        pi.config["defaults"]["ready_timeout_s"] = 30
        said = pi.up(ok=False)
        assert f"{pi_remote_support.HOSTNAME}" in said
        assert "30 s" in said
        assert "pi-1-applied" in pi.plan()["create"] | pi.plan().get("update", set())
    pi.up()


@pytest.fixture
def k3s_board(pi: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The board after its first boot: it has the stack's keys, and says which bundle it has."""
    settings = parsed_settings(request_of(pi, "pi-1-image")["settings"])
    monkeypatch.setattr(pi_remote_support, "SETTINGS", settings)
    board = pi_remote_support.Board(tmp_path / "layer1-pi-engine")
    mark = board.disk / "upper" / pi_remote_support.STATE / "applied"
    mark.write_text(digest(bundle(settings)) + "\n")
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "ssh").write_text(f'#!/bin/sh\nexec {" ".join(board.inside())} {shutil.which("ssh")} "$@"\n')
    (folder / "ssh").chmod(0o755)
    pi.environment["PATH"] = f"{folder}{os.pathsep}{pi.environment['PATH']}"
    try:
        board.power_on()
        yield
    finally:
        board.discard()


def test_booted_boards_are_spoken_to(pi: Project, k3s_board: None, tmp_path: Path) -> None:
    """The one board has its bundle already; the other gets its first config, and is bootstrapped."""
    talos, k3s = pi.config["nodes"]
    k3s["booted"] = True
    pi.up()
    with own_addresses({"pi-talos": TALOS_ADDRESS}):
        talos["booted"] = True
        pi.write()
        targets = [f"--target=**::{name}" for name in ("talos", "talos-secrets")]
        pi.pulumi("up", "--stack", pi.stack, "--yes", "--skip-preview", *targets)
        board = {"ip": TALOS_ADDRESS, "name": "pi-talos", "standin": TALOS_BOARD}
        words = [word for word in cluster_secrets(pi).split() if len(word) > 40]
        with standin(pi, [board], tmp_path) as nodes:
            talos["maintenance_fingerprint"] = nodes.say({"state": True})["nodes"][0]["fingerprint"]
            with ProcessListWatch(tuple(words)) as watch:
                pi.up()
            assert watch.seen == set()
            assert nodes.calls("Bootstrap")
            assert pi.plan() == {}
    outputs = pi.outputs()["nodes"]
    assert {name: node["booted"] for name, node in outputs.items()} == {"pi-talos": True, "pi-1": True}
    assert outputs["pi-talos"]["walls"]["first_contact"]["on"]


def test_destroy_removes_the_image_files_and_asks_no_board(pi: Project) -> None:
    files = [Path(board["image_file"]) for board in boards(pi).values()]
    assert all(file.exists() for file in files)
    pi.destroy()
    assert not [file for file in files if file.exists()]
    assert not list((pi.folder / "work").rglob("*.img"))
    assert cache_dir().exists()
