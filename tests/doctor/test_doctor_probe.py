"""What a host says of itself: the real one; a made-up root folder where this machine has one face only."""

from __future__ import annotations

import json
import os
import platform
import pwd
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from layer1.doctor import host_probe
from layer1.doctor.host_probe import ROOT, Facts, Rom, Wish, examine, from_json, permits

WISH = Wish(pool_path="/srv/pool", pool_directory="/srv/pool/layer1-unit", files=["/fw/a.fd", "/fw/b.fd"])


def put(root: Path, path: str, text: str = "") -> Path:
    place = root / path
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text)
    return place


def test_apparmor_ksm_seccomp_and_iommu_as_the_kernel_has_them(tmp_path: Path) -> None:
    bare = examine(WISH, tmp_path)
    assert (bare.apparmor, bare.ksm_run, bare.seccomp, bare.iommu_groups) == (None, None, False, 0)
    put(tmp_path, "sys/module/apparmor/parameters/enabled", "Y\n")
    put(tmp_path, "sys/kernel/mm/ksm/run", "1\n")
    put(tmp_path, "proc/sys/kernel/seccomp/actions_avail", "kill_process allow\n")
    for number in range(3):
        (tmp_path / f"sys/kernel/iommu_groups/{number}").mkdir(parents=True)
    full = examine(WISH, tmp_path)
    assert (full.apparmor, full.ksm_run, full.seccomp, full.iommu_groups) == ("Y", "1", True, 3)


def test_flaws_and_microcode(tmp_path: Path) -> None:
    assert host_probe.vulnerabilities(tmp_path) is None
    put(tmp_path, "sys/devices/system/cpu/vulnerabilities/mds", "Vulnerable\n")
    put(tmp_path, "proc/cpuinfo", "processor\t: 0\nmicrocode\t: 0xf0\nflags\t\t: fpu vme\n")
    facts = examine(WISH, tmp_path)
    assert (facts.vulnerabilities, facts.microcode, facts.virtual) == ({"mds": "Vulnerable"}, "0xf0", False)


@pytest.mark.parametrize(
    ("path", "text", "is_one"),
    [
        ("proc/cpuinfo", "flags\t\t: fpu hypervisor lahf_lm\n", True),
        ("proc/cpuinfo", "flags\t\t: fpu lahf_lm\nmodel name\t: hypervisor\n", False),
        ("proc/device-tree/hypervisor/compatible", "linux,kvm", True),
    ],
)
def test_a_virtual_machine_is_known_by_its_flag_or_its_tree(
    path: str, text: str, is_one: bool, tmp_path: Path
) -> None:
    put(tmp_path, path, text)
    assert host_probe.virtual(tmp_path) is is_one


@pytest.mark.parametrize(
    ("files", "version"),
    [
        ({"sys/fs/cgroup/cgroup.controllers": "cpuset cpu memory pids\n"}, "v2"),
        ({"sys/fs/cgroup/cgroup.controllers": "cpuset cpu pids\n"}, None),
        ({"proc/mounts": "cgroup /sys/fs/cgroup/memory cgroup rw,relatime,memory 0 0\n"}, "v1"),
        ({"proc/mounts": "cgroup /sys/fs/cgroup/cpu cgroup rw,relatime,cpu 0 0\n"}, None),
        ({}, None),
    ],
)
def test_who_limits_memory(files: dict[str, str], version: str | None, tmp_path: Path) -> None:
    for path, text in files.items():
        put(tmp_path, path, text)
    assert host_probe.memory_controller(tmp_path) == version


def _process(root: Path, pid: int, name: str, label: str | None = None) -> None:
    put(root, f"proc/{pid}/comm", f"{name}\n")
    put(root, f"proc/{pid}/status", f"Name:\t{name}\nCapEff:\t000001ffffffffff\n")
    put(root, f"proc/{pid}/limits", "Max locked memory         8388608              65536    bytes\n")
    if label is not None:
        put(root, f"proc/{pid}/attr/apparmor/current", label)


def test_the_daemon_is_found_by_its_pid_file_first(tmp_path: Path) -> None:
    _process(tmp_path, 10, "bash")
    assert host_probe.daemon(tmp_path) is None
    _process(tmp_path, 20, "virtqemud")
    found = host_probe.daemon(tmp_path)
    assert found is not None
    assert (found.name, found.label, found.memlock_hard) == ("virtqemud", None, "65536")
    assert found.capabilities == 0x1FFFFFFFFFF
    _process(tmp_path, 30, "libvirtd", "libvirtd (enforce)\n")
    put(tmp_path, "run/libvirtd.pid", "30")
    found = host_probe.daemon(tmp_path)
    assert found is not None
    assert (found.name, found.label) == ("libvirtd", "libvirtd (enforce)")
    put(tmp_path, "run/libvirtd.pid", "10")  # left over: the number is another program's now
    found = host_probe.daemon(tmp_path)
    assert found is not None
    assert found.name in ("libvirtd", "virtqemud")


