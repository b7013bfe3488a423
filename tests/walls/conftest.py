"""One host and one stack in it for all tests of the walls: they follow the stack's life and its end."""

from __future__ import annotations

import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_project import Project
from walls_support import BUT_THE_WAIT, LIMIT_S, Inside, Machine, config

from lab import build as practice_image
from lab.walls import build
from lab.walls.boot import Host


@pytest.fixture(scope="session")
def walls_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="layer1-walls-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def host(walls_folder: Path) -> Iterator[Host]:
    folder = walls_folder / "host"
    folder.mkdir()
    with Host(folder, build.build()) as machine:
        print(f"the host's libvirt answered after {machine.wait(LIMIT_S):.0f} s")
        yield machine


@pytest.fixture(scope="session")
def inside(host: Host) -> Inside:
    return Inside(host)


@pytest.fixture(scope="session")
def before(inside: Inside) -> set[str]:
    """What the host had before the stack came."""
    return inside.inventory()


@pytest.fixture(scope="session")
def project(walls_folder: Path, host: Host, inside: Inside, before: set[str]) -> Project:
    """The stack, up but for the wait for its guests, who take minutes to boot inside an emulated machine."""
    practice_image.build()
    public_key = (host.folder / "operator.pub").read_text().strip()
    made = Project(walls_folder / "project", f"w{secrets.token_hex(3)}", config(host.uri, public_key))
    made.write()
    began = time.monotonic()
    made.pulumi("up", "--stack", made.stack, "--yes", "--skip-preview", *BUT_THE_WAIT)
    print(f"up over qemu+ssh took {time.monotonic() - began:.0f} s")
    for node in ("n1", "n2"):  # nothing is asked of the guests, and each would take a processor
        Machine(made, inside, node).pause()
    return made


@pytest.fixture(scope="session")
def n1(project: Project, inside: Inside) -> Machine:
    return Machine(project, inside, "n1")


@pytest.fixture(scope="session")
def n2(project: Project, inside: Inside) -> Machine:
    return Machine(project, inside, "n2")
