"""Runs the program `__main__.py` against a mock monitor that records each request as it was sent."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import logging
import runpy
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pulumi
import pytest
from google.protobuf.json_format import MessageToDict
from pulumi.runtime import mocks
from pulumi.runtime.config import set_all_config
from pulumi.runtime.settings import set_root_resource

from layer1 import sshkeys

REPOSITORY = Path(__file__).resolve().parent.parent.parent
STACK = "unit"
OPERATOR = sshkeys.ed25519_public(b"\x01" * 32, "operator@example")
MARK = "s3cr3tzq7"
LAYER2 = {"ignition": {"version": "3.4.0"}, "storage": {"files": [{"path": f"/etc/{MARK}"}]}}
FACTS = {
    "path": "/cache/images/sha512/abcd",
    "name": "practice/lab/0123/amd64",
    "version": "0123",
    "sha512": "cd" * 64,
    "verified_by": "digest",
}
BOARD_FACTS = {
    "board": "rpi4",
    "image": {key: value for key, value in FACTS.items() if key != "path"},
    "image_file": "/work/pi/unit/board.img",
    "sha256": "ab" * 32,
    "personalisation": None,
}
_SIGNATURE = "4dabf18193072939515e22adb298388d"
_SECRET = "1b47061264138c4ac30d75fd1eb44270"


def seed_of(name: str) -> bytes:
    """The 32 bytes that the mock gives a RandomBytes resource."""
    return hashlib.sha256(name.encode()).digest()


def task_of(inputs: dict[str, Any]) -> str:
    return str(inputs["create"]).removeprefix("python3 -m layer1 task ")


class _Provider(mocks.Mocks):
    """Gives each resource the outputs that its real provider computes."""

    def call(self, args: mocks.MockCallArgs) -> Any:
        raise AssertionError(f"no function is to be called: {args.token}")

    def new_resource(self, args: mocks.MockResourceArgs) -> tuple[str, dict[str, Any]]:
        outputs: dict[str, Any] = {}
        if args.typ == "random:index/randomBytes:RandomBytes":
            seed = seed_of(args.name)
            outputs = {"base64": base64.b64encode(seed).decode(), "hex": seed.hex()}
        if args.typ == "command:local:Command":
            said = {
                "image": json.dumps(FACTS),
                "ignition": json.dumps({"ignition": {"version": "3.4.0"}, "mark": f"{MARK} {args.name}"}),
                "seed": f"/work/seeds/{args.name}.iso",
                "node-ready": "{}",
                "talos-secrets": f"{MARK} {args.name}",
                "talos-talosconfig": f"{MARK} {args.name}",
                "talos-config": f"# {MARK} {args.name}\n",
                "talos-kubeconfig": f"{MARK} {args.name}",
                "pi-image": json.dumps(BOARD_FACTS),
                "pi-apply": "{}",
            }
            outputs = {"stdout": said.get(task_of(args.inputs), ""), "stderr": ""}
        return f"id-of-{args.name}", args.inputs | outputs


class Recorder(mocks.MockMonitor):
    """Keeps the requests, and marks outputs secret where the request asks for it, as the engine does."""

    def __init__(self) -> None:
        super().__init__(_Provider())
        self.registered: list[tuple[str, Any]] = []
        self.completed: dict[str, Any] = {}

    def RegisterResource(self, request: Any) -> Any:  # noqa: N802 - the SDK's name
        response = super().RegisterResource(request)
        if request.type != "pulumi:pulumi:Stack":
            self.registered.append((response.urn, request))
        for name in request.additionalSecretOutputs:
            if name in response.object.fields and not _is_secret(response.object.fields[name]):
                plain = MessageToDict(response.object.fields[name])
                response.object.update({name: {_SIGNATURE: _SECRET, "value": plain}})
        return response

    def RegisterResourceOutputs(self, request: Any) -> Any:  # noqa: N802 - the SDK's name
        self.completed[request.urn] = MessageToDict(request.outputs)
        return super().RegisterResourceOutputs(request)


def _is_secret(value: Any) -> bool:
    return value.HasField("struct_value") and _SIGNATURE in value.struct_value.fields


def _masked(value: Any) -> Any:
    if isinstance(value, dict):
        if value.get(_SIGNATURE) == _SECRET:
            return "[secret]"
        return {key: _masked(item) for key, item in value.items()}
    return [_masked(item) for item in value] if isinstance(value, list) else value


def _revealed(value: Any) -> Any:
    if isinstance(value, dict):
        if value.get(_SIGNATURE) == _SECRET:
            return _revealed(value["value"])
        return {key: _revealed(item) for key, item in value.items()}
    return [_revealed(item) for item in value] if isinstance(value, list) else value


@dataclass(frozen=True, slots=True)
class Resource:
    """One registered resource; `shown` are its inputs with secrets masked, `real` with secrets in clear."""

    urn: str
    type: str
    name: str
    request: Any
    shown: dict[str, Any]
    real: dict[str, Any]

    @property
    def task_request(self) -> dict[str, Any]:
        return dict(json.loads(self.real["stdin"]))


@dataclass(slots=True)
class Run:
    """What a run of the program asked for."""

    resources: list[Resource] = field(default_factory=list)
    completed: dict[str, Any] = field(default_factory=dict)
    exports: dict[str, Any] = field(default_factory=dict)
    secret_exports: set[str] = field(default_factory=set)
    log: list[str] = field(default_factory=list)

    def __getitem__(self, name: str) -> Resource:
        (found,) = [resource for resource in self.resources if resource.name == name]
        return found

    def of_type(self, token: str) -> list[Resource]:
        return [resource for resource in self.resources if resource.type == token]

    @property
    def commands(self) -> list[Resource]:
        return self.of_type("command:local:Command")


class _Lines(logging.Handler):
    def __init__(self, lines: list[str]) -> None:
        super().__init__()
        self.lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def write_manifest(cache: Path) -> None:
    """Write the manifest of a practice image that nobody built; the program reads it, not the image."""
    folder = cache / "lab" / "current"
    folder.mkdir(parents=True, exist_ok=True)
    manifest = {
        "name": "lab",
        "version": "0123",
        "arch": "amd64",
        "format": "qcow2",
        "path": "guest.qcow2",
        "size_bytes": 1,
        "sha512": "cd" * 64,
        "virtual_size_bytes": 1024**3,
        "k3s_installer": {"sha512": "ef" * 64},
    }
    (folder / "image.json").write_text(json.dumps(manifest))


@contextlib.contextmanager
def _export_into(exports: dict[str, Any]) -> Iterator[None]:
    original = pulumi.export
    pulumi.export = exports.__setitem__
    try:
        yield
    finally:
        pulumi.export = original


@contextlib.contextmanager
def _loops() -> Iterator[None]:
    """Give the SDK an event loop for each thread that it runs on, and close them, which it does not."""
    loops: list[asyncio.AbstractEventLoop] = []

    def begin() -> None:
        loops.append(asyncio.new_event_loop())
        asyncio.set_event_loop(loops[-1])

    begin()
    executor = ThreadPoolExecutor(max_workers=8, initializer=begin)
    loops[0].set_default_executor(executor)
    try:
        yield
    finally:
        executor.shutdown(wait=True)
        asyncio.set_event_loop(None)
        for loop in loops:
            loop.close()


def _now(awaitable: Any) -> Any:
    return asyncio.get_event_loop().run_until_complete(awaitable)


def run_program(
    raw: dict[str, Any], monkeypatch: pytest.MonkeyPatch, cache: Path, secret: dict[str, str] | None = None
) -> Run:
    """Run the program; objects of the configuration go in as JSON, as the engine hands them over."""
    secret = secret or {}
    texts = {f"layer1:{key}": v if isinstance(v, str) else json.dumps(v) for key, v in (raw | secret).items()}
    secret_keys = [f"layer1:{key}" for key in secret]
    for name in ("FK_VM_RAM_MB", "FK_VM_VCPUS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PULUMI_CONFIG", json.dumps(texts))
    monkeypatch.setenv("LAYER1_CACHE", str(cache))
    set_all_config(texts, secret_keys)

    run = Run()
    logger = logging.Logger("pulumi under test", level=logging.INFO)
    logger.addHandler(_Lines(run.log))
    recorder = Recorder()
    exports: dict[str, Any] = {}

    @mocks.test
    def program() -> Any:
        runpy.run_path(str(REPOSITORY / "__main__.py"))
        return pulumi.Output.all(**exports).apply(run.exports.update)

    with _loops(), _export_into(exports):
        set_root_resource(None)  # else the last run's stack, on a closed loop, is the parent
        mocks.set_mocks(
            recorder.mocks, project="layer1", stack=STACK, preview=False, logger=logger, monitor=recorder
        )
        program()
        run.secret_exports = {
            name for name, output in exports.items() if _now(pulumi.Output.from_input(output).is_secret())
        }
    for urn, request in recorder.registered:
        inputs = MessageToDict(request.object)
        run.resources.append(
            Resource(urn, request.type, request.name, request, _masked(inputs), _revealed(inputs))
        )
    run.completed = recorder.completed
    return run
