"""A throwaway copy of the program with a stack of its own, driven by the real `pulumi` as users drive it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

from layer1.paths import REPOSITORY, cache_dir

PARTS = ("__main__.py", "Pulumi.yaml", "layer1", "components", "assets")
POLICY = ("--policy-pack", str(REPOSITORY / "policy"))
"""As `make preview` and `make up` do it."""
URI = "qemu:///system"
SERVER_PORT = 8012
LAYER2 = "layer2_ignition"
_SEARCH_EVERY_S = 0.05


class Project:
    """One stack in a folder of its own: program, state, passphrase, staging, and everything it printed."""

    def __init__(self, folder: Path, stack: str, config: dict[str, Any]) -> None:
        self.folder = folder
        self.stack = stack
        self.config = config
        self.printed: list[str] = []
        self.environment = {
            **os.environ,
            "LAYER1_WORK": str(folder / "work"),
            "LAYER1_CACHE": str(cache_dir()),
            "PULUMI_BACKEND_URL": f"file://{folder / 'state'}",
            "PULUMI_CONFIG_PASSPHRASE": "only for this test",
            "PULUMI_SKIP_UPDATE_CHECK": "true",
        }
        self.environment.pop("PULUMI_CONFIG_PASSPHRASE_FILE", None)
        (folder / "state").mkdir(parents=True)
        self.program.mkdir()
        for part in PARTS:
            source = REPOSITORY / part
            if source.is_dir():
                shutil.copytree(source, self.program / part, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, self.program / part)
        self.write()
        self.pulumi("stack", "init", stack)
        self.salt = yaml.safe_load(self.stack_file.read_text())["encryptionsalt"]
        self.write()

    @property
    def program(self) -> Path:
        return self.folder / "program"

    @property
    def stack_file(self) -> Path:
        return self.program / f"Pulumi.{self.stack}.yaml"

    @property
    def prefix(self) -> str:
        return f"layer1-{self.stack}"

    def write(self) -> None:
        plain = {key: value for key, value in self.config.items() if key != LAYER2}
        document: dict[str, Any] = {"config": {f"layer1:{key}": value for key, value in plain.items()}}
        if hasattr(self, "salt"):
            document = {"encryptionsalt": self.salt} | document
        self.stack_file.write_text(yaml.safe_dump(document))
        if LAYER2 in self.config:
            self.pulumi("config", "set", "--secret", f"layer1:{LAYER2}", stdin=self.config[LAYER2])

    @contextmanager
    def changed(self, **environment: str) -> Iterator[dict[str, Any]]:
        """Give the configuration to change; as it was afterwards."""
        before, before_environment = deepcopy(self.config), dict(self.environment)
        self.environment.update(environment)
        try:
            yield self.config
        finally:
            self.config, self.environment = before, before_environment
            self.write()

    def pulumi(
        self, *arguments: str, ok: bool = True, timeout_s: float = 600, stdin: str | None = None
    ) -> str:
        result = subprocess.run(
            ["pulumi", *arguments, "--non-interactive", "--color", "never"],
            cwd=self.program,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            input=stdin or "",
        )
        text = result.stdout + result.stderr
        self.printed.append(text)
        assert (result.returncode == 0) == ok, f"pulumi {arguments} ended with {result.returncode}:\n{text}"
        return result.stdout if ok and "--json" in arguments else text

    def up(self, *, ok: bool = True) -> str:
        self.write()
        return self.pulumi("up", "--stack", self.stack, "--yes", "--skip-preview", *POLICY, ok=ok)

    def destroy(self) -> str:
        return self.pulumi("destroy", "--stack", self.stack, "--yes", "--skip-preview")

    def remove_all(self) -> None:
        """Remove the stack with its protected data, as an operator who means it."""
        self.pulumi("state", "unprotect", "--all", "--stack", self.stack, "--yes")
        for line in virsh("vol-list", self.prefix, ok=False).splitlines():
            if "-data-" in line:
                virsh("vol-delete", "--pool", self.prefix, line.split()[0])
        self.destroy()

    def plan(self) -> dict[str, set[str]]:
        """Preview, and return the names of the resources by what would happen to them."""
        self.write()
        steps = json.loads(self.pulumi("preview", "--stack", self.stack, *POLICY, "--json"))["steps"]
        kinds: dict[str, set[str]] = {}
        for step in steps:
            name = step["urn"].rsplit("::", 1)[1]
            operation = step["op"]
            kind = "replace" if "replace" in operation else operation
            if kind != "same":
                kinds.setdefault(kind, set()).add(name)
        for name in kinds.get("replace", set()):
            for other in ("create", "delete"):
                kinds.get(other, set()).discard(name)
        return {kind: names for kind, names in kinds.items() if names}

    def outputs(self) -> dict[str, Any]:
        parsed: dict[str, Any] = json.loads(self.pulumi("stack", "output", "layer1", "--json"))
        return parsed

    def state(self, *, secrets: bool = False) -> dict[str, Any]:
        command = ["pulumi", "stack", "export", "--stack", self.stack]
        result = subprocess.run(
            [*command, *(["--show-secrets"] if secrets else [])],
            cwd=self.program,
            env=self.environment,
            capture_output=True,
            text=True,
            check=True,
        )
        parsed: dict[str, Any] = json.loads(result.stdout)
        return parsed


class ProcessListWatch:
    """Looks, while the body runs, whether a word shows in any process's arguments or environment file."""

    def __init__(self, words: tuple[str, ...]) -> None:
        self.words = words
        self.looks = 0
        self.seen: set[str] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._stop.is_set():
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    text = path.read_bytes().decode(errors="replace")
                except OSError:
                    continue
                self.seen.update(word for word in self.words if word in text)
            self.looks += 1
            time.sleep(_SEARCH_EVERY_S)

    def __enter__(self) -> ProcessListWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def virsh(*arguments: str, ok: bool = True) -> str:
    result = subprocess.run(
        ["virsh", "--quiet", "--connect", URI, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert not ok or result.returncode == 0, result.stderr
    return result.stdout


class Node:
    """The one node of the stack, reached as its operator reaches it: SSH with the pinned host key."""

    def __init__(self, output: dict[str, Any], private_key: Path, folder: Path) -> None:
        self.output = output
        self.private_key = private_key
        self.known_hosts = folder / "known_hosts"
        self.known_hosts.write_text(f"{output['address']} {output['ssh_host_key']}\n")

    def ssh(
        self, command: str, *, ok: bool = True, options: tuple[str, ...] = (), user: str = "core"
    ) -> subprocess.CompletedProcess[str]:
        arguments = ["ssh", "-F", "none", "-i", str(self.private_key), "-o", "BatchMode=yes"]
        arguments += ["-o", f"UserKnownHostsFile={self.known_hosts}", "-o", "GlobalKnownHostsFile=/dev/null"]
        arguments += ["-o", "ConnectTimeout=10", "-o", "LogLevel=ERROR", "-o", "IdentityAgent=none"]
        for option in options:
            arguments += ["-o", option]
        result = subprocess.run(
            [*arguments, f"{user}@{self.output['address']}", command],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert not ok or result.returncode == 0, f"{command}: {result.stdout}{result.stderr}"
        return result

    def read(self, command: str) -> str:
        return self.ssh(command).stdout.strip()

    def wait(self, command: str, wanted: str, timeout_s: float = 120) -> str:
        """Ask again until the answer is the wanted one; the node may be on its way up."""
        end = time.monotonic() + timeout_s
        answer = ""
        while time.monotonic() < end:
            answer = self.ssh(command, ok=False).stdout.strip()
            if answer == wanted:
                return answer
            time.sleep(1)
        raise AssertionError(f"{command}: wanted {wanted!r}, last answer {answer!r}")
