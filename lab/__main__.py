"""`python -m lab`: build and serve what the practice run needs."""

from __future__ import annotations

import argparse
import json
import sys

from lab import build as image
from layer1.errors import Layer1Error


def main() -> int:
    """Run one command and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m lab", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("build", help="build the practice image unless it is in the cache")
    commands.add_parser("manifest", help="print image.json")
    arguments = parser.parse_args()
    try:
        if arguments.command == "build":
            print(image.build())
        else:
            print(json.dumps(image.manifest(), indent=2))
    except Layer1Error as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
