"""A node's whole life on the real engine, libvirtd and QEMU; the tests run in order on one stack."""

from __future__ import annotations

import json
import re
import stat
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_project import Node, ProcessListWatch, Project, virsh

from layer1.contract import Layer1Outputs
from layer1.identity import bridge_name

pytestmark = [pytest.mark.engine, pytest.mark.guest, pytest.mark.timeout(900)]

HOST = {"home", "home-libvirt", "home-claim", "home-pool", "home-network", "home-practice-amd64-image"}
HOST |= {"home-practice-amd64-base"}
SEED = {"k3s-1-seed-iso", "k3s-1-seed-volume", "k3s-1-seed-unstage"}
NODE = SEED | {"k3s-1", "k3s-1-seed", "k3s-1-host-key", "k3s-1-status-key", "k3s-1-ignition", "k3s-1-root"}
NODE |= {"k3s-1-address", "k3s-1-domain", "k3s-1-ready"}
REPROVISION = {"update": {"k3s-1-ignition"}, "replace": SEED | {"k3s-1-root", "k3s-1-domain", "k3s-1-ready"}}
REBOOT = {"replace": {"k3s-1-domain", "k3s-1-ready"}}
BLOCK_DEVICE_BYTES = 64 * 1024 * 1024
LAYER2_MARK = "layer2-mark-5f1c9be7a0"


def layer2(files: list[dict[str, object]]) -> str:
    return json.dumps({"k3s-1": {"ignition": {"version": "3.4.0"}, "storage": {"files": files}}})


MARKED = layer2([{"path": "/etc/layer2-mark", "mode": 0o600, "contents": {"source": f"data:,{LAYER2_MARK}"}}])


def test_plan_of_a_new_stack_creates_every_resource_and_touches_nothing(project: Project) -> None:
    assert project.plan() == {"create": {f"layer1-{project.stack}"} | HOST | NODE}
    assert project.prefix not in virsh("pool-list", "--all") + virsh("net-list", "--all")


def test_plan_says_which_walls_are_weaker_and_why(project: Project) -> None:
    said = project.pulumi("preview", "--stack", project.stack)
    for wall, key in (
        ("hypervisor", "layer1:hosts.home.accel"),
        ("svirt", "layer1:hosts.home.svirt"),
        ("memory_hard_limit", "layer1:hosts.home.memory_hard_limit"),
        ("image_signature", "layer1:images.flatcar.source"),
    ):
        assert re.search(rf"WEAKER: {wall}: .*\({re.escape(key)}\)", said), wall
    assert "512 MiB (layer1:defaults.memory_mib)" in said


def test_a_directory_of_somebody_else_is_refused_and_left_alone(project: Project) -> None:
    directory = Path("/var/lib/libvirt/images") / project.prefix
    directory.mkdir()
    theirs = directory / "theirs.qcow2"
    theirs.write_text("precious")
    said = project.up(ok=False)
    assert f"the directory {directory} exists" in said
    assert "theirs.qcow2" in said
    assert theirs.read_text() == "precious"
    theirs.unlink()
    directory.rmdir()


def test_broken_seed_stops_the_boot_and_up_says_so(project: Project) -> None:
    # Valid Ignition whose file does not have the promised digest: only the guest can find that out.
    wrong = {"source": "data:,x", "verification": {"hash": "sha512-" + "0" * 128}}
    with project.changed() as config:
        config["layer2_ignition"] = layer2([{"path": "/etc/broken", "contents": wrong}])
        said = project.up(ok=False)
    assert "the guest refused its config or could not boot" in said
    assert re.search(r"hash verification failed|verification", said), said
    assert "Full config" not in said
    assert "PRIVATE KEY" not in said


def test_up_makes_a_node_that_answers_and_leaks_no_secret_to_the_process_list(project: Project) -> None:
    with project.changed() as config:
        config["layer2_ignition"] = MARKED
        project.write()
        with ProcessListWatch(("PRIVATE KEY", LAYER2_MARK, "only for this test")) as watch:
            project.up()
        assert watch.looks > 100
        assert watch.seen == set()


def test_node_is_provisioned_and_waits_for_layer2(project: Project, node: Node) -> None:
    assert node.read("hostname") == "k3s-1"
    assert node.read("sudo cat /etc/layer2-mark") == LAYER2_MARK
    assert node.read("sudo stat -c '%a %U' /etc/rancher/k3s") == "700 root"
    assert node.read("sudo ls -A /etc/rancher/k3s") == ""
    assert node.read("systemctl is-active k3s-install.service k3s-config.path") == "active\nactive"
    assert node.ssh("systemctl is-active k3s.service", ok=False).stdout.strip() == "inactive"
    assert node.read("/usr/local/bin/k3s --version").startswith("k3s version v")
    assert "flatcar.autologin" not in node.read("cat /proc/cmdline")
    assert node.read("systemctl is-system-running") == "running"


