"""Defines the command-line arguments of `snapproof explore`."""

from __future__ import annotations

import argparse
from typing import Any

from harness.hosts.spec import LOCAL
from snapproof.cli.arguments.help_text import help_text
from snapproof.cli.arguments.host import HOST_HELP, add_host_arguments
from snapproof.cli.arguments.kernel import add_preparation
from snapproof.cli.arguments.later import later
from snapproof.cli.arguments.shared import named_path, positive, short_time, value_of
from snapproof.cli.arguments.stack import SEED, add_stack_arguments

_SECONDS = 300.0


def add_parser(commands: Any, summary: str) -> None:
    """Add the command's arguments."""
    parser = commands.add_parser(
        "explore",
        help=summary,
        **help_text(
            "Draws lists of steps around background snapshots of bare guests: commands of QEMU's own schema, "
            "what guests and hosts do, saves in several flows. Each list is run on a guest and judged by a "
            "model and the oracles. One that fails is reduced and written as a test, a script and a draft.",
            "explore --seconds 600 --qemu debian-13",
            "explore --seed 7 --runs 50",
            "explore --replay results/explore/findings/01-qemu.ended/steps.json",
            "explore --replay results/explore:12    # list 12 of a campaign",
            "explore --self-check",
            "explore --kernel --seconds 600    # memory operations, without QEMU",
            "explore --kernel --host vm:debian@6.12.43 --seconds 600",
            exit_codes="0 nothing new was found, 1 something was, 2 error, 3 no list was run",
            more="docs/explore.md says what is drawn, and what is not.",
        ),
    )
    parser.add_argument(
        "--seed",
        type=SEED,
        metavar="N",
        help="seed of the lists (default: 1, with --continue that of the campaign)",
    )
    parser.add_argument(
        "--seconds",
        type=value_of(short_time, "a positive number of seconds"),
        metavar="S",
        help=f"begin no list after this time (default: {_SECONDS:.0f}, without --runs). It counts from the "
        "campaign's beginning, also with --continue; a reduction goes on to its end",
    )
    parser.add_argument(
        "--runs",
        type=value_of(positive, "a positive number of lists"),
        metavar="N",
        help="how many lists, those before --continue included; --jobs divides them",
    )
    parser.add_argument(
        "--results",
        type=named_path,
        metavar="DIR",
        help="a new folder for the results (default: results/explore-TIME)",
    )
    parser.add_argument(
        "--corpus", type=named_path, metavar="FILE", help="begin with the lists of a corpus.json"
    )
    parser.add_argument(
        "--jobs",
        type=value_of(positive, "a positive number of jobs"),
        default=1,
        metavar="N",
        help="campaigns side by side, with the seeds from --seed on; merged at the end (default: 1)",
    )
    parser.add_argument(
        "--continue",
        dest="go_on",
        type=named_path,
        metavar="DIR",
        help="go on with the campaign in a results folder, which was ended or killed; QEMU, guest and seed "
        "are those that it had",
    )
    parser.add_argument(
        "--replay",
        type=named_path,
        metavar="FILE|DIR:N",
        help="run one list and no other: that of a steps.json or of a line of lists.jsonl, or list N of the "
        "campaign in DIR",
    )
    parser.add_argument(
        "--self-check", action="store_true", help="plant live faults, and explore until each is found"
    )
    _add_kernel_arguments(parser)
    add_stack_arguments(parser, own_guest=False)
    parser.set_defaults(run=later("snapproof.cli.explore:explore"), default_seconds=_SECONDS)


def _add_kernel_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of lists of memory operations."""
    group = parser.add_argument_group("lists for the kernel alone", "see docs/explore.md")
    group.add_argument(
        "--kernel", action="store_true", help="lists of memory operations and userfaultfd, without QEMU"
    )
    group.add_argument("--host", default=LOCAL, metavar="SPEC", help=f"host to test: {HOST_HELP}")
    group.add_argument(
        "--fault", action="append", metavar="NAME", help="with --self-check: plant this fault alone"
    )
    add_host_arguments(parser, stored=False)
    add_preparation(parser)
