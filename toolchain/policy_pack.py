"""What lets the engine start the policy pack: its own virtual environment, and a script that runs it in it.

The language host that we build cannot start a pack. For a runtime without a language host the engine looks
for an analyzer plugin named after it, so PulumiPolicy.yaml names one that only this script serves. That is
the engine's doing: beside the official language host it does the same.
"""

from __future__ import annotations

from pathlib import Path

from toolchain.links import link_plugin
from toolchain.venv import provide_venv

STARTER = Path(__file__).resolve().parent / "pulumi-analyzer-policy-pythonpack"
PLUGIN = "analyzer-policy-pythonpack-v1.21.0"
"""The folder of the plugin in Pulumi's home; the version is pulumi-policy's, and nobody asks for another."""


def provide_policy_pack(pack: Path, work: Path) -> None:
    """Make the pack's environment from its own lock file, and put the starter among Pulumi's plugins."""
    provide_venv("policy/.venv", pack / ".venv", pack / "requirements.lock", work / "log" / "policy-venv.log")
    link_plugin(STARTER, PLUGIN, work)
