"""Defines the command-line arguments that say how to reach a host; several commands share them."""

from __future__ import annotations

import argparse

from snapproof.cli.arguments.shared import add_cache_argument, add_mirror_argument, named_path
from snapproof.runs.defaults import HOST_ACCELERATORS

HOST_HELP = (
    "'local', 'ssh://[user@]address[:port]', 'vm:NAME', 'vm:debian@VERSION' (or a pattern, '6.12.*') or "
    "'vm:/path/to/bzImage[,modules=FOLDER]'"
)
"""The values of `--host`, for help texts."""


def add_host_arguments(parser: argparse.ArgumentParser, *, stored: bool = True) -> None:
    """Add the arguments that go with `--host`.

    Args:
        parser: of the command.
        stored: add --mirror and --cache too, which some commands have anyway.
    """
    parser.add_argument("--ssh-key", type=named_path, metavar="FILE", help="private key for a lab machine")
    parser.add_argument("--ssh-host-key", default="", metavar="LINE", help="public host key of a lab machine")
    parser.add_argument(
        "--host-accel",
        choices=HOST_ACCELERATORS,
        default=HOST_ACCELERATORS[0],
        help="accelerator of x86 VMs (default: %(default)s)",
    )
    if stored:
        add_mirror_argument(parser)
        add_cache_argument(parser)
