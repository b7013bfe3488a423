from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from lab_samples import MARK, Keys

from lab import build, serve


@pytest.fixture(scope="session")
def image() -> Path:
    return Path(build.build()).with_name("guest.qcow2")


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    folder = tmp_path_factory.mktemp("keys")
    made = Keys(folder / "client", folder / "host", folder / "known_hosts")
    for key in (made.client, made.host):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", key], check=True)
    made.known_hosts.write_text(f"guest {made.host.with_suffix('.pub').read_text()}")
    return made


def _file(path: str, mode: int, content: str) -> dict[str, Any]:
    return {"path": path, "mode": mode, "overwrite": True, "contents": {"source": f"data:,{quote(content)}"}}


@pytest.fixture
def url() -> Iterator[str]:
    server = serve.Server(("127.0.0.1", 0), serve._Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def config(keys: Keys) -> dict[str, Any]:
    """An Ignition config with all that a node's has."""
    hello = (
        "[Unit]\nWants=network-online.target\nAfter=network-online.target\n"
        "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/usr/bin/touch /var/lib/hello\n"
        "[Install]\nWantedBy=multi-user.target\n"
    )
    bind = (
        "[Mount]\nWhat=/opt/k3s/bin\nWhere=/usr/local/bin\nType=none\nOptions=bind\n"
        "[Install]\nWantedBy=multi-user.target\n"
    )
    return {
        "ignition": {"version": "3.4.0"},
        "kernelArguments": {"shouldExist": ["quiet", "layer1.test"], "shouldNotExist": ["flatcar.autologin"]},
        "passwd": {
            "groups": [{"name": "observers", "system": True}],
            "users": [
                {"name": "core", "sshAuthorizedKeys": [keys.client.with_suffix(".pub").read_text().strip()]},
                {
                    "name": "status",
                    "system": True,
                    "noCreateHome": True,
                    "homeDir": "/",
                    "shell": "/bin/sh",
                    "groups": ["systemd-journal", "observers"],
                },
            ],
        },
        "storage": {
            "directories": [
                {"path": "/etc/rancher/k3s", "mode": 0o700},
                {"path": "/opt/k3s/bin", "mode": 0o755},
            ],
            "files": [
                _file("/etc/hostname", 0o644, "k3s-1\n"),
                _file("/etc/ssh/ssh_host_ed25519_key", 0o600, keys.host.read_text()),
                _file("/etc/ssh/sshd_config.d/00-test.conf", 0o600, "PasswordAuthentication no\n"),
                _file("/etc/rancher/k3s/token", 0o600, MARK),
            ],
        },
        "systemd": {
            "units": [
                {"name": "hello.service", "enabled": True, "contents": hello},
                {"name": "usr-local-bin.mount", "enabled": True, "contents": bind},
                {"name": "locksmithd.service", "mask": True},
                {"name": "update-engine.service", "enabled": False},
                {"name": "sshd.socket", "enabled": False, "mask": True},
            ]
        },
    }


@pytest.fixture
def rendered(config: dict[str, Any]) -> str:
    return json.dumps(config)
