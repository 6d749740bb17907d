"""Defines the command-line arguments of `snapproof attach`."""

from __future__ import annotations

import argparse
from typing import Any

from snapproof.cli.arguments.help_text import EXIT_CODES, help_text
from snapproof.cli.arguments.later import later
from snapproof.cli.arguments.shared import named_path, short_time, value_of

_MAX_STOP, _SECONDS = 10.0, 600.0


def add_parser(commands: Any, summary: str) -> None:
    """Add the command's arguments."""
    parser = commands.add_parser(
        "attach",
        help=summary,
        **help_text(
            "Proves a background snapshot of a VM that somebody else runs. First it looks at the VM; then it "
            "stops the guest for the golden image, saves it while it goes on, puts everything back as it "
            "was, and judges the file. A guard, a process of its own, owns the monitor and puts the VM back "
            "also where this command is killed.",
            "attach --qmp /run/vm.qmp --look     # what is in the way? nothing is saved",
            "attach --qmp /run/vm.qmp --results proof",
            "attach --libvirt vm --connect qemu:///system --guest-agent",
            exit_codes=EXIT_CODES,
            more="docs/attach.md has every text and what to do.",
        ),
    )
    vm = parser.add_mutually_exclusive_group(required=True)
    vm.add_argument(
        "--qmp", type=named_path, metavar="SOCKET", help="the VM's QMP socket, '-qmp unix:SOCKET,...'"
    )
    vm.add_argument("--libvirt", metavar="DOMAIN", help="the VM's name, UUID or number in libvirt")
    parser.add_argument(
        "--connect", default="", metavar="URI", help="libvirt's connection (default: that of virsh)"
    )
    parser.add_argument(
        "--virsh", default="virsh", metavar="PROGRAM", help="libvirt's client program (default: virsh)"
    )
    parser.add_argument("--look", action="store_true", help="say what the VM is and what is in the way")
    parser.add_argument(
        "--max-stop",
        type=value_of(short_time, "a positive number of seconds"),
        default=_MAX_STOP,
        metavar="S",
        help=f"longest time that the guest may be stopped (default: {_MAX_STOP:g})",
    )
    parser.add_argument(
        "--seconds",
        type=value_of(short_time, "a positive number of seconds"),
        default=_SECONDS,
        metavar="S",
        help=f"time limit of the save (default: {_SECONDS:g})",
    )
    parser.add_argument(
        "--no-golden", action="store_true", help="do not stop the guest; judge the structure alone"
    )
    parser.add_argument(
        "--no-restore", action="store_true", help="start no second QEMU, which takes as much RAM"
    )
    parser.add_argument(
        "--no-pin", action="store_true", help="let QEMU not keep the disks of T0 for the second one"
    )
    parser.add_argument(
        "--through-libvirt",
        action="store_true",
        help="also have libvirt restore it, paused and under another name (with --libvirt)",
    )
    _add_ways_in(parser)
    parser.add_argument("--keep", action="store_true", help="keep snapshot and golden image of a right one")
    parser.add_argument("--results", type=named_path, metavar="DIR", help="a new folder for the results")
    parser.set_defaults(run=later("snapproof.cli.attach:attach"))


def _add_ways_in(parser: argparse.ArgumentParser) -> None:
    """Add the options by which an agent of ours gets into the guest and writes there."""
    group = parser.add_argument_group(
        "an agent in the guest",
        "writes to half of the guest's free memory while it is saved, checks it in the restored guest, and "
        "is taken out again; the guest is a Linux, and commands run as root there",
    )
    group.add_argument(
        "--guest-agent",
        nargs="?",
        const="",
        metavar="SOCKET",
        help="by the QEMU guest agent; with --qmp the socket of its chardev",
    )
    group.add_argument("--ssh", metavar="HOST[:PORT]", help="by SSH")
    group.add_argument("--ssh-user", default="root", metavar="NAME", help="who logs in (default: root)")
    group.add_argument("--ssh-key", type=named_path, metavar="FILE", help="private key for --ssh-user")
    group.add_argument("--ssh-host-key", metavar="LINE", help="its host key (default: any)")
    group.add_argument("--cache", type=named_path, metavar="DIR", help="where the compiled agent is kept")
