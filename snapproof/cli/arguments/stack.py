"""Defines the command-line arguments that choose QEMU, accelerator and guest; several commands share them."""

from __future__ import annotations

import argparse

from harness.qemu.architectures import ARCHITECTURES
from snapproof.cli.arguments.own_guest import add_guest_arguments
from snapproof.cli.arguments.shared import add_cache_argument, add_mirror_argument, named_path, value_of
from snapproof.runs.defaults import QEMU_ARGUMENTS

ACCELERATORS = ("auto", "kvm", "tcg")
"""The values of `--accel`, the default first."""

_SEED_LIMIT = 1 << 64


def seed_number(text: str) -> int:
    """Return a seed of 64 bits, as the guest's agent takes; raise ValueError for any other text."""
    number = int(text)
    if not 0 <= number < _SEED_LIMIT:
        raise ValueError
    return number


SEED = value_of(seed_number, "a number from 0 to 2^64 - 1")
"""The type of `--seed` for argparse."""


def add_stack_arguments(
    parser: argparse.ArgumentParser, *, qemu: bool = True, own_guest: bool = True
) -> None:
    """Add the arguments that snapproof.cli.options.stack_options reads.

    Args:
        parser: the command's parser.
        qemu: whether it takes a single QEMU, as `--qemu`.
        own_guest: whether it takes a guest of the user's own.
    """
    if qemu:
        parser.add_argument(
            "--qemu", metavar="PATH|NAME", help="an executable, or a name from 'snapproof images list'"
        )
    parser.add_argument(
        "--accel", choices=ACCELERATORS, default=ACCELERATORS[0], help="auto: KVM if a guest boots under it"
    )
    parser.add_argument("--guest", metavar="NAME", help="a guest from the catalogue, for all tests")
    parser.add_argument(
        "--arch",
        metavar="NAME",
        help=f"processor of the guest: {', '.join(entry.name for entry in ARCHITECTURES)}; "
        "its Linux guest, or its bare one with --guest bare",
    )
    _add_machine_arguments(parser)
    add_cache_argument(parser)
    add_mirror_argument(parser)
    if own_guest:
        add_guest_arguments(parser)


def _add_machine_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the machine", "every QEMU that plays the guest; see docs/machines.md")
    group.add_argument(
        "--machine", metavar="TYPE", help="machine type, with properties if any, as for QEMU's -machine"
    )
    group.add_argument("--cpu", metavar="MODEL", help="CPU model, with properties if any, as for QEMU's -cpu")
    group.add_argument(
        "--firmware", metavar="uefi|FILE", help="uefi: Debian's UEFI firmware; or the program of another one"
    )
    group.add_argument(
        "--firmware-vars",
        type=named_path,
        metavar="FILE",
        help="variables of --firmware FILE; never written to",
    )
    group.add_argument(
        QEMU_ARGUMENTS, metavar="TEXT", default="", help="further arguments for QEMU, in one word"
    )
