"""Make this machine ready for `pulumi preview`: `python3 toolchain/setup.py [program ...]`.

Without arguments: libvirtd, the virtual environments, what starts the policy pack, all programs, the state
folder and its passphrase.
With names of programs only these are provided.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from layer1.paths import REPOSITORY, cache_dir, work_dir
from toolchain.build import build
from toolchain.defaults import provide_passphrase, provide_state
from toolchain.find import on_path, search_path
from toolchain.golang import Go
from toolchain.hypervisor import provide_libvirtd
from toolchain.links import link
from toolchain.policy_pack import provide_policy_pack
from toolchain.programs import PROGRAMS, Program, by_name
from toolchain.report import SetupError, say, step
from toolchain.venv import provide_venv


def provide_programs(programs: list[Program], cache: Path, work: Path) -> None:
    """Link every program into the work folder: found on PATH, cached, or built now."""
    go = Go(cache)
    bin_folder = work / "bin"
    path = search_path(bin_folder)
    engine = on_path(next(program for program in PROGRAMS if program.name == "pulumi"), path, None)
    for program in programs:
        found = engine if program.name == "pulumi" else on_path(program, path, engine)
        if found:
            say(f"{program.name} {program.version}: found, {found}")
            folder = found.parent
        else:
            folder = build(program, go, cache, work / "log")
        link(program, folder, bin_folder)


def main(arguments: list[str]) -> int:
    """Run the steps; a failure is one plain message."""
    start = time.monotonic()
    try:
        programs = by_name(arguments)
    except ValueError as error:
        say(f"setup: {error}")
        return 2
    work, cache = work_dir().absolute(), cache_dir().absolute()
    try:
        if not arguments:
            provide_libvirtd(work / "log" / "libvirtd.log")
            provide_venv(
                ".venv", REPOSITORY / ".venv", REPOSITORY / "requirements.lock", work / "log" / "venv.log"
            )
            provide_policy_pack(REPOSITORY / "policy", work)
        provide_programs(programs, cache, work)
        if not arguments:
            with step("state and passphrase") as line:
                provide_state(work)
                provide_passphrase(work)
                line.outcome = f"in {work}"
    except (SetupError, OSError) as error:
        print(f"setup: {error}", file=sys.stderr)
        return 1
    say(f"setup: all in place ({time.monotonic() - start:.1f} s)")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        print("setup: stopped; run it again to go on where it was", file=sys.stderr)
        sys.exit(130)
