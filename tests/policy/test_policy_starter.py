"""What lets the engine start the pack: its script, its place among the plugins, its own environment."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from policy_support import PACK

from layer1.paths import REPOSITORY
from toolchain.links import PULUMI_HOME, link_plugin
from toolchain.policy_pack import PLUGIN, STARTER


def start(pack: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [STARTER, "127.0.0.1:1", ".", *options], cwd=pack, capture_output=True, text=True, check=False
    )


def test_it_runs_the_pack_in_the_environment_that_the_pack_names(tmp_path: Path) -> None:
    python = tmp_path / "own" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$@"\n')
    python.chmod(0o755)
    done = start(tmp_path, "-other=x", "-virtualenv=own")
    assert (done.returncode, done.stdout) == (0, "-u -m pulumi.policy 127.0.0.1:1 .\n")


def test_without_its_environment_it_says_what_makes_it(tmp_path: Path) -> None:
    done = start(tmp_path, "-virtualenv=own")
    assert done.returncode == 1
    assert done.stderr == (f"the policy pack's environment own is missing in {tmp_path}; run `make setup`\n")


def test_the_engine_finds_it_among_its_plugins(tmp_path: Path) -> None:
    link_plugin(STARTER, PLUGIN, tmp_path)
    link_plugin(STARTER, PLUGIN, tmp_path)
    (found,) = (tmp_path / PULUMI_HOME / "plugins").iterdir()
    assert re.fullmatch(r"analyzer-policy-pythonpack-v\d+\.\d+\.\d+", found.name)
    assert (found / STARTER.name).resolve() == STARTER


def test_the_pack_speaks_to_the_engine_with_the_programs_sdk() -> None:
    def pinned(lock: Path) -> str:
        return re.findall(r"^pulumi==(\S+)", lock.read_text(), flags=re.MULTILINE)[0]

    assert pinned(PACK / "requirements.lock") == pinned(REPOSITORY / "requirements.lock")
    assert f"pulumi-policy=={PLUGIN.rpartition('-v')[2]} " in (PACK / "requirements.lock").read_text()
