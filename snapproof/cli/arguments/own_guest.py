"""Defines the command-line arguments that describe a guest of the user's own; several commands share them."""

from __future__ import annotations

import argparse

from snapproof.cli.arguments.shared import named_path
from snapproof.runs.defaults import OWN_MIB, own_cmdline


def add_guest_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that describe the guest; snapproof.runs.own_guest reads them."""
    group = parser.add_argument_group("your own guest", "see docs/own-guest.md")
    group.add_argument(
        "--disk", type=named_path, metavar="FILE", help="its disk, raw or qcow2; never written to"
    )
    group.add_argument(
        "--kernel",
        "--guest-kernel",
        dest="kernel",
        type=named_path,
        metavar="FILE",
        help="kernel, unless the disk boots itself",
    )
    group.add_argument("--initrd", type=named_path, metavar="FILE", help="initramfs for --kernel")
    group.add_argument(
        "--cmdline", metavar="TEXT", help=f"command line of --kernel (default: '{own_cmdline()}')"
    )
    group.add_argument(
        "--ssh-user", metavar="NAME", help="root, or a user who may use 'sudo -n' (default: root)"
    )
    group.add_argument("--ssh-key", type=named_path, metavar="FILE", help="private key for --ssh-user")
    group.add_argument("--ssh-host-key", metavar="LINE", help="its host key (default: the first one seen)")
    group.add_argument(
        "--guest-needs",
        type=int,
        metavar="MIB",
        help=f"its RAM beside the writers, also of --guest (default of your own: {OWN_MIB})",
    )