def test_a_process_as_the_kernel_really_shows_it(tmp_path: Path) -> None:
    """The real /proc of this very process, under the name of libvirt's daemon."""
    (tmp_path / "proc").mkdir()
    folder = tmp_path / "proc/7"
    folder.mkdir()
    for name in ("status", "limits"):
        (folder / name).write_text(Path(f"/proc/self/{name}").read_text())
    (folder / "comm").write_text("libvirtd\n")
    found = host_probe.daemon(tmp_path)
    assert found is not None
    shown = subprocess.run(
        ["prlimit", "--memlock", "--output", "HARD", "--noheadings", "--pid", str(os.getpid())],
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.memlock_hard == shown.stdout.strip()
    mask = next(line for line in Path("/proc/self/status").read_text().splitlines() if "CapEff" in line)
    assert f"{found.capabilities:016x}" == mask.split()[1]


@pytest.mark.parametrize(
    ("mode", "owner", "ids", "good"),
    [
        (0o711, (0, 0), [64055, 108], True),
        (0o710, (0, 0), [64055, 108], False),
        (0o710, (0, 108), [64055, 108], True),
        (0o700, (64055, 0), [64055, 108], True),
        (0o071, (64055, 108), [64055, 108], False),  # the owner's bits count, and no others
        (0o701, (0, 108), [64055, 108], False),
    ],
)
def test_who_may_pass_is_what_the_kernel_would_say(
    mode: int, owner: tuple[int, int], ids: list[int], good: bool
) -> None:
    assert permits(mode, owner, ids, 1) is good


def test_the_kernel_agrees_on_who_may_pass(tmp_path: Path) -> None:
    """A real folder, and a real process of another user that tries to go through it."""
    nobody = pwd.getpwnam("nobody")
    ids = [nobody.pw_uid, nobody.pw_gid]
    folder = tmp_path / "way"
    for parent in (tmp_path, *tmp_path.parents):
        if parent.stat().st_uid == os.geteuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o001)
    folder.mkdir()
    put(folder, "in").chmod(0o644)
    seen = set()
    for mode in (0o700, 0o701, 0o710, 0o711):
        for group in (0, nobody.pw_gid):
            os.chown(folder, 0, group)
            folder.chmod(mode)
            tried = subprocess.run(
                ["setpriv", f"--reuid={ids[0]}", f"--regid={ids[1]}", "--clear-groups", "cat", folder / "in"],
                capture_output=True,
                check=False,
            )
            said = permits(folder.stat().st_mode, (0, group), ids, 1)
            assert said == (tried.returncode == 0), f"{mode:o} {group}: {tried.stderr!r}"
            seen.add(said)
    assert seen == {True, False}


def test_a_pool_that_is_not_there_yet_is_judged_by_its_nearest_parent(tmp_path: Path) -> None:
    (tmp_path / "srv").mkdir(mode=0o750)
    put(
        tmp_path,
        "proc/self/mountinfo",
        "1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 0:9 / /srv rw - tmpfs t rw\n3 1 8:2 / /srvx rw - xfs b rw\n",
    )
    found = host_probe.pool(WISH, [64055], tmp_path)
    assert (found.nearest, found.filesystem, found.used_bytes) == ("/srv", "tmpfs", 0)
    assert [(step.path, step.mode) for step in found.steps][-1] == ("/srv", 0o750)
    put(tmp_path, "srv/pool/layer1-unit/disk.qcow2").write_bytes(b"x" * 100_000)
    found = host_probe.pool(WISH, [64055], tmp_path)
    assert [step.path for step in found.steps] == ["/", "/srv", "/srv/pool"]
    assert found.used_bytes >= 100_000


def test_the_real_file_system_and_its_room() -> None:
    found = host_probe.pool(Wish("/proc", "/proc"), None)
    assert (found.filesystem, found.nearest) == ("proc", "/proc")
    here = host_probe.pool(Wish("/var/lib", "/var/lib/none"), None)
    shown = subprocess.run(
        ["stat", "--file-system", "--format=%a %S", "/var/lib"], capture_output=True, text=True, check=True
    )
    blocks, size = map(int, shown.stdout.split())
    assert abs(here.free_bytes - blocks * size) < 1 << 30  # others write meanwhile