def test_usr_refuses_writes_even_to_root(node: Node) -> None:
    assert node.read("sudo touch /var/allowed && echo done") == "done"  # root may write elsewhere
    for command in ("touch /usr/x", "rm /usr/bin/env", "mount -o remount,rw /usr"):
        refused = node.ssh(f"sudo {command}", ok=False)
        assert refused.returncode != 0, command
        assert re.search(r"[Rr]ead-only|write-protected", refused.stderr), refused.stderr
    assert "verity" in node.read("sudo dmsetup table 2>/dev/null || cat /sys/block/dm-0/dm/uuid").lower()


def test_password_and_root_logins_are_refused(node: Node) -> None:
    for user in ("core", "root"):
        answer = node.ssh("true", ok=False, options=("PubkeyAuthentication=no",), user=user)
        assert "Permission denied (publickey)" in answer.stderr
    assert node.ssh("true", ok=False, user="root").returncode != 0
    effective = node.read("sudo sshd -T").splitlines()
    assert {"passwordauthentication no", "permitrootlogin no", "kbdinteractiveauthentication no"} <= set(
        effective
    )


def test_status_user_runs_its_script_and_nothing_else(project: Project, node: Node, tmp_path: Path) -> None:
    secrets_of = project.state(secrets=True)["deployment"]["resources"]
    ready = next(r for r in secrets_of if r["urn"].endswith("::k3s-1-ready"))
    key = tmp_path / "status"
    key.touch(mode=0o600)
    key.write_text(json.loads(json.loads(ready["inputs"]["stdin"]["plaintext"]))["status_key"])
    status = Node(node.output, key, tmp_path)
    answer = status.ssh("cat /etc/shadow; id", user="layer1-status").stdout
    assert answer.startswith("schema=1\n")
    assert "usr_mode=ro" in answer
    assert "root:" not in answer
    assert "uid=" not in answer
    assert status.ssh("true", ok=False).returncode != 0  # the key opens no other account


def test_running_domain_has_only_what_the_sheet_allows(project: Project) -> None:
    domain = ET.fromstring(virsh("dumpxml", f"{project.prefix}-k3s-1"))  # noqa: S314 - libvirt's own
    devices = domain.find("devices")
    assert devices is not None
    assert {device.tag for device in devices} == {
        "emulator", "disk", "controller", "interface", "input", "audio", "memballoon", "rng",
    }  # fmt: skip
    assert [e.get("model") for e in devices.findall("memballoon")] == ["none"]
    assert [e.get("type") for e in devices.findall("audio")] == ["none"]
    # Q35 has the PS/2 controller built in; libvirt 9 lists it whatever one asks for.
    assert {e.get("bus") for e in devices.findall("input")} == {"ps2"}
    models = {(e.get("type"), e.get("model")) for e in devices.findall("controller")}
    assert models == {("usb", "none"), ("sata", None), ("pci", "pcie-root"), ("pci", "pcie-root-port")}
    disks = {e.get("device"): e for e in devices.findall("disk")}
    assert {e.get("type") for e in devices.findall("disk")} == {"file"}
    assert disks["disk"].find("target").get("bus") == "virtio"
    assert disks["disk"].find("driver").get("discard") == "unmap"
    assert disks["cdrom"].find("target").get("bus") == "sata"
    assert disks["cdrom"].find("readonly") is not None
    interface = devices.find("interface")
    assert interface.find("model").get("type") == "virtio"
    assert interface.find("filterref").get("filter") == "clean-traffic"
    assert domain.find("os/type").get("machine").startswith("pc-q35")
    assert domain.find("memoryBacking/nosharepages") is not None


def test_traffic_filter_is_loaded_for_the_nodes_own_address(project: Project, node: Node) -> None:
    rules = subprocess.run(["ebtables", "-t", "nat", "-L"], capture_output=True, text=True, check=True).stdout
    assert f"-s {node.output['mac']} -j RETURN" in rules
    assert f"--ip-src {node.output['address']} -j RETURN" in rules
    assert f"--arp-ip-src {node.output['address']} -j RETURN" in rules


def test_volumes_are_readable_by_their_owner_alone(project: Project) -> None:
    directory = Path("/var/lib/libvirt/images") / project.prefix
    assert stat.S_IMODE(directory.stat().st_mode) == 0o711
    volumes = list(directory.iterdir())
    assert len(volumes) == 3
    for volume in volumes:
        assert stat.S_IMODE(volume.stat().st_mode) == 0o600, volume


