"""The practice image and the stand-in k3s release: what a practice run boots and installs."""

from __future__ import annotations

import argparse
import json
import sys

from lab import build as image
from lab import serve as server
from lab.arm64 import build as board
from lab.prepare import prepare
from lab.walls import build as walls
from layer1.errors import Layer1Error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lab", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("build", help="build the practice image unless it is in the cache")
    commands.add_parser("build-arm64", help="build the practice board's image unless it is in the cache")
    commands.add_parser("build-walls", help="build the host of the walls unless it is in the cache")
    commands.add_parser("manifest", help="print the image's image.json")
    serve = commands.add_parser("serve", help="serve the stand-in k3s installer and binary over HTTP")
    serve.add_argument("--daemon", action="store_true", help="return at once and serve in the background")
    serve.add_argument("--address", required=True, help="IPv4 address; it may not exist yet")
    serve.add_argument("--port", required=True, type=int)
    ready = commands.add_parser("prepare", help="make ready what a stack with the practice image needs")
    ready.add_argument("--stack", required=True)
    commands.add_parser("stop", help="end the server that runs in the background")
    return parser


def _run(arguments: argparse.Namespace) -> None:
    match arguments.command:
        case "build":
            print(f"practice image: {image.build()}")
        case "build-arm64":
            print(f"practice board: {board.build()}")
        case "build-walls":
            print(f"host of the walls: {walls.build()}")
        case "manifest":
            print(json.dumps(image.manifest(), indent=2))
        case "serve" if not arguments.daemon:
            server.serve(arguments.address, arguments.port)
        case "serve":
            print(server.start(arguments.address, arguments.port))
        case "prepare":
            for line in prepare(arguments.stack):
                print(line, flush=True)
        case "stop":
            print(server.stop())


def main() -> int:
    """Run one command and return the exit status."""
    try:
        _run(_parser().parse_args())
    except Layer1Error as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
