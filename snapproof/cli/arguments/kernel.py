"""Defines the command-line arguments of `snapproof kernel`."""

from __future__ import annotations

import argparse
from typing import Any

from harness.hosts.spec import LOCAL
from snapproof.cli.arguments.help_text import help_text
from snapproof.cli.arguments.host import HOST_HELP, add_host_arguments
from snapproof.cli.arguments.later import later
from snapproof.cli.arguments.shared import add_json_argument
from snapproof.cli.bisect import add_bisect_argument


def add_parser(commands: Any, summary: str) -> None:
    """Add the command's arguments."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "kernel",
        help=summary,
        **help_text(
            "Tests userfaultfd write protection on this host, or on --host, without QEMU, and writes KTAP.",
            "kernel",
            "kernel --list --filter 'movement.*'",
            "kernel --filter R13 --repeat 20 --json kernel.json",
            "kernel --host vm:arch/x86/boot/bzImage    # your own kernel, booted as a VM",
            "kernel --bisect --host vm:arch/x86/boot/bzImage    # for 'git bisect run'",
            "kernel --host 'vm:debian@6.12.*' --filter 'matrix.*'    # a history of versions",
            exit_codes="0 pass, 1 the kernel is wrong, 2 a test broke, 3 nothing ran, 4 all skipped",
            more="docs/kernel.md says what is tested.",
        ),
    )
    parser.add_argument(
        "--filter",
        action="append",
        default=[],
        metavar="PATTERN",
        help="only tests whose name matches ('preserved.*'), or of a recipe ('R13'); can be given again",
    )
    parser.add_argument(
        "--list", action="store_true", help="list the tests that would run, and what each requires"
    )
    parser.add_argument(
        "--repeat", type=int, default=1, metavar="N", help="run each test N times; its worst result counts"
    )
    parser.add_argument(
        "--reproducer", metavar="TEST", help="print a test of the matrix as a program in C, and run nothing"
    )
    add_json_argument(parser, "write host, results and figures there")
    add_preparation(parser)
    _add_poison(parser)
    add_bisect_argument(parser)
    parser.add_argument(
        "--bisect-archive",
        metavar="TEST",
        help="boot kernels of Debian's archive, all or those of --host, and name the two neighbours between "
        "which the result of this test changes",
    )
    parser.add_argument("--host", default=LOCAL, metavar="SPEC", help=f"host to test: {HOST_HELP}")
    add_host_arguments(parser)
    parser.set_defaults(
        run=later("snapproof.cli.kernel:kernel", "snapproof.cli.list_feature_tests:list_feature_tests")
    )


def add_preparation(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that let a run change settings of the host."""
    parser.add_argument(
        "--prepare",
        action="store_true",
        help="as root, reserve huge pages and add a swap device in memory during the run",
    )
    parser.add_argument(
        "--ksm",
        action="store_true",
        help="as --prepare, and let KSM run meanwhile: it also merges memory of other programs, including "
        "guests, and removes its write protection",
    )


def _add_poison(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--poison",
        action="store_true",
        help="as root, let tests take frames of RAM offline, which are lost until the next boot",
    )