def test_outputs_are_the_contract_and_hold_no_secret(project: Project, node: Node) -> None:
    outputs = Layer1Outputs.model_validate(project.outputs())
    assert outputs.schema_version == 1
    assert outputs.nodes["k3s-1"].uuid == virsh("domuuid", f"{project.prefix}-k3s-1").strip()
    assert outputs.nodes["k3s-1"].image.verified_by
    text = json.dumps(project.outputs())
    assert "PRIVATE" not in text
    assert LAYER2_MARK not in text


def test_second_up_and_refresh_change_nothing(project: Project) -> None:
    with project.changed() as config:
        config["layer2_ignition"] = MARKED
        project.write()
        arguments = ("--stack", project.stack, "--yes", "--skip-preview", "--expect-no-changes")
        project.pulumi("up", *arguments)
        project.pulumi("refresh", *arguments)
        assert project.plan() == {}
        project.config.pop("layer2_ignition")
    # Taking Layer 2's part away is another seed.
    assert project.plan() == REPROVISION


@pytest.fixture(scope="module")
def block_device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real block device of this machine with a name by id, as an operator's disk has."""
    backing = tmp_path_factory.mktemp("disk") / "disk.raw"
    with backing.open("wb") as file:
        file.truncate(BLOCK_DEVICE_BYTES)
    loop = subprocess.run(
        ["losetup", "--find", "--show", str(backing)], capture_output=True, text=True, check=True
    ).stdout.strip()
    link = Path("/dev/disk/by-id/layer1-test-disk")
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(loop)
    yield str(link)
    link.unlink()
    subprocess.run(["losetup", "--detach", loop], check=True)


@pytest.fixture
def as_it_is(project: Project) -> Iterator[dict]:
    with project.changed() as config:
        config["layer2_ignition"] = MARKED
        yield config


def test_a_comment_or_an_indentation_plans_nothing(project: Project, as_it_is: dict) -> None:
    for name in ("libvirt/domain.xsl", "libvirt/volume.xsl", "libvirt/pool.xsl"):
        sheet = project.program / "assets" / name
        before = sheet.read_text()
        closing = "</xsl:stylesheet>"
        sheet.write_text(
            before.replace("  <xsl:", "\n      <xsl:").replace(closing, f"<!-- a remark -->{closing}")
        )
        assert sheet.read_text() != before
    template = project.program / "assets/butane/flatcar-node.bu.yaml"
    template.write_text("# a remark\n" + template.read_text())
    assert project.plan() == {}


def test_more_memory_replaces_the_domain_and_keeps_the_disk(project: Project, as_it_is: dict) -> None:
    as_it_is["nodes"] = [{"name": "k3s-1", "os": "flatcar", "memory_mib": 640}]
    assert project.plan() == REBOOT


def test_more_vcpus_replace_the_domain_and_keep_the_disk(project: Project, as_it_is: dict) -> None:
    as_it_is["nodes"] = [{"name": "k3s-1", "os": "flatcar", "vcpus": 2}]
    assert project.plan() == REBOOT


def test_environment_replaces_the_defaults(project: Project) -> None:
    del project.config["defaults"]["memory_mib"]
    with project.changed(FK_VM_RAM_MB="704") as config:
        config["layer2_ignition"] = MARKED
        assert project.plan() == REBOOT
        assert "704 MiB (FK_VM_RAM_MB)" in project.printed[-1]
    project.config["defaults"]["memory_mib"] = 512


@pytest.mark.parametrize(
    "change",
    [
        {"updates": "stage"},
        {"ssh_authorized_keys": ["{other}"]},
    ],
)
def test_a_changed_seed_replaces_seed_root_and_domain_together(
    project: Project, as_it_is: dict, change: dict, tmp_path: Path
) -> None:
    key = tmp_path / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(key)], check=True)
    if "ssh_authorized_keys" in change:
        change = {"ssh_authorized_keys": [key.with_suffix(".pub").read_text().strip()]}
    as_it_is["nodes"] = [{"name": "k3s-1", "os": "flatcar"} | change]
    assert project.plan() == REPROVISION


def test_a_changed_template_is_a_changed_seed(project: Project, as_it_is: dict) -> None:
    script = project.program / "assets/butane/status.sh"
    before = script.read_text()
    script.write_text(before + "echo more=1\n")
    assert project.plan() == REPROVISION
    script.write_text(before)


