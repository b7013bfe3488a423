"""Print the environment for plain `pulumi` and its tools: `eval "$(python3 toolchain/env.py)"`."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from layer1.paths import REPOSITORY, work_dir
from toolchain.links import PULUMI_HOME


def variables(current: Mapping[str, str], repository: Path, work: Path) -> dict[str, str]:
    """Return the variables to set. What the user has set about state and secrets stays theirs."""
    venv = repository / ".venv"
    first = [str(work / "bin"), str(venv / "bin")]
    rest = [folder for folder in current.get("PATH", os.defpath).split(os.pathsep) if folder not in first]
    result = {
        "PATH": os.pathsep.join([*first, *rest]),
        "VIRTUAL_ENV": str(venv),
        "PULUMI_HOME": current.get("PULUMI_HOME") or str(work / PULUMI_HOME),
        # The plugins are in that home; those on PATH are for other tools, and Pulumi would warn about them.
        "PULUMI_IGNORE_AMBIENT_PLUGINS": "true",
        "PULUMI_SKIP_UPDATE_CHECK": "true",
        "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
        "LIBVIRT_DEFAULT_URI": current.get("LIBVIRT_DEFAULT_URI") or "qemu:///system",
    }
    # With a token the user's backend is Pulumi Cloud, which has neither our folder nor our passphrase.
    ours = f"file://{work / 'state'}"
    own_backend = current.get("PULUMI_BACKEND_URL", ours) != ours or current.get("PULUMI_ACCESS_TOKEN")
    if not own_backend:
        result["PULUMI_BACKEND_URL"] = ours
    own_passphrase = "PULUMI_CONFIG_PASSPHRASE" in current or current.get("PULUMI_CONFIG_PASSPHRASE_FILE")
    if not own_backend and not own_passphrase:
        result["PULUMI_CONFIG_PASSPHRASE_FILE"] = str(work / "passphrase")
    return result


def main() -> None:
    """Print one `export` a line, quoted for the shell."""
    for name, value in variables(os.environ, REPOSITORY, work_dir().absolute()).items():
        print(f"export {name}={shlex.quote(value)}")


if __name__ == "__main__":
    main()
