"""Times of a stack's life in one run: `make bench`. Compare the ratios; machines differ, and are noisy."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

from layer1.paths import REPOSITORY

STEPS = {
    "preview of a new stack": ["preview"],
    "up, from nothing to a provisioned node": ["up", "--yes", "--skip-preview"],
    "up without changes": ["up", "--yes", "--skip-preview", "--expect-no-changes"],
    "refresh without changes": ["refresh", "--yes", "--skip-preview", "--expect-no-changes"],
    "preview without changes": ["preview", "--expect-no-changes"],
    "destroy": ["destroy", "--yes", "--skip-preview"],
}


def main() -> int:
    """Run each step once and print its time, and its ratio to the up without changes."""
    parser = argparse.ArgumentParser(prog="python -m bench.lifecycle", description=__doc__)
    parser.add_argument("--stack", default="lab")
    stack = parser.parse_args().stack
    if subprocess.run(
        ["pulumi", "stack", "export", "--stack", stack], capture_output=True, check=False
    ).stdout.count(b'"urn"'):
        print(f"stack {stack} has resources; `make destroy STACK={stack}` first", file=sys.stderr)
        return 1
    times: dict[str, float] = {}
    for name, arguments in STEPS.items():
        began = time.monotonic()
        result = subprocess.run(
            ["pulumi", *arguments, "--stack", stack, "--non-interactive"],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=False,
        )
        times[name] = time.monotonic() - began
        if result.returncode != 0:
            print(f"{name} failed:\n{result.stdout}{result.stderr}", file=sys.stderr)
            return 1
    unit = times["up without changes"]
    for name, seconds in times.items():
        print(f"{name:42} {seconds:7.1f} s  {seconds / unit:6.1f} x")
    return 0


if __name__ == "__main__":
    sys.exit(main())