def test_another_address_moves_the_reservation_and_the_domain(project: Project, as_it_is: dict) -> None:
    as_it_is["nodes"] = [{"name": "k3s-1", "os": "flatcar", "ip": "10.213.7.99"}]
    assert project.plan() == {"replace": {"k3s-1-address", "k3s-1-domain", "k3s-1-ready"}}


@pytest.mark.parametrize("change", [{"mode": "nat"}, {"cidr": "10.213.8.0/24"}])
def test_another_network_takes_its_nodes_along(project: Project, as_it_is: dict, change: dict) -> None:
    as_it_is["network"] = as_it_is["network"] | change
    planned = project.plan()
    assert planned == {"replace": {"home-network", "k3s-1-address", "k3s-1-domain", "k3s-1-ready"}}


def test_a_larger_root_is_a_new_root(project: Project, as_it_is: dict) -> None:
    as_it_is["nodes"] = [{"name": "k3s-1", "os": "flatcar", "disk_gib": 3}]
    assert project.plan() == {"replace": {"k3s-1-root", "k3s-1-domain", "k3s-1-ready"}}


def test_a_data_disk_is_created_beside(project: Project, as_it_is: dict) -> None:
    as_it_is["nodes"] = [{"name": "k3s-1", "os": "flatcar", "data_disks": [{"name": "db", "size_gib": 1}]}]
    assert project.plan() == {"create": {"k3s-1-data-db"}} | REBOOT


def test_a_second_node_touches_nothing_of_the_first(project: Project, as_it_is: dict) -> None:
    as_it_is["nodes"] = [{"name": "k3s-0", "os": "flatcar"}, {"name": "k3s-1", "os": "flatcar"}]
    assert project.plan() == {"create": {name.replace("k3s-1", "k3s-0") for name in NODE}}


def test_bad_configuration_is_told_all_at_once_and_touches_nothing(project: Project, as_it_is: dict) -> None:
    as_it_is["nodes"] = [{"name": "K", "os": "bottlerocket", "memory_mib": 1, "ip": "192.0.2.1"}]
    project.write()
    said = project.pulumi("preview", "--stack", project.stack, ok=False)
    for key in ("name", "os", "memory_mib", "ip"):
        assert f"layer1:nodes[0].{key}: " in said
    assert "Traceback" not in said


def test_layer2_writes_config_and_k3s_starts_with_exactly_the_exec_start(
    project: Project, node: Node
) -> None:
    node.ssh("echo 'write-kubeconfig-mode: \"0600\"' | sudo tee /etc/rancher/k3s/config.yaml.new >/dev/null")
    node.ssh("sudo mv /etc/rancher/k3s/config.yaml.new /etc/rancher/k3s/config.yaml")
    node.wait("systemctl is-active k3s.service", "active", timeout_s=60)
    shown = node.read("systemctl show k3s.service --property ExecStart")
    command = "/usr/local/bin/k3s server --config /etc/rancher/k3s/config.yaml"
    assert f"argv[]={command} ;" in shown
    running = node.read(
        "tr '\\0' ' ' </proc/$(systemctl show k3s.service -p MainPID --value)/cmdline"
    ).strip()
    assert running.endswith(command.split("bin/", 1)[1]) or "sleep" in running
    assert node.read("sudo tail -n 1 /var/lib/rancher/k3s/args.log").endswith(command.split("bin/k3s ", 1)[1])


def test_a_reboot_keeps_the_node(project: Project, node: Node) -> None:
    machine, boot = node.read("cat /etc/machine-id"), node.read("cat /proc/sys/kernel/random/boot_id")
    node.ssh("sudo systemctl reboot", ok=False)
    node.wait(f"[ $(cat /proc/sys/kernel/random/boot_id) != {boot} ] && echo again", "again", timeout_s=240)
    node.wait("systemctl is-active k3s.service", "active")
    assert node.read("cat /etc/machine-id") == machine
    assert node.read("systemctl is-active usr-local-bin.mount") == "active"
    assert node.ssh("sudo touch /usr/x", ok=False).returncode != 0


def test_more_memory_really_keeps_disk_and_identity(project: Project, node: Node, as_it_is: dict) -> None:
    machine = node.read("cat /etc/machine-id")
    as_it_is["nodes"] = [{"name": "k3s-1", "os": "flatcar", "memory_mib": 640}]
    project.up()
    assert "640" in virsh("dominfo", f"{project.prefix}-k3s-1") or "655360" in virsh(
        "dominfo", f"{project.prefix}-k3s-1"
    )
    assert node.read("cat /etc/machine-id") == machine
    assert node.read("sudo cat /etc/layer2-mark") == LAYER2_MARK
    node.wait("systemctl is-active k3s.service", "active")
    as_it_is["nodes"] = [{"name": "k3s-1", "os": "flatcar", "memory_mib": 640}]
    assert project.plan() == {}


