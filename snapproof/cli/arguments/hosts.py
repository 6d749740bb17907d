"""Defines the command-line arguments of `snapproof hosts`."""

from __future__ import annotations

import argparse
from typing import Any

from snapproof.cli.arguments.help_text import help_text
from snapproof.cli.arguments.host import HOST_HELP, add_host_arguments
from snapproof.cli.arguments.later import later
from snapproof.cli.arguments.run import parse_jobs
from snapproof.cli.arguments.shared import named_path
from snapproof.runs.defaults import HOST_GUESTS


def add_parser(commands: Any, summary: str) -> None:
    """Add the command's arguments."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "hosts",
        help=summary,
        **help_text(
            "Boots VMs with other host kernels, or logs in to lab machines. On each it probes the kernel, "
            "runs the feature tests, and takes a snapshot of a saved guest. Snapshots are judged and "
            "restored on this host.",
            "hosts --list",
            "hosts --host vm:debian-11 --no-tests             # Linux 5.10, snapshots only",
            "hosts --host vm:arch/x86/boot/bzImage            # your own kernel",
            "hosts --host ssh://qa@lab1 --host-qemu /usr/bin/qemu-system-x86_64",
            exit_codes="0 pass, 1 a kernel, QEMU or snapshot is wrong, 2 error or missing machinery",
            more="docs/hosts.md says what a host needs and what is done on it.",
        ),
    )
    parser.add_argument("--host", action="append", metavar="SPEC", help=f"{HOST_HELP}; can be given again")
    add_host_arguments(parser)
    parser.add_argument(
        "--list", action="store_true", help="list the hosts of the catalogue and their purpose"
    )
    parser.add_argument("--qemu", metavar="NAME", help="QEMU of the catalogue to run on the hosts")
    parser.add_argument("--host-qemu", metavar="PATH",
                        help="QEMU that is on a lab machine, or on this one")  # fmt: skip
    parser.add_argument("--no-tests", action="store_true", help="leave the feature tests out")
    parser.add_argument("--trackers", action="store_true", help="run the tests of write trackers too")
    parser.add_argument("--no-snapshots", action="store_true", help="leave the snapshots out")
    parser.add_argument("--filter", action="append", default=[], metavar="PATTERN",
                        help="only these feature tests")  # fmt: skip
    parser.add_argument(
        "--guest",
        choices=HOST_GUESTS,
        default=HOST_GUESTS[0],
        help="the saved guest: the agent alone, or Debian's Linux (default: %(default)s)",
    )
    parser.add_argument(
        "--jobs",
        type=parse_jobs,
        default=None,
        metavar="N",
        help="hosts side by side (default: as many as processors and memory allow)",
    )
    parser.add_argument("--results", type=named_path, metavar="DIR", help="folder for the results")
    parser.set_defaults(run=later("snapproof.cli.hosts:hosts"))
