"""Goes and looks: asks libvirt, the hosts and the guests, all at once, and judges nothing."""

from __future__ import annotations

import json
import socket
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from layer1 import host_ssh, node_status, ssh
from layer1.audit.facts import Domain, Facts, Guest, Host, Talos, host_of
from layer1.audit.intent import Intent
from layer1.errors import HostError, Layer1Error, ToolError
from layer1.model import Os
from layer1.processes import last_lines, run
from layer1.talos import talosctl_api
from layer1.virsh import UNREACHABLE, domain_state, virsh

_HOST_S = 60.0
_GUEST_S = 45.0
_SCRIPT = Path(__file__).with_name("host_facts.py")
# Whoever may use libvirt's system socket is as good as root; where sudo asks nothing, root looks.
_AS_ROOT = """\
if [ "$(id -u)" != 0 ] && sudo -n true 2>/dev/null; then exec sudo -n python3 -I -; fi
exec python3 -I -"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Access:
    """How a node's guest is asked; the keys are secret.

    Attributes:
        host_key: its public SSH host key.
        status_key: private key of the user layer1-status.
        talosconfig: access to Talos' API.
        via: control planes through which a Talos worker is asked.
    """

    host_key: str | None = None
    status_key: str | None = None
    talosconfig: str | None = None
    via: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Live:
    """What libvirt says of one domain."""

    state: str
    xml: ET.Element | None
    binding: ET.Element | None
    network: ET.Element | None


def collect(nodes: Sequence[tuple[Intent, Access]]) -> list[Facts]:
    """Look at every node; what cannot be read is left out, with the reason where there is one."""
    with ThreadPoolExecutor(max_workers=8) as pool:
        guests = [pool.submit(_guest, intent, access) for intent, access in nodes]
        live = [pool.submit(_live, intent) for intent, _ in nodes]
        hosts = _hosts(pool, [intent for intent, _ in nodes], [each.result() for each in live])
        return [
            Facts(
                domain=_domain(intent, seen.result(), hosts),
                guest=guest.result(),
            )
            for (intent, _), seen, guest in zip(nodes, live, guests, strict=True)
        ]


# --- libvirt ---


def _live(intent: Intent) -> _Live | None:
    wanted = intent.domain
    if wanted is None:
        return None
    try:
        state = domain_state(wanted.uri, wanted.machine.domain_name)
        off = state.startswith(("gone", "shut off", "crashed", UNREACHABLE))
        xml = None if off else _xml(wanted.uri, "dumpxml", wanted.machine.domain_name)
        tap = xml.find("devices/interface/target") if xml is not None else None
        return _Live(
            state=state,
            xml=xml,
            binding=_xml(wanted.uri, "nwfilter-binding-dumpxml", tap.get("dev", ""))
            if tap is not None
            else None,
            network=_xml(wanted.uri, "net-dumpxml", wanted.network),
        )
    except ToolError as error:
        return _Live(state=f"{UNREACHABLE}: {error}", xml=None, binding=None, network=None)


def _xml(uri: str, *arguments: str) -> ET.Element | None:
    result = virsh(uri, *arguments)
    return ET.fromstring(result.stdout) if result.returncode == 0 else None  # noqa: S314 - libvirt's own


def _domain(intent: Intent, live: _Live | None, hosts: dict[str, Future[Host]]) -> Domain | None:
    if intent.domain is None or live is None:
        return None
    host, problem = None, ""
    try:
        host = hosts[intent.domain.uri].result()
    except HostError as error:
        problem = str(error)
    return Domain(
        state=live.state, xml=live.xml, binding=live.binding, network=live.network, host=host, problem=problem
    )


# --- the hosts ---


def _hosts(
    pool: ThreadPoolExecutor, intents: Sequence[Intent], live: Sequence[_Live | None]
) -> dict[str, Future[Host]]:
    """Read each host once, for all of its nodes."""
    found: dict[str, Future[Host]] = {}
    for wanted in (intent.domain for intent in intents):
        if wanted is None or wanted.uri in found:
            continue
        here = [
            (other.domain, seen)
            for other, seen in zip(intents, live, strict=True)
            if other.domain is not None and other.domain.uri == wanted.uri
        ]
        request = {
            "domains": [each.machine.domain_name for each, _ in here],
            "uuids": [intent.uuid for intent in intents if intent.domain and intent.domain.uri == wanted.uri],
            "directory": wanted.directory,
            "files": sorted({path for _, seen in here if seen for path in disk_paths(seen.xml)}),
        }
        found[wanted.uri] = pool.submit(read_host, wanted.uri, request)
    return found


def disk_paths(xml: ET.Element | None) -> list[str]:
    """Return the files and devices of a domain's disks."""
    sources = xml.iterfind("devices/disk/source") if xml is not None else ()
    return [path for source in sources if (path := source.get("file") or source.get("dev"))]