def test_uefi_a_data_disk_and_a_passed_through_disk(
    project: Project, node: Node, as_it_is: dict, block_device: str
) -> None:
    machine = node.read("cat /etc/machine-id")
    extended = {
        "name": "k3s-1",
        "os": "flatcar",
        "firmware": "uefi",
        "data_disks": [{"name": "db", "size_gib": 1}],
        "passthrough_disks": [block_device],
    }
    as_it_is["nodes"] = [extended]
    assert project.plan() == {"create": {"k3s-1-data-db"}} | REBOOT
    project.up()
    assert node.read("cat /etc/machine-id") == machine
    assert node.read("test -d /sys/firmware/efi && echo uefi") == "uefi"
    assert node.read("lsblk --noheadings --nodeps --bytes --output NAME,SIZE | grep vd").split() == [
        "vda", str(2 * 1024**3), "vdb", str(1024**3), "vdc", str(BLOCK_DEVICE_BYTES),
    ]  # fmt: skip
    node.ssh("echo from-the-guest | sudo dd of=/dev/vdc conv=fsync status=none")
    assert Path(block_device).read_bytes().startswith(b"from-the-guest\n")
    domain = ET.fromstring(virsh("dumpxml", f"{project.prefix}-k3s-1"))  # noqa: S314 - libvirt's own
    block = next(disk for disk in domain.iter("disk") if disk.get("type") == "block")
    assert block.find("source").get("dev") == block_device
    assert block.find("driver").get("discard") == "unmap"
    assert block.find("target").get("bus") == "virtio"
    assert project.plan() == {}
    project.pulumi("refresh", "--stack", project.stack, "--yes", "--skip-preview", "--expect-no-changes")


def test_no_secret_is_in_plain_text_anywhere(project: Project, engine_folder: Path) -> None:
    resources = project.state(secrets=True)["deployment"]["resources"]
    words: set[str] = {LAYER2_MARK}
    for resource in resources:
        if resource["type"] == "random:index/randomBytes:RandomBytes":
            for value in resource["outputs"].values():
                if isinstance(value, dict) and "plaintext" in value:
                    words.add(json.loads(value["plaintext"]))
        if resource["urn"].endswith("::k3s-1-ready"):
            key = json.loads(json.loads(resource["inputs"]["stdin"]["plaintext"]))["status_key"]
            words.add(key.splitlines()[2])  # a line of its base64 text
    assert len(words) >= 6, "two keys in two encodings, one as OpenSSH has it, and Layer 2's own"
    places = {"the exported state": json.dumps(project.state())}
    places |= {f"output {index}": text for index, text in enumerate(project.printed)}
    for path in engine_folder.rglob("*"):
        wide = path.is_file() and stat.S_IMODE(path.stat().st_mode) & 0o077
        if wide:
            places[str(path)] = path.read_bytes().decode(errors="replace")
    for name, text in places.items():
        for word in words:
            assert word not in text, f"{name} holds a secret"
    assert not list((engine_folder / "project/work/seeds").iterdir()), "a staged seed was left"


def test_destroy_keeps_protected_data_and_what_it_needs(project: Project) -> None:
    project.pulumi("destroy", "--stack", project.stack, "--yes", "--skip-preview", "--exclude-protected")
    assert f"{project.prefix}-k3s-1" not in virsh("list", "--all", "--name")
    kept = Path("/var/lib/libvirt/images") / project.prefix / "k3s-1-data-db.qcow2"
    assert kept.exists()


def test_destroy_leaves_nothing(project: Project) -> None:
    # The operator's own decision, in three steps: lift the protection, remove the data, destroy.
    project.remove_all()
    assert project.state()["deployment"].get("resources") in (None, [])
    for listing in (
        ("list", "--all", "--name"),
        ("pool-list", "--all", "--name"),
        ("net-list", "--all", "--name"),
    ):
        assert project.prefix not in virsh(*listing), listing
    for folder in (
        "/var/lib/libvirt/images",
        "/var/lib/libvirt/qemu/nvram",
        "/var/lib/libvirt/dnsmasq",
        "/etc/libvirt/qemu",
        "/etc/libvirt/storage",
        str(project.folder / "work"),
    ):
        left = [path for path in Path(folder).rglob("*") if project.prefix in path.name]
        assert left == [], folder
    assert list((project.folder / "work/seeds").iterdir()) == []
    assert not Path("/sys/class/net", bridge_name(project.stack, "home")).exists()
