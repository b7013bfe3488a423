"""Serves the stand-in k3s release in the layout of the real one, so that guests need no network beyond."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from lab.build import K3S
from layer1.errors import ToolError
from layer1.paths import REPOSITORY, work_dir

# `v1.33.4+k3s1`: what the URL names is put into the script, so it may hold nothing but this.
_DOWNLOAD = re.compile(r"/download/(v[0-9]+\.[0-9]+\.[0-9]+(?:-rc[0-9]+)?\+k3s[0-9]+)/([a-z0-9.-]+)")
_SUFFIXES = {"amd64": "", "arm64": "-arm64"}


def answer(path: str) -> bytes | None:
    """Return what the server has at a path, or None."""
    path = unquote(urlsplit(path).path)
    if path == "/install.sh":
        return (K3S / "install.sh").read_bytes()
    match = _DOWNLOAD.fullmatch(path)
    if not match:
        return None
    binary = (K3S / "k3s").read_bytes().replace(b"@VERSION@", match[1].encode())
    for arch, suffix in _SUFFIXES.items():
        if match[2] == f"k3s{suffix}":
            return binary
        if match[2] == f"sha256sum-{arch}.txt":
            return f"{hashlib.sha256(binary).hexdigest()}  k3s{suffix}\n".encode()
    return None


class _Handler(http.server.BaseHTTPRequestHandler):
    timeout = 30  # a guest that dies in the middle must not hold a thread for ever

    def do_GET(self) -> None:
        self._send(with_body=True)

    def do_HEAD(self) -> None:
        self._send(with_body=False)

    def _send(self, *, with_body: bool) -> None:
        content = answer(self.path)
        if content is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if with_body:
            self.wfile.write(content)


class Server(http.server.ThreadingHTTPServer):
    """An HTTP server that may be bound before its address exists: the bridge comes with the network."""

    daemon_threads = True

    def server_bind(self) -> None:
        """Bind with IP_FREEBIND."""
        # Python's socket module does not name it; 15 on every Linux
        self.socket.setsockopt(socket.SOL_IP, getattr(socket, "IP_FREEBIND", 15), 1)
        super().server_bind()


def serve(address: str, port: int) -> None:
    """Serve in the foreground until SIGTERM or SIGINT."""
    try:
        server = Server((address, port), _Handler)
    except OSError as error:
        raise ToolError(
            f"cannot listen on {address}:{port}: {error.strerror}. Is another server on that port? "
            "`python -m lab stop` ends ours; any other has to be ended by who started it."
        ) from error
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with server:
        print(f"serving the stand-in k3s on http://{address}:{server.server_address[1]}/", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return


def _state_file() -> Path:
    return work_dir() / "lab" / "serve.json"


def _log_file() -> Path:
    return work_dir() / "lab" / "serve.log"


def _start_time(pid: int) -> str | None:
    """Return when a process started, in the kernel's ticks: with the pid, this names it for good."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] == "Z" else fields[19]


def running() -> dict[str, Any] | None:
    """Return pid, address and port of the server that runs in the background, or None."""
    try:
        state: dict[str, Any] = json.loads(_state_file().read_text())
        started = _start_time(int(state["pid"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return state if started is not None and started == state.get("started") else None


def start(address: str, port: int) -> str:
    """Start the server in the background unless it runs; return a line that says what was done."""
    url = f"http://{address}:{port}/"
    state = running()
    if state and (state["address"], state["port"]) == (address, port):
        return f"the stand-in k3s is being served already on {url} (process {state['pid']})"
    if state:
        stop()
    _log_file().parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _log_file().open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "lab", "serve", "--address", address, "--port", str(port)],
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    _wait_for(process, address, port)
    _write_state(process.pid, address, port)
    return f"serving the stand-in k3s on {url} (process {process.pid}, log {_log_file()})"


def _wait_for(process: subprocess.Popen[bytes], address: str, port: int) -> None:
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        if process.poll() is not None:
            lines = _log_file().read_text(errors="replace").splitlines()
            raise ToolError(f"the server did not start: {lines[-1] if lines else 'it said nothing'}")
        if _listens(process.pid, port):
            return
        time.sleep(0.05)
    process.kill()
    process.wait()
    raise ToolError(f"the server did not listen on {address}:{port} within 15 s; its log is {_log_file()}")


def _listens(pid: int, port: int) -> bool:
    """Whether a process listens on a port; the address may not exist yet, so it cannot be asked over HTTP."""
    sockets = set()
    for link in Path(f"/proc/{pid}/fd").glob("*"):
        try:
            sockets.add(str(link.readlink()))
        except OSError:
            continue
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        local_port, state, inode = int(fields[1].split(":")[1], 16), fields[3], fields[9]
        if state == "0A" and local_port == port and f"socket:[{inode}]" in sockets:
            return True
    return False


def _write_state(pid: int, address: str, port: int) -> None:
    state = {"pid": pid, "started": _start_time(pid), "address": address, "port": port}
    temporary = _state_file().with_suffix(".new")
    temporary.write_text(json.dumps(state) + "\n")
    temporary.replace(_state_file())


def stop() -> str:
    """End the server that runs in the background, and no other process; return a line that says so."""
    state = running()
    if state is None:
        _state_file().unlink(missing_ok=True)
        return "the stand-in k3s is not being served"
    pid = int(state["pid"])
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and _start_time(pid) == state["started"]:
        time.sleep(0.05)
    if _start_time(pid) == state["started"]:
        os.kill(pid, signal.SIGKILL)
    _state_file().unlink(missing_ok=True)
    return f"ended the server of the stand-in k3s (process {pid})"
