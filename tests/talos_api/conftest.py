"""What the tests of the Talos API share."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from talos_api_support import Pki, Refusal, Standin, Start, hold_no_secret

from layer1.errors import NodeError
from layer1.paths import cache_dir, work_dir
from layer1.talos import api, talosctl_api
from toolchain.build import build
from toolchain.golang import Go
from toolchain.programs import by_name


@pytest.fixture(scope="session")
def binary() -> Path:
    """The stand-in, built by the first run that needs it."""
    cache = cache_dir().absolute()
    program = by_name(["talos-standin"])[0]
    return build(program, Go(cache), cache, work_dir().absolute() / "log") / program.name


@pytest.fixture(scope="session", autouse=True)
def _talosctl() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{work_dir().absolute() / 'bin'}{os.pathsep}{os.environ['PATH']}")
        yield


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory, _talosctl: None) -> Pki:
    folder = tmp_path_factory.mktemp("pki")

    def make(name: str) -> tuple[Path, str]:
        secrets, talosconfig = folder / f"{name}-secrets.yaml", folder / f"{name}-talosconfig"
        config = ["gen", "config", name, "https://127.0.0.1:6443", "--with-secrets", str(secrets)]
        for command in (
            ["gen", "secrets", "-o", str(secrets)],
            [*config, "--output-types", "talosconfig", "-o", str(talosconfig)],
        ):
            subprocess.run(["talosctl", *command], check=True, capture_output=True, timeout=30)
        return secrets, talosconfig.read_text()

    (own, own_config), (strange, strange_config) = make("own"), make("strange")
    return Pki(own, strange, own_config, strange_config)


@pytest.fixture(autouse=True)
def _brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(talosctl_api, "POLL_S", 0.1)
    monkeypatch.setattr(api, "_ROUND_S", 2.0)
    monkeypatch.setattr(api, "_ROUND_MORE_S", 3.0)
    monkeypatch.setattr(api, "_SECOND_LOOK_S", 1.0)
    monkeypatch.setattr(talosctl_api, "MAINTENANCE_S", 1.0)


@pytest.fixture
def start(binary: Path, pki: Pki) -> Iterator[Start]:
    running: list[Standin] = []

    def run(*nodes: dict[str, Any], **scenario: Any) -> Standin:
        running.append(Standin(binary, pki, list(nodes), **scenario))
        return running[-1]

    yield run
    for each in running:
        each.end()


@pytest.fixture
def refusal(pki: Pki) -> Refusal:
    """Run what must fail; its error, which holds no secret."""

    def run(function: Callable[..., object], *arguments: Any, **named: Any) -> str:
        with pytest.raises(NodeError) as caught:
            function(*arguments, **named)
        text = str(caught.value)
        hold_no_secret(text, pki)
        return text

    return run
