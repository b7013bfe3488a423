"""What the stack's command resources run: `python3 -m layer1 task NAME`, a JSON request on standard input.

Requests hold secrets, so they never go by arguments or environment, and an error never repeats one.
Each task is safe to run again.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from layer1 import ignition, node_ready, seed_iso, supply, virsh
from layer1.errors import Layer1Error, RenderError
from layer1.pi import tasks as pi_tasks
from layer1.talos import tasks as talos_tasks

Request = dict[str, Any]


def _image(request: Request) -> str:
    return json.dumps(supply.ensure_image(request))


def _ignition(request: Request) -> str:
    return ignition.from_butane(request["butane"])


def _seed(request: Request) -> str:
    return str(seed_iso.build(request["file_name"], request["label"], request["files"]))


def _seed_unstage(request: Request) -> str:
    seed_iso.remove(request["path"])
    return ""


def _seed_discard(request: Request) -> str:
    seed_iso.remove(str(seed_iso.staging_dir() / request["file_name"]))
    return ""


def _claim_pool(request: Request) -> str:
    virsh.claim_pool(request["uri"], request["name"], request["directory"])
    return ""


def _reserve_address(request: Request) -> str:
    virsh.reserve_address(**{key: request[key] for key in ("uri", "network", "mac", "ip", "name")})
    return ""


def _release_address(request: Request) -> str:
    virsh.release_address(**{key: request[key] for key in ("uri", "network", "mac")})
    return ""


def _node_ready(request: Request) -> str:
    return json.dumps(node_ready.wait(node_ready.Target(**request)))


def _keep_vtpm(request: Request) -> str:
    return f"the state of the vTPM of {request['uuid']} goes with the node"


def _forget_vtpm(request: Request) -> str:
    virsh.forget_vtpm(request["uri"], request["uuid"])
    return ""


def _keep_bases(request: Request) -> str:
    return f"{request['prefix']}* in {request['pool']} goes with the stack"


def _drop_bases(request: Request) -> str:
    virsh.drop_volumes(request["uri"], request["pool"], request["prefix"])
    return ""


TASKS: dict[str, Callable[[Request], str]] = {
    "image": _image,
    "ignition": _ignition,
    "seed": _seed,
    "seed-unstage": _seed_unstage,
    "seed-discard": _seed_discard,
    "claim-pool": _claim_pool,
    "reserve-address": _reserve_address,
    "release-address": _release_address,
    "node-ready": _node_ready,
    "keep-vtpm": _keep_vtpm,
    "forget-vtpm": _forget_vtpm,
    "keep-bases": _keep_bases,
    "drop-bases": _drop_bases,
    **pi_tasks.TASKS,
    **talos_tasks.TASKS,
}


def run(name: str, request: str) -> str:
    """Run one task.

    Raises:
        Layer1Error: the task's own, or that the request does not fit it; never with a value of the request.
    """
    try:
        parsed = json.loads(request)
        return TASKS[name](parsed)
    except Layer1Error:
        raise
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise RenderError(
            f"task {name}: the request does not fit ({type(error).__name__}); the state was made by another "
            "version of Layer 1: run the `make up` of that version, or this one's with --refresh"
        ) from None
