"""`python -m layer1 doctor [--stack NAME] [--host NAME] [--json]`."""

from __future__ import annotations

import argparse
import sys

from layer1 import stack_file
from layer1.doctor.examine import examine, hosts_of
from layer1.findings import as_json, as_table, failed


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the `doctor` command, whose `run` is a function from the arguments to an exit code."""
    text = "examine this machine and the hosts, before anything is made; changes nothing"
    parser = subparsers.add_parser("doctor", help=text, description=text)
    parser.add_argument("--stack", help="whose needs count; without it, those of every stack on libvirt")
    parser.add_argument("--host", metavar="NAME", help="only this one of the stack's hosts")
    parser.add_argument("--json", action="store_true", help="print JSON of a versioned schema")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    stack = stack_file.read(arguments.stack) if arguments.stack else None
    hosts = hosts_of(stack)
    if arguments.host is not None:
        if arguments.host not in hosts:
            known = ", ".join(hosts) or "none: the stack has boards alone"
            sys.stderr.write(f"--host {arguments.host}: no node is on such a host; hosts: {known}\n")
            return 2
        hosts = {arguments.host: hosts[arguments.host]}
    rows = examine(stack, hosts)
    sys.stdout.write(as_json("doctor", arguments.stack, rows) if arguments.json else as_table(rows))
    return 1 if failed(rows) else 0
