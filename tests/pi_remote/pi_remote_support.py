"""A board of real parts: Debian's systemd, sshd, sudo and tar in namespaces, and Layer 1's own files.

Stand-ins: the namespaces for the board's kernel and firmware, a file for its boot id, and the tests' own
apply.sh for the hardening (tests/arm64 runs the real one).
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from debian_tree import debian_tree

from layer1 import sshkeys
from layer1.butane import InstallerPin
from layer1.pi.bundle import BoardSettings, bundle
from layer1.pi.remote import BoardTarget

HERE = Path(__file__).parent
PACKAGES = "openssh-server,sudo,systemd-sysv,dbus,libpam-systemd"
ADDRESS, PROXY_ADDRESS = "10.77.0.2", "10.77.0.3"
HOSTNAME = "pi-1"
GATE = "/usr/local/lib/layer1/receive.sh"
STATE = "var/lib/layer1"

Keys = tuple[str, str]
Proxy = Callable[[int, int], Path]


def key_pair(number: int) -> Keys:
    """Return the private and the public text of a key that is the same each time."""
    seed = bytes([number]) * 32
    return sshkeys.ed25519_private(seed, "test"), sshkeys.ed25519_public(seed, "test")


HOST, APPLY, STATUS, OPERATOR, OTHER = (key_pair(number) for number in range(1, 6))
SETTINGS = BoardSettings(
    hostname=HOSTNAME,
    user="layer1",
    ssh_authorized_keys=(OPERATOR[1],),
    host_private=HOST[0],
    host_public=HOST[1],
    status_public=STATUS[1],
    apply_public=APPLY[1],
    address=f"{ADDRESS}/24",
    gateway="10.77.0.1",
    nameservers=("10.77.0.1",),
    cluster_networks=(),
    operator_networks=(),
    installer=InstallerPin(
        url="https://get.k3s.io/", sha512="0" * 128, releases_url="https://github.com/k3s-io/k3s"
    ),
    k3s_version="v1.36.4+k3s1",
)
SECRETS = [line for pair in (HOST, APPLY, STATUS) for line in pair[0].splitlines()[1:-1]]

# What the board has of its bundle before the tests: who may log in, and what answers them.
FIRST_FILES = (
    "etc/ssh/layer1_host_ed25519_key",
    "etc/ssh/layer1_host_ed25519_key.pub",
    "etc/ssh/layer1-keys/layer1-apply",
    "etc/ssh/layer1-keys/layer1-status",
    "etc/ssh/sshd_config.d/00-layer1.conf",
    "etc/sudoers.d/layer1",
    "etc/systemd/system/k3s-config.path",
    "etc/tmpfiles.d/layer1.conf",
    "usr/local/lib/layer1/receive.sh",
    "usr/local/lib/layer1/status.sh",
)

# The mark as assets/pi/apply.sh keeps it: gone before the first change; the digest of the folder's tar, last.
BEGIN = """#!/bin/sh
set -eu
echo run >>/var/lib/layer1/runs
rm -f /var/lib/layer1/applied
"""
MARK = """
digest=$(cd "$1" && find . -type f | cut -c 3- | LC_ALL=C sort |
    tar --create --format=ustar --mtime=@0 --mode=0600 \
        --owner=0 --group=0 --numeric-owner --no-recursion --files-from=- |
    sha256sum | cut -d ' ' -f 1)
echo "$digest" >/var/lib/layer1/applied.new
mv /var/lib/layer1/applied.new /var/lib/layer1/applied
"""


def bundle_of(script: str, *, filling: str = "") -> dict[str, str]:
    """Return a bundle with a script of the test's, and the mark; it holds the host key, as any."""
    return {
        "apply.sh": f"{BEGIN}{script}\n{MARK}",
        "files/etc/ssh/layer1_host_ed25519_key": HOST[0],
        "files/filling": filling or "nothing\n",
    }


def tree() -> Path:
    """Return the Debian tree of the board."""
    return debian_tree(PACKAGES)


def wait_for(what: Callable[[], object], limit_s: float = 30) -> None:
    """Poll until something is true."""
    end = time.monotonic() + limit_s
    while not what():
        assert time.monotonic() < end, "it did not come to pass in time"
        time.sleep(0.05)


