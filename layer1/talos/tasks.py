"""The tasks of the Talos path, as `layer1.tasks` runs them: a JSON request in, a text out."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from typing import Any

from layer1.talos import api, apply, machine_config, membership, retire
from layer1.talos.machine_config import ClusterSpec, Encryption, MachineSpec, Platform, Role

Request = dict[str, Any]


def _cluster(raw: Request) -> ClusterSpec:
    lists = ("control_planes", "workers", "operator_networks")
    typed: dict[str, Any] = {key: tuple(value) if key in lists else value for key, value in raw.items()}
    return ClusterSpec(**typed)


def _machine(raw: Request) -> MachineSpec:
    lists = ("nameservers", "time_servers")
    typed: dict[str, Any] = {key: tuple(value) if key in lists else value for key, value in raw.items()}
    typed |= {
        "role": Role(raw["role"]),
        "platform": Platform(raw["platform"]),
        "encryption": Encryption(raw["encryption"]),
    }
    return MachineSpec(**typed)


def _secrets(request: Request) -> str:
    return machine_config.generate_secrets(request["talos_version"])


def _talosconfig(request: Request) -> str:
    return machine_config.talosconfig(request["secrets"], _cluster(request["cluster"]))


def _config(request: Request) -> str:
    machine = _machine(request["machine"])
    config = machine_config.generate_config(request["secrets"], _cluster(request["cluster"]), machine)
    machine_config.validate(config, machine.platform)
    return config


def _apply(request: Request) -> str:
    apply.apply_config(request["talosconfig"], request["node"], request["config"], request["timeout_s"])
    return ""


def _first_config(request: Request) -> str:
    apply.first_config(
        request["talosconfig"],
        request["node"],
        request["config"],
        request["fingerprint"],
        request["timeout_s"],
    )
    return ""


def _bootstrap(request: Request) -> str:
    api.bootstrap(request["talosconfig"], request["node"], request["timeout_s"])
    return ""


def _members(request: Request) -> str:
    """Retire who was a member and is none any more; the output tells the next run who is one."""
    now = [_member(raw) for raw in request["members"]]
    previous = os.environ.get("PULUMI_COMMAND_STDOUT")
    before = [_member(raw) for raw in json.loads(previous)] if previous else now
    retire.retire(request["talosconfig"], before, now, request["timeout_s"])
    return json.dumps([asdict(member) for member in now])


def _member(raw: Request) -> retire.Member:
    return retire.Member(name=raw["name"], address=raw["address"], role=Role(raw["role"]))


def _join(request: Request) -> str:
    membership.wait_member(request["talosconfig"], request["node"], request["timeout_s"])
    return ""


def _leave(request: Request) -> str:
    return membership.leave(request["talosconfig"], request["node"], request["others"], request["timeout_s"])


def _health(request: Request) -> str:
    api.wait_healthy(
        request["talosconfig"], request["control_planes"], request["workers"], request["timeout_s"]
    )
    return ""


def _upgrade(request: Request) -> str:
    done = api.upgrade_all(
        request["talosconfig"],
        request["control_planes"],
        request["workers"],
        request["installers"],
        timeout_s=request["timeout_s"],
    )
    return "\n".join(done)


def _kubeconfig(request: Request) -> str:
    return api.kubeconfig(request["talosconfig"], request["node"])


TASKS = {
    "talos-secrets": _secrets,
    "talos-talosconfig": _talosconfig,
    "talos-config": _config,
    "talos-apply": _apply,
    "talos-first-config": _first_config,
    "talos-bootstrap": _bootstrap,
    "talos-members": _members,
    "talos-join": _join,
    "talos-leave": _leave,
    "talos-health": _health,
    "talos-upgrade": _upgrade,
    "talos-kubeconfig": _kubeconfig,
}
