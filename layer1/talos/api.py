"""A Talos cluster's life by the real talosctl: bootstrap, health, kubeconfig, upgrade.

Each function may be run again after any end. Errors carry the node's last answer, never a secret.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from layer1.errors import NodeError
from layer1.talos.membership import etcd_status
from layer1.talos.talosctl_api import CALL_S, Answer, Deadline, Talosctl, retry, session

# `talosctl health` runs in rounds, so that what cannot mend is told before the whole time is over.
_ROUND_S = 60.0
_ROUND_MORE_S = 15.0  # until one that does not end by itself is ended
_DRAIN_S = 300.0
_SECOND_LOOK_S = 15.0

_VERSIONS = "versions.runtime.talos.dev"
_EXTENSIONS = "extensionstatuses.runtime.talos.dev"

_IMAGE = re.compile(r"(?P<name>[^@]+?):(?P<version>v\d+\.\d+\.\d+[0-9A-Za-z.-]*)(?:@sha256:[0-9a-f]{64})?")


@dataclass(frozen=True, slots=True)
class Running:
    """What a node runs; an image of no factory has no schematic."""

    version: str
    schematic: str | None

    def __str__(self) -> str:
        """Return both as an error shows them."""
        return f"{self.version}, schematic {self.schematic[:12]}…" if self.schematic else self.version


def bootstrap(talosconfig: str, node: str, timeout_s: float) -> None:
    """Form etcd on one control plane, once; done before and healthy is success.

    Args:
        talosconfig: the cluster's; secret.
        node: address of the only node that is ever bootstrapped.
        timeout_s: seconds to wait until the node is up, lets itself be bootstrapped, and its etcd is healthy.

    Raises:
        NodeError: not in time, or never: a worker, another cluster's node, one without a machine config.
    """
    deadline = Deadline(timeout_s)
    with session(talosconfig) as talosctl:
        answer = retry(
            talosctl,
            node,
            deadline,
            "not bootstrapped",
            lambda: talosctl.ask("bootstrap", node=node, timeout_s=deadline.limit(CALL_S)),
        )
        before = "its etcd has data from before, but" if answer.already else "bootstrapped, but"
        retry(
            talosctl,
            node,
            deadline,
            f"{before} etcd is not healthy",
            lambda: etcd_status(talosctl, node, deadline),
        )


def wait_healthy(
    talosconfig: str, control_planes: Sequence[str], workers: Sequence[str], timeout_s: float
) -> None:
    """Wait until etcd, Talos and Kubernetes are well on exactly these nodes.

    `talosctl health` does it from here, so that Kubernetes' endpoint is proven as well: etcd's service and
    member list on each control plane, apid, kubelet, the boot sequence, and that Kubernetes has these nodes
    and no others, all ready and schedulable.

    Raises:
        NodeError: not in time; with the check that failed and the nodes that talosctl names.
    """
    deadline = Deadline(timeout_s)
    with session(talosconfig) as talosctl:
        while True:
            round_s = deadline.limit(_ROUND_S)
            arguments = ["health", "--server=false", f"--wait-timeout={round_s:.0f}s"]
            arguments += [f"--control-plane-nodes={','.join(control_planes)}"]
            arguments += [f"--worker-nodes={','.join(workers)}"] if workers else []
            answer = talosctl.ask(
                *arguments, node=None, via=control_planes, timeout_s=round_s + _ROUND_MORE_S
            )
            if answer.good:
                return
            problem = _sick(answer)
            blamed = [node for node in (*control_planes, *workers) if _names(problem, node)]
            for node in blamed or control_planes:
                said = (
                    Answer(False, "", problem, "")
                    if blamed
                    else talosctl.ask("version", node=node, timeout_s=5)
                )
                if not said.good and (reason := talosctl.permanent(node, said)):
                    raise NodeError(f"{node}: {reason}. Its last answer:\n  {said.said}")
            deadline.poll()
            if not deadline.left:
                raise NodeError(
                    f"the cluster is not healthy within {timeout_s:.0f} s. talosctl waits for {problem}\n"
                    f"{_look_at(problem, blamed)}"
                )


def kubeconfig(talosconfig: str, node: str, timeout_s: float = 60) -> str:
    """Return an administrator's kubeconfig, made by a control plane; secret.

    Raises:
        NodeError: it gave none in time.
    """
    deadline = Deadline(timeout_s)
    with session(talosconfig) as talosctl:
        answer = retry(
            talosctl,
            node,
            deadline,
            "no kubeconfig",
            lambda: talosctl.ask(
                "kubeconfig", "-", "--merge=false", node=node, timeout_s=deadline.limit(CALL_S)
            ),
        )
    if "kind: Config" not in answer.stdout:
        raise NodeError(f"{node}: what it gave is no kubeconfig")
    return answer.stdout


def upgrade(
    talosconfig: str, node: str, image: str, timeout_s: float, *, via: Sequence[str] = ()
) -> Running | None:
    """Bring one node to an installer image by `talosctl upgrade`, which drains, reboots and uncordons it.

    Args:
        talosconfig: the cluster's; secret.
        node: its address.
        image: the installer, `…/<schematic>:<version>`.
        timeout_s: seconds for all of it.
        via: control planes to go through; needed for a worker, which has no kubeconfig to give.

    Returns:
        What it ran before, None when it runs this image already.

    Raises:
        NodeError: it could not, or came back with what it ran before.
    """
    wanted = _wanted(image)
    deadline = Deadline(timeout_s)
    with session(talosconfig) as talosctl:
        before = _running(talosctl, node, via, Deadline(min(timeout_s, CALL_S)))
        if _same(before, wanted):
            return None
        answer = talosctl.ask(
            "upgrade",
            f"--image={image}",
            f"--drain-timeout={min(_DRAIN_S, timeout_s / 4):.0f}s",
            f"--timeout={timeout_s / 2:.0f}s",
            node=node,
            via=via,
            timeout_s=timeout_s,
        )
        if not answer.good and not _runs(talosctl, node, via, wanted):
            raise NodeError(
                f"{node}: the upgrade from {before} to {wanted} failed{_stage(answer)}. "
                f"talosctl's last words:\n{_last_words(answer)}\n{_after_failure(node)}"
            )
        after = _running(talosctl, node, via, Deadline(deadline.limit(CALL_S)))
    if not _same(after, wanted):
        raise NodeError(
            f"{node}: it rebooted into {after}, not {wanted}: the new system did not boot, and Talos went "
            f"back. {_after_failure(node)}"
        )
    return before


def upgrade_all(
    talosconfig: str,
    control_planes: Sequence[str],
    workers: Sequence[str],
    images: Mapping[str, str],
    timeout_s: float,
) -> list[str]:
    """Bring every node to its image: one at a time, control planes first, the cluster healthy between.

    Nodes that run their image are left alone, so a second run goes on where the first stopped.

    Args:
        talosconfig: the cluster's; secret.
        control_planes: their addresses, in the order to go.
        workers: likewise.
        images: installer image by address.
        timeout_s: seconds for one node's upgrade, and as many again for the cluster to be healthy after it.

    Returns:
        The addresses of the nodes that were upgraded now.

    Raises:
        NodeError: at the first failure; says which nodes are done, which are not, and what to do.
    """
    order = [*control_planes, *workers]
    with session(talosconfig) as talosctl:
        open_nodes = [
            node
            for node in order
            if not _same(
                _running(talosctl, node, _via(node, control_planes), Deadline(CALL_S)), _wanted(images[node])
            )
        ]
    done = [node for node in order if node not in open_nodes]
    upgraded: list[str] = []
    for node in open_nodes:
        try:
            if not upgraded:  # a sick cluster may not survive one more node that is away
                wait_healthy(talosconfig, control_planes, workers, timeout_s)
            via = _via(node, control_planes)
            upgrade(talosconfig, node, images[node], timeout_s, via=via)
            upgraded.append(node)
            wait_healthy(talosconfig, control_planes, workers, timeout_s)
        except NodeError as error:
            now_done = [*done, *upgraded]
            waiting = [other for other in order if other not in now_done]
            raise NodeError(
                f"the upgrade stopped at {node}. {error}\n"
                f"On the wanted version: {', '.join(now_done) or 'none'}. "
                f"Not yet: {', '.join(waiting) or 'none'}. No other node was touched; when the cluster is "
                "healthy again, run the same command: it goes on with these."
            ) from None
    return upgraded


def _running(talosctl: Talosctl, node: str, via: Sequence[str], deadline: Deadline) -> Running:
    """Return what a node runs; it may have just rebooted."""
    found: dict[str, dict[str, dict[str, object]]] = {}

    def ask() -> Answer:
        for kind in (_VERSIONS, _EXTENSIONS):
            specs, answer = talosctl.resources(kind, node=node, via=via, timeout_s=deadline.limit(CALL_S))
            if specs is None:
                return answer
            found[kind] = specs
        return answer

    retry(talosctl, node, deadline, "it does not say which version it runs", ask)
    version = str(found[_VERSIONS].get("version", {}).get("version", "unknown"))
    layers = [spec.get("metadata") for spec in found[_EXTENSIONS].values()]
    schematic = next(
        (
            str(layer["version"])
            for layer in layers
            if isinstance(layer, dict) and layer["name"] == "schematic"
        ),
        None,
    )
    return Running(version, schematic)


def _runs(talosctl: Talosctl, node: str, via: Sequence[str], wanted: Running) -> bool:
    """Say whether a node came to what is wanted although talosctl lost sight of it."""
    try:
        return _same(_running(talosctl, node, via, Deadline(_SECOND_LOOK_S)), wanted)
    except NodeError:
        return False


def _wanted(image: str) -> Running:
    """Return what a node runs after an upgrade to this installer."""
    parsed = _IMAGE.fullmatch(image)
    if not parsed:
        raise NodeError(f"{image}: not an installer image with a version, as in NAME/SCHEMATIC:v1.13.4")
    last = parsed["name"].rpartition("/")[2]
    return Running(parsed["version"], last if re.fullmatch(r"[0-9a-f]{64}", last) else None)


def _same(running: Running, wanted: Running) -> bool:
    return running.version == wanted.version and wanted.schematic in (None, running.schematic)


def _via(node: str, control_planes: Sequence[str]) -> Sequence[str]:
    """Return whom to ask about a node: a control plane itself, for the others may lack what it has."""
    return () if node in control_planes else control_planes


def _names(text: str, address: str) -> bool:
    return re.search(rf"(?<![\d.]){re.escape(address)}(?![\d.]*\d)", text) is not None


def _sick(answer: Answer) -> str:
    """Return what `talosctl health` still waits for, in one line."""
    lines = [line.strip() for line in answer.full.splitlines()]
    lines = [line for line in lines if line and line != "context deadline exceeded"]
    starts = [at for at, line in enumerate(lines) if line.startswith("waiting for ")]
    if not starts:
        return answer.said
    text = " ".join(lines[starts[-1] :]).removeprefix("waiting for ")
    return re.sub(r"\s*\d+ errors? occurred:\s*\*?\s*", " ", text)


def _look_at(problem: str, blamed: Sequence[str]) -> str:
    node = blamed[0] if blamed else "ADDRESS"
    if problem.startswith("all k8s nodes to report schedulable"):
        return (
            "An upgrade that was cut off leaves its node cordoned: `kubectl uncordon NODE`, then run the "
            "same command again."
        )
    if "unexpected nodes" in problem:
        return (
            "Kubernetes still has a node that is gone: `kubectl delete node NODE`, then run the same command "
            "again."
        )
    if problem.startswith("etcd"):
        return f"Look at `talosctl -n {node} service etcd` and `talosctl -n {node} logs etcd`."
    return f"Look at `talosctl -n {node} dmesg` and `kubectl get nodes`, then run the same command again."


def _stage(answer: Answer) -> str:
    """Say how far an upgrade came; talosctl itself says nothing when its wait for the reboot ends."""
    if "post check passed" in answer.full:
        return " after the reboot: Kubernetes did not take the node back in time"
    if "actor ID" in answer.full:
        return ": the node was told to reboot, and did not come back in time"
    if "cordoning node" in answer.full:
        return " while its pods were moved away"
    return " before the node was touched" if "installing" not in answer.full else ""


def _last_words(answer: Answer) -> str:
    lines = [line.strip() for line in answer.full.splitlines() if line.strip()] or [answer.said]
    return "\n".join(f"  {line}" for line in lines[-4:])


def _after_failure(node: str) -> str:
    return (
        f"Its disk was not replaced. Look at `talosctl -n {node} dmesg`; `talosctl -n {node} rollback` boots "
        "what it ran before; `kubectl uncordon` if it is still cordoned."
    )
