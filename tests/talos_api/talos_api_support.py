"""A cluster of stand-ins: real talosctl, real API definitions and mutual TLS, nodes on loopback addresses."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OLD = "factory.talos.dev/metal-installer/" + "a" * 64 + ":v1.13.0"
NEW = "factory.talos.dev/metal-installer/" + "b" * 64 + ":v1.13.4"
_networks = itertools.count(os.getpid())


@dataclass(frozen=True)
class Pki:
    """Two clusters' secrets and talosconfigs."""

    secrets: Path
    strange_secrets: Path
    talosconfig: str
    strange_talosconfig: str


def node(name: str, **fields: Any) -> dict[str, Any]:
    """Return a node of the scenario; names that start with `w` are workers."""
    return {
        "hostname": name,
        "role": "worker" if name.startswith("w") else "controlplane",
        "face": "up",
        "version": "v1.13.0",
        "schematic": "a" * 64,
        **fields,
    }


class Standin:
    """A running talos-standin."""

    def __init__(self, binary: Path, pki: Pki, nodes: list[dict[str, Any]], **scenario: Any) -> None:
        number = next(_networks)
        network = f"127.{100 + number // 250 % 150}.{number % 250}"  # apart from other runs on this machine
        self.address = {each["hostname"]: f"{network}.{at}" for at, each in enumerate(nodes, 11)}
        self.pki = pki
        self.talosconfig = pki.talosconfig
        self._lock = threading.Lock()
        self._later: list[threading.Timer] = []
        self._process = subprocess.Popen(
            [binary], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
        )
        ready = self._say(
            {
                "secrets": str(pki.secrets),
                "strange_secrets": str(pki.strange_secrets),
                "nodes": [{**each, "address": self.address[each["hostname"]]} for each in nodes],
                **scenario,
            }
        )
        assert ready["ready"]

    def _say(self, order: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin
        assert self._process.stdout
        with self._lock:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        assert line, "the stand-in ended"
        answer: dict[str, Any] = json.loads(line)
        assert "error" not in answer, answer
        return answer

    def set(self, name: str, **fields: Any) -> None:
        """Change a node now."""
        self._say({"set": {self.address[name]: fields}})

    def later(self, after_s: float, name: str, **fields: Any) -> None:
        """Change a node in a while."""
        timer = threading.Timer(after_s, self.set, [name], fields)
        self._later.append(timer)
        timer.start()

    def node(self, name: str) -> dict[str, Any]:
        """Return a node as it is now."""
        nodes = self._say({"state": True})["nodes"]
        found: dict[str, Any] = next(each for each in nodes if each["hostname"] == name)
        return found

    def calls(self, *methods: str) -> list[tuple[str, str]]:
        """Return the calls so far, of these methods: (method, names of the nodes that it was for)."""
        names = {address: name for name, address in self.address.items()}
        return [
            (each["method"], ",".join(names[one] for one in each["nodes"] or [each["via"]]))
            for each in self._say({"state": True}).get("calls", [])
            if not methods or each["method"] in methods
        ]

    def addresses(self, *names: str) -> list[str]:
        """Return the addresses of these nodes."""
        return [self.address[name] for name in names]

    def end(self) -> None:
        """End it: it lives as long as its stdin."""
        for timer in self._later:
            timer.cancel()
            timer.join()
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        try:
            self._process.wait(10)
        finally:
            self._process.kill()
            self._process.stdout.close()


Start = Callable[..., Standin]
Refusal = Callable[..., str]


def hold_no_secret(text: str, pki: Pki) -> None:
    """Fail if a text holds a key or certificate, or a long part of one."""
    for config in (pki.talosconfig, pki.strange_talosconfig):
        for word in config.split():
            if len(word) > 60:
                assert word[30:60] not in text
    assert "PRIVATE KEY" not in text