def test_firmware_is_there_or_not(tmp_path: Path) -> None:
    put(tmp_path, "fw/a.fd")
    assert examine(WISH, tmp_path).files == {"/fw/a.fd": True, "/fw/b.fd": False}


def test_a_device_that_is_not_there_is_told_and_who_may_open_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = host_probe.kvm(None, tmp_path)
    assert (gone.opens, gone.rom) == (False, None)
    assert "No such file" in gone.problem
    assert gone.emulated.outcome == "ran"
    monkeypatch.setattr(host_probe, "run_rom", Rom)  # its own tests run it
    device = put(tmp_path, "dev/kvm")
    device.chmod(0o660)
    assert host_probe.kvm([64055, 64055], tmp_path).qemu_may_open is False
    device.chmod(0o666)
    assert host_probe.kvm([64055, 64055], tmp_path).qemu_may_open is True


def test_a_file_of_roots_alone_is_read_by_sudo_or_said_to_be_closed(tmp_path: Path) -> None:
    """As another user, for root is refused nothing."""
    secret = put(tmp_path, "qemu.conf", "max_core = 0\n")
    secret.chmod(0o600)
    for parent in (tmp_path, *tmp_path.parents):
        if parent.stat().st_uid == os.geteuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o001)
    source = Path(host_probe.__file__).read_text()
    ask = f"{source.rpartition('if __name__')[0]}\nprint(read_privileged(Path(sys.argv[1])))"

    def as_nobody(path: str) -> str:
        command = ["/usr/bin/setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        done = subprocess.run(
            [*command, "/usr/bin/python3", "-", secret],
            input=ask,
            env={"PATH": path},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    assert as_nobody("/nonexistent") == f"(None, '{secret}: Permission denied')"
    # A stand-in for sudo: what it prints is what root would read.
    sudo = put(tmp_path, "bin/sudo", "#!/bin/sh\n[ $1 = -n ] && [ $2 = cat ] && echo max_core = 0\n")
    sudo.chmod(0o755)
    (tmp_path / "bin").chmod(0o755)
    assert as_nobody(f"{tmp_path}/bin:/usr/bin:/bin") == "('max_core = 0\\n', '')"
    assert host_probe.read_privileged(tmp_path / "none") == ("", "")


def test_the_clock_is_what_the_kernel_says() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import ctypes\nb = ctypes.create_string_buffer(512)\n"
            "print(ctypes.CDLL(None).adjtimex(b))",  # 5: TIME_ERROR, the clock is not synchronised
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert host_probe.clock_synchronised() is (done.stdout.strip() != "5")


def test_routes_are_those_of_the_host() -> None:
    """In a network namespace of its own: first none, then one."""
    script = (
        "import json, runpy, subprocess\n"
        f"routes = runpy.run_path({host_probe.__file__!r})['routes']\n"
        "def ip(words): subprocess.run(['ip', *words.split()], check=True)\n"
        "print(json.dumps(routes()))\n"
        "ip('link add d0 type bridge')\n"
        "ip('address add 10.99.0.1/24 dev d0')\n"
        "ip('link set d0 up')\n"
        "ip('route add blackhole 10.98.0.0/16')\n"
        "print(json.dumps(routes()))\n"
    )
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-"], input=script, capture_output=True, text=True, check=True
    )
    before, after = map(json.loads, done.stdout.splitlines())
    assert before == []
    assert sorted(after) == [["10.98.0.0/16", ""], ["10.99.0.0/24", "d0"]]


def test_this_machine_is_examined_whole_and_the_facts_survive_the_way_over_ssh() -> None:
    wish = Wish("/var/lib/libvirt/images", "/var/lib/libvirt/images/none", ["/etc/hostname"])
    done = subprocess.run(
        ["python3", "-", json.dumps(asdict(wish))],
        input=Path(host_probe.__file__).read_text(),
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
    )
    facts = from_json(done.stdout)
    assert isinstance(facts, Facts)
    assert facts.arch == platform.machine()
    assert facts.files == {"/etc/hostname": True}
    assert facts.pool.steps[0].path == str(ROOT)
    assert facts.kvm.emulated.outcome == "ran"
    assert facts.user == pwd.getpwuid(os.geteuid()).pw_name
    assert asdict(from_json(json.dumps(asdict(facts)))) == asdict(facts)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"kvm": {}}'])
def test_another_answer_is_no_facts(text: str) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        from_json(text)


def test_a_user_and_its_groups() -> None:
    assert host_probe.user_ids("root") == [0, 0]
    assert host_probe.user_ids("0") == [0, 0]
    assert host_probe.user_ids("no-such-user-here") is None
