"""The built engine, language host and plugins together: what the program relies on."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from layer1.paths import REPOSITORY, cache_dir, work_dir
from toolchain.build import GOFLAGS
from toolchain.env import variables
from toolchain.golang import Go
from toolchain.programs import PROGRAMS

pytestmark = pytest.mark.engine

PROGRAM = """
import pulumi
from pulumi_command import local
from pulumi_random import RandomPassword

config = pulumi.Config()
word = config.get("word") or "one"
log = config.require("log")
command = local.Command(
    "command",
    create='echo "create $WORD" | tee -a "$LOG"',
    update='echo "update $WORD after $PULUMI_COMMAND_STDOUT" | tee -a "$LOG"',
    delete='echo "delete $WORD" >> "$LOG"',
    environment={"WORD": word, "LOG": log},
    triggers=[config.get("trigger") or "a"],
)
local.Command("follower", create="cat", stdin=command.stdout)
secret = local.Command(
    "secret",
    create="cat" if not config.get("broken") else "cat; echo the cause >&2; exit 7",
    stdin=RandomPassword("password", length=24, special=False).result,
    logging=local.Logging.NONE,
    add_previous_output_in_env=False,
    opts=pulumi.ResourceOptions(additional_secret_outputs=["stdout", "stderr"]),
)
pulumi.export("stdout", command.stdout)
pulumi.export("secret", secret.stdout)
"""


class Stack:
    """A stack of its own, driven through the command line."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder / "project", folder / "log"
        self.folder.mkdir()
        self.state = folder / "state"
        self.state.mkdir()
        # The project names its plugins, so that the engine need not warn about those on PATH.
        places = work_dir().absolute() / "bin"
        providers = [{"name": name, "path": str(places)} for name in ("command", "libvirt", "random")]
        project = {
            "name": "toolchain",
            "runtime": "python",
            "plugins": {"providers": providers, "languages": [{"name": "python", "path": str(places)}]},
        }
        (self.folder / "Pulumi.yaml").write_text(json.dumps(project))
        (self.folder / "__main__.py").write_text(PROGRAM)
        self.run("stack", "init", "test")
        self.run("config", "set", "log", str(self.log))

    def run(self, *arguments: str, status: int = 0) -> str:
        """Run pulumi and return all it says."""
        own = {"PULUMI_BACKEND_URL": f"file://{self.state}", "PULUMI_CONFIG_PASSPHRASE": "for tests"}
        environment = {**os.environ, **variables(os.environ, REPOSITORY, work_dir().absolute()), **own}
        environment.pop("PULUMI_CONFIG_PASSPHRASE_FILE", None)
        done = subprocess.run(
            ["pulumi", "--non-interactive", *arguments],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == status, done.stdout
        return done.stdout

    def up(self, status: int = 0) -> str:
        """Update without a preview before it."""
        return self.run("up", "--yes", "--skip-preview", status=status)

    def preview(self) -> dict[str, Any]:
        """Return the plan."""
        plan: dict[str, Any] = json.loads(self.run("preview", "--json", "--show-secrets=false"))
        return plan

    def outputs(self) -> dict[str, Any]:
        """Return the stack's outputs, secrets shown."""
        found: dict[str, Any] = json.loads(self.run("stack", "output", "--json", "--show-secrets"))
        return found

    def lines(self) -> list[str]:
        """Return what the commands have left so far."""
        return self.log.read_text().splitlines()


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    return Stack(tmp_path)


def steps(plan: dict[str, Any]) -> dict[str, str]:
    return {step["urn"].rsplit("::", 1)[1]: step["op"] for step in plan["steps"] if step["op"] != "same"}


def test_command_is_created_updated_replaced_and_deleted(stack: Stack) -> None:
    plan = stack.run("preview")
    assert "stdout: [unknown]" in plan
    assert not stack.log.exists(), "a preview runs nothing"
    said = stack.up()
    assert "warning" not in said
    assert stack.outputs()["stdout"] == "create one"
    assert steps(stack.preview()) == {}

    stack.run("config", "set", "word", "two")
    # What hangs on its output is planned too: the output of an update is unknown beforehand.
    assert steps(stack.preview()) == {"command": "update", "follower": "update"}
    stack.up()
    assert stack.outputs()["stdout"] == "update two after create one"

    stack.run("config", "set", "trigger", "b")
    assert "replace" in stack.run("preview")
    stack.up()
    stack.run("destroy", "--yes", "--skip-preview")
    assert stack.lines() == [
        "create one",
        "update two after create one",
        "create two",
        "delete two",
        "delete two",
    ]


def test_secret_stays_out_of_state_and_sight(stack: Stack) -> None:
    said = stack.up()
    password = stack.outputs()["secret"]
    assert len(password) == 24
    assert password not in said
    assert not [path for path in stack.state.rglob("*") if path.is_file() and password in path.read_text()]
    stack.run("config", "set", "broken", "true")
    said = stack.up(status=1)
    assert "exit status 7" in said
    assert "the cause" in said
    assert password not in said


def test_command_plugins_own_tests_pass() -> None:
    recipe = next(program for program in PROGRAMS if program.name == "pulumi-resource-command").recipe
    done = subprocess.run(
        [Go(cache_dir().absolute()).binary, "test", "./..."],
        cwd=recipe,
        env={**os.environ, "GOFLAGS": GOFLAGS, "GOTOOLCHAIN": "local", "CGO_ENABLED": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
