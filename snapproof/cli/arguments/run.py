"""Defines the command-line arguments of `snapproof run`."""

from __future__ import annotations

import argparse
from typing import Any

from harness.deadline import MOST_PATIENCE, PATIENCE_VARIABLE, read_patience
from snapproof.cli.arguments.help_text import EXIT_CODES, help_text
from snapproof.cli.arguments.later import later
from snapproof.cli.arguments.shared import named_path, positive, value_of
from snapproof.cli.arguments.stack import SEED, add_stack_arguments
from snapproof.cli.bisect import add_bisect_argument
from snapproof.report.formats import FORMATS
from snapproof.runs.defaults import PROFILE_NAMES, example_machine


def add_parser(commands: Any, summary: str) -> None:
    """Add the command's arguments."""
    parser = commands.add_parser(
        "run",
        help=summary,
        **help_text(
            "Boots guests, takes snapshots of them while they write, and judges and restores these. Makes a "
            "results folder, which the last lines of the output name.",
            "run                                       # the main job; a QEMU is found or fetched",
            "run --profile premerge --qemu ./build/qemu-system-x86_64",
            "run --profile nightly --qemu debian-12 --qemu debian-13    # a matrix",
            "run --profile nightly --list --filter 'memory.*'",
            f"run --machine {example_machine()} --firmware uefi --cpu max",
            "run --filter snapshot.main-job --repeat 20 --seed 7 --keep",
            "run --bisect --qemu build/qemu-system-x86_64               # for 'git bisect run'",
            "run --profile premerge --shard 2/3 --results shards/2",
            exit_codes=EXIT_CODES,
            more="docs/for-qa.md says how to choose tests and read results.",
        ),
    )
    _add_tests(parser)
    _add_results(parser)
    _add_stack(parser)
    parser.set_defaults(run=later("snapproof.cli.run:run", "snapproof.cli.list_profile:list_profile"))


def _add_tests(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--profile", default="smoke", metavar="NAME", help=f"one of {', '.join(PROFILE_NAMES)}"
    )
    parser.add_argument("--list", action="store_true", help="list the tests and stop")
    parser.add_argument(
        "--seed", type=SEED, metavar="N", help="seed of the random write order (default: random)"
    )
    parser.add_argument(
        "--repeat",
        type=value_of(positive, "a positive number"),
        default=1,
        metavar="N",
        help="snapshot-restore cycles per test",
    )
    parser.add_argument(
        "--filter",
        action="append",
        default=[],
        metavar="PATTERN",
        help="only tests whose name matches this shell pattern; may be repeated",
    )
    parser.add_argument(
        "--shard",
        type=value_of(parse_shard, "I/N with I from 1 to N"),
        metavar="I/N",
        help="only the I-th of N parts",
    )
    parser.add_argument(
        "--jobs",
        type=parse_jobs,
        default=None,
        metavar="N",
        help="tests side by side (default: as many as fit)",
    )
    parser.add_argument(
        "--patience",
        type=value_of(read_patience, f"a factor from 1 to {MOST_PATIENCE:g}"),
        metavar="FACTOR",
        help="multiply all time limits, for a host or a QEMU that is slow by its nature (default: "
        f"${PATIENCE_VARIABLE}, or 1)",
    )


def _add_stack(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--qemu",
        metavar="PATH|NAME",
        action="append",
        help="an executable, or a name from 'snapproof images list'; several times for a matrix",
    )
    add_stack_arguments(parser, qemu=False)


def _add_results(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--results", type=named_path, metavar="DIR", help="new folder (default: results/TIME)"
    )
    parser.add_argument(
        "--format",
        action="append",
        default=[],
        choices=FORMATS,
        metavar="NAME",
        help=f"write the results in this format too: {', '.join(FORMATS)}; can be given again",
    )
    parser.add_argument(
        "--events",
        metavar="FILE",
        help="write progress as JSON Lines there, as it happens; '-' for standard output",
    )
    add_bisect_argument(parser)
    parser.add_argument("--keep", action="store_true", help="keep snapshots and golden images")


def parse_shard(text: str) -> tuple[int, int]:
    """Return I and N of a shard ``I/N``; raise ValueError for any other text."""
    first, _, second = text.partition("/")
    number, count = int(first), int(second)
    if not 1 <= number <= count:
        raise ValueError
    return number, count


def parse_jobs(text: str) -> int | None:
    """Return the number of `--jobs`, None for ``auto``; raise ArgumentTypeError for any other text."""
    if text == "auto":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError("must be a number of at least 1, or 'auto'")
    return int(text)