def read_host(uri: str, request: dict[str, Any]) -> Host:
    """Have a host read itself: this one, or another by the SSH that its libvirt URI names.

    Raises:
        HostError: it could not be reached, has no Python, or answered nonsense.
    """
    script = f"{_SCRIPT.read_text()}\nanswer({json.dumps(request)!r})\n"
    try:
        done = run(_command(uri), stdin=script, timeout_s=_HOST_S)
    except ToolError as error:
        raise HostError(f"the host of {uri} does not answer: {error}") from None
    if done.returncode != 0:
        raise HostError(f"the host of {uri} could not be read: {last_lines(done.stderr, 2)}")
    try:
        return host_of(json.loads(done.stdout))
    except (ValueError, KeyError, TypeError):
        raise HostError(f"the host of {uri} answered something else than was asked") from None


def _command(uri: str) -> list[str]:
    if not host_ssh.is_remote(uri):
        return ["sh", "-c", _AS_ROOT]
    if not host_ssh.virsh_speaks_ssh(uri):
        raise HostError(f"{uri} leads to libvirt alone; only by qemu+ssh:// can its host be read too")
    host = urlsplit(uri)
    command = ["ssh", *host_ssh.options(uri)]
    command += ["-p", str(host.port)] if host.port else []
    command += ["-l", host.username] if host.username else []
    return [*command, str(host.hostname), _AS_ROOT]


# --- the guests ---


def _guest(intent: Intent, access: Access) -> Guest:
    try:
        if intent.os == Os.TALOS:
            return _talos_guest(intent, access)
        return _ssh_guest(intent, access)
    except Layer1Error as error:
        return Guest(problem=str(error))


def _ssh_guest(intent: Intent, access: Access) -> Guest:
    if not access.host_key or not access.status_key:
        return Guest(problem="the stack's outputs have no key for it; run `make up`")
    via = intent.domain.uri if intent.domain else None
    with ThreadPoolExecutor(max_workers=2) as pool:
        answers = [
            pool.submit(_ask, intent.address, user, access.host_key, access.status_key, via)
            for user in ("layer1-status", "root")
        ]
        said, refused = (answer.result() for answer in answers)
    if said.returncode != 0:
        return Guest(problem=last_lines(said.stderr, 1) or "no answer")
    status = node_status.parse_status(said.stdout)
    if problem := node_status.wrong(status, intent.name, intent.address):
        return Guest(problem=problem)
    offered = refused.stderr.rpartition("Permission denied (")[2].partition(")")[0]
    opened = "root is let in" if refused.returncode == 0 else None
    return Guest(status=status, offered=opened or (offered if ssh.key_refused(refused) else None))


def _ask(address: str, user: str, host_key: str, key: str, jump: str | None) -> Any:  # noqa: ANN401
    login = ssh.Login(user=user, address=address, host_key=host_key, key=key, jump=jump)
    with ssh.session(login) as ask:
        return ask("audit", timeout_s=_GUEST_S)


def _talos_guest(intent: Intent, access: Access) -> Guest:
    if not access.talosconfig:
        return Guest(problem="the stack's outputs have no talosconfig; run `make up`")
    with talosctl_api.session(access.talosconfig) as talosctl:

        def specs(kind: str) -> dict[str, Any] | None:
            found, _ = talosctl.resources(kind, node=intent.address, via=access.via, timeout_s=_GUEST_S)
            return found if isinstance(found, dict) else None

        def text(path: str) -> str | None:
            answer = talosctl.ask("read", path, node=intent.address, via=access.via, timeout_s=_GUEST_S)
            return answer.stdout if answer.good else None

        asked: dict[str, Callable[[], Any]] = {
            "version": lambda: specs("versions.runtime.talos.dev"),
            "mounts": lambda: text("/proc/mounts"),
            "volumes": lambda: specs("volumestatuses.block.talos.dev"),
            "security": lambda: specs("securitystates.talos.dev"),
            "anonymous": lambda: talosctl.in_maintenance(intent.address),
            "ssh": lambda: _port_open(intent.address, 22),
        }
        with ThreadPoolExecutor(max_workers=len(asked)) as pool:
            running = {name: pool.submit(ask) for name, ask in asked.items()}
            seen = {name: each.result() for name, each in running.items()}
    version = next((spec.get("version") for spec in (seen["version"] or {}).values()), None)
    if version is None:
        return Guest(problem=f"Talos' API at {intent.address} does not answer the stack's talosconfig")
    return Guest(talos=_talos(str(version), seen))


def _talos(version: str, seen: dict[str, Any]) -> Talos:
    volumes, security = seen["volumes"], seen["security"]
    encryption = None
    if volumes is not None:
        encryption = {
            name: str(spec.get("encryptionProvider") or "none")
            for name, spec in volumes.items()
            if name in ("STATE", "EPHEMERAL")
        }
    secure = None
    if security:
        secure = any(bool(spec.get("secureBoot")) for spec in security.values())
    return Talos(
        version=version,
        anonymous=seen["anonymous"],
        mounts=seen["mounts"],
        encryption=encryption,
        secure_boot=secure,
        ssh=seen["ssh"],
    )


def _port_open(address: str, port: int) -> bool | None:
    """Say whether a port is open; None where nothing says so either way."""
    try:
        with socket.create_connection((address, port), timeout=3):
            return True
    except ConnectionRefusedError:
        return False
    except OSError:
        # Talos' firewall drops what no rule lets in: silence is a port that is not open.
        return False
