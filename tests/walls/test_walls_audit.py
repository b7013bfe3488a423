"""`make audit` of the host that enforces: what it says of each wall, and of each that is taken away."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest
from engine_project import Project
from walls_support import POOL, Machine

from layer1 import config
from layer1.audit import Outputs, run
from layer1.findings import Finding, Verdict

pytestmark = [pytest.mark.walls, pytest.mark.engine, pytest.mark.timeout(1800)]

HOLD = {
    *("svirt.label", "svirt.profile", "svirt.asked"),
    *("qemu.user_by_libvirt", "qemu.uid", "qemu.capabilities", "qemu.no_new_privileges", "qemu.seccomp"),
    *("qemu.devices", "qemu.options", "qemu.own_words", "domain.devices", "domain.drift", "domain.disks"),
    *("memory.hard_limit", "memory.fixed", "memory.not_shared"),
    *("files.directory", "files.disks", "files.seed", "files.open", "image.base", "image.overlay"),
    *("network.card", "network.filter", "network.rules", "network.mode"),
}


@pytest.fixture(scope="module")
def running(n1: Machine) -> Iterator[Machine]:
    """Node 1, running: of a machine that is paused the audit says nothing."""
    with n1.awake():
        yield n1


def _audit(project: Project) -> dict[str, Finding]:
    """Audit node 1 as `make audit` does; the guests' keys are left out, for no guest is up."""
    stack = config.load(project.stack, project.config | {"nodes": project.config["nodes"][:1]}, os.environ)
    return {each.id: each for each in run(stack, Outputs()) if each.subject == "n1"}


@pytest.fixture(scope="module")
def sound(project: Project, running: Machine) -> dict[str, Finding]:
    return _audit(project)


def test_the_walls_hold_and_the_emulator_is_weaker_by_choice(sound: dict[str, Finding]) -> None:
    for row in sorted(HOLD):
        assert sound[row].verdict == Verdict.HOLDS, sound[row]
    assert sound["hypervisor.kvm"].verdict == Verdict.WEAKER
    assert sound["hypervisor.kvm"].key == "layer1:hosts.walls.accel"


@pytest.mark.parametrize(
    ("row", "undo"),
    [
        ("svirt.label", lambda n1: n1.unenforced()),
        ("svirt.profile", lambda n1: n1.profile_with(f"{POOL}/{n1.project.prefix}/n2-root.qcow2")),
        ("memory.hard_limit", lambda n1: n1.unbounded()),
        ("network.rules", lambda n1: n1.without_filter()),
    ],
    ids=lambda value: value if isinstance(value, str) else "undone",
)
def test_a_wall_that_is_undone_is_broken_and_no_other(
    row: str,
    undo: Callable[[Machine], AbstractContextManager[None]],
    project: Project,
    running: Machine,
    sound: dict[str, Finding],
) -> None:
    with undo(running):
        seen = _audit(project)
    turned = {name for name, each in seen.items() if each.verdict != sound[name].verdict}
    assert turned == {row}
    assert seen[row].verdict == Verdict.BROKEN, seen[row]