@dataclass
class Board:
    """The board: its disk is a folder; a reboot is a new boot of the same disk."""

    disk: Path
    powered: bool = False
    boots: int = 0
    _network: subprocess.Popen[bytes] = field(init=False)
    _machine: subprocess.Popen[bytes] | None = None
    _power: threading.Thread | None = None

    def __post_init__(self) -> None:
        for name in ("upper", "work", "root", "cgroup"):
            (self.disk / name).mkdir(parents=True)
        self._write_disk()
        self._network = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "ip link set lo up; echo up; exec sleep infinity"],
            stdout=subprocess.PIPE,
        )
        assert self._network.stdout
        assert self._network.stdout.readline() == b"up\n"
        for address in (ADDRESS, PROXY_ADDRESS):
            subprocess.run([*self.inside(), "ip", "address", "add", f"{address}/32", "dev", "lo"], check=True)

    def _write_disk(self) -> None:
        upper = self.disk / "upper"
        shutil.copytree(tree() / "etc", upper / "etc", symlinks=True)
        content = bundle(SETTINGS)
        for name in FIRST_FILES:
            path = upper / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content[f"files/{name}"])
            path.chmod(0o755 if path.suffix == ".sh" else 0o600 if path.name.endswith("_key") else 0o644)
        with (upper / "etc/passwd").open("a") as passwd, (upper / "etc/shadow").open("a") as shadow:
            for number, user in enumerate(("layer1-status", "layer1-apply"), 990):
                passwd.write(f"{user}:x:{number}:65534::/:/bin/sh\n")
                shadow.write(f"{user}:*:20000::::::\n")
        (upper / "etc/hostname").write_text(f"{HOSTNAME}\n")
        (upper / "etc/hosts").write_text(f"127.0.0.1 localhost\n127.0.1.1 {HOSTNAME}\n")
        with (upper / "etc/ssh/sshd_config.d/00-layer1.conf").open("a") as config:
            config.write(f"ListenAddress {ADDRESS}\n")  # the other address is the proxy's
        wants = upper / "etc/systemd/system/multi-user.target.wants"
        (wants / "k3s-config.path").symlink_to("/etc/systemd/system/k3s-config.path")
        (upper / "etc/systemd/system/k3s.service").write_text("[Service]\nExecStart=/bin/true\n")
        (upper / STATE).mkdir(parents=True)
        (upper / STATE / "k3s-installed").write_text("v1.36.4+k3s1\n")

    def inside(self) -> list[str]:
        """Return what runs a command in the board's network, as the operator's machine."""
        return ["nsenter", f"--net=/proc/{self._network.pid}/ns/net"]

    def power_on(self) -> None:
        """Boot, and boot again whenever the board ends, as power that stays does."""
        self.powered = True
        self._power = threading.Thread(target=self._run)
        self._power.start()

    def _run(self) -> None:
        while self.powered:
            boot_id = self.disk / f"boot-id-{self.boots}"
            boot_id.write_text(f"{uuid.uuid4()}\n")
            script = [str(HERE / "boot-board.sh"), str(tree()), str(self.disk), str(boot_id)]
            with (self.disk / "console").open("ab") as console:
                self._machine = subprocess.Popen(
                    [*self.inside(), "unshare", "--mount", *script], stdout=console, stderr=console
                )
            self.boots += 1
            self._machine.wait()

    def power_cut(self) -> None:
        """Cut the power for a moment: everything on the board ends at once."""
        assert self._machine
        ended = self._machine
        ended.send_signal(signal.SIGKILL)
        wait_for(lambda: self._machine is not ended)

    def power_off(self) -> None:
        self.powered = False
        if self._machine:
            self._machine.send_signal(signal.SIGKILL)
        if self._power:
            self._power.join()

    def discard(self) -> None:
        self.power_off()
        self._network.kill()
        self._network.communicate()
        clean = """
            mount -t cgroup2 none "$0/cgroup"
            cd "$0/cgroup"
            [ ! -d "${0##*/}" ] || find "${0##*/}" -depth -type d -delete 2>/dev/null"""
        wait_for(
            lambda: (
                subprocess.run(
                    ["unshare", "--mount", "sh", "-c", clean, str(self.disk)], check=False
                ).returncode
                == 0
            )
        )

    @property
    def root(self) -> Path:
        """The board's file system as it runs."""
        return Path(f"/proc/{self._init()}/root")

    def _init(self) -> int:
        """Return the process that is the board's systemd.

        Raises:
            OSError: there is none just now.
        """
        pid = self._machine.pid if self._machine else 0
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if not children:
            raise ProcessLookupError("the board is between two boots")
        return int(children[0])

    def run(self, *command: str) -> str:
        """Run a command on the board as root, past SSH."""
        enter = ["nsenter", f"--target={self._init()}", "--mount", "--pid", "--uts", "--ipc", "--cgroup"]
        done = subprocess.run([*enter, *command], check=True, capture_output=True, text=True, timeout=30)
        return done.stdout

    def read(self, name: str) -> str:
        """Return the text of one of Layer 1's marks on the board, empty when it is not there."""
        path = self.root / STATE / name
        return path.read_text() if path.exists() else ""


class Seen:
    """What the operator's ssh was called with."""

    def __init__(self, file: Path) -> None:
        self.file = file

    @property
    def lines(self) -> list[str]:
        """Each call's arguments."""
        return self.file.read_text().splitlines() if self.file.exists() else []

    @property
    def commands(self) -> list[str]:
        """Each call's last argument: what the board was asked."""
        return [line.rsplit("\x1f", 1)[-1] for line in self.lines]


def target(**changed: object) -> BoardTarget:
    facts: dict[str, object] = {
        "hostname": HOSTNAME,
        "address": ADDRESS,
        "host_key": HOST[1],
        "apply_key": APPLY[0],
        "status_key": STATUS[0],
        "timeout_s": 60,
    }
    return BoardTarget(**{**facts, **changed})  # type: ignore[arg-type]
