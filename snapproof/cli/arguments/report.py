"""Defines the command-line arguments of `snapproof report`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from snapproof.cli.arguments.help_text import help_text
from snapproof.cli.arguments.later import later
from snapproof.cli.arguments.shared import add_json_argument, named_path, output_path, value_of
from snapproof.report.compare import Thresholds
from snapproof.report.context import DEFAULT_ORIGIN
from snapproof.report.formats import formats_help


def add_parser(commands: Any, summary: str) -> None:
    """Add the command's arguments."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "report",
        help=summary,
        **help_text(
            "Renders, merges and compares the results folders of earlier runs; boots nothing.",
            more="docs/results.md says what is in a results folder.",
        ),
    )
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    _add_render(actions)
    _add_merge(actions)
    _add_compare(actions)


def _add_render(actions: Any) -> None:
    text = help_text(
        "Writes the results of a run in a format.",
        "report render results/nightly --format kcidb --output kcidb.json",
        more="docs/results.md says more about the formats.",
    )
    text["description"] += f"\n\n{formats_help()}"
    parser: argparse.ArgumentParser = actions.add_parser("render", help="write results in a format", **text)
    parser.add_argument("results", type=named_path, metavar="RESULTS", help="a results folder")
    parser.add_argument("--format", required=True, metavar="NAME", help="one of the formats above")
    parser.add_argument(
        "--output", type=output_path, metavar="FILE", help="default: standard output, or $GITHUB_STEP_SUMMARY"
    )
    parser.add_argument(
        "--url", default="", help="where others can read the results folder; links to logs lead there"
    )
    parser.add_argument(
        "--origin", default=DEFAULT_ORIGIN, metavar="NAME", help="kcidb: name of the CI system that reports"
    )
    parser.add_argument(
        "--build-id", default="", metavar="ID", help="kcidb: the build under test, if KCIDB has it already"
    )
    parser.set_defaults(run=later("snapproof.cli.report:render"))


def _add_merge(actions: Any) -> None:
    parser: argparse.ArgumentParser = actions.add_parser(
        "merge",
        help="make one results folder of several",
        **help_text(
            "Merges shards of one run, and runs on several machines or QEMUs. A missing shard is reported as "
            "MISS. Snapshots and golden images are not copied.",
            "report merge shard-1 shard-2 shard-3 --output results/all",
            exit_codes="as for a run of all the tests; a missing shard counts as an error (2)",
        ),
    )
    parser.add_argument("results", type=named_path, nargs="+", metavar="DIR", help="a results folder")
    parser.add_argument(
        "--output", type=named_path, required=True, metavar="DIR", help="a new results folder"
    )
    parser.set_defaults(run=later("snapproof.cli.report:merge"), merging=True)


def _add_compare(actions: Any) -> None:
    usual = Thresholds()
    parser: argparse.ArgumentParser = actions.add_parser(
        "compare",
        help="list what is new, fixed or slower",
        **help_text(
            "Compares two results by the names of their tests.",
            "report compare results/last-night results/tonight",
            exit_codes="0 nothing got worse, 1 new failures, 2 a test newly ended with ERROR or MISS, or the "
            "results cannot be compared. Slower tests are listed and do not change the exit code",
        ),
    )
    parser.add_argument("old", type=named_path, metavar="OLD", help="results folder to compare with")
    parser.add_argument("new", type=named_path, metavar="NEW", help="results folder to be judged")
    add_json_argument(parser, "write the comparison there too")
    parser.add_argument(
        "--factor",
        type=value_of(_number_from(1), "a number from 1 on"),
        default=usual.factor,
        metavar="X",
        help=f"slower is X times as long (default: {usual.factor}) ...",
    )
    parser.add_argument(
        "--least-seconds",
        type=value_of(_number_from(0), "a number from 0 on"),
        default=usual.seconds,
        metavar="S",
        help=f"... and S seconds more for a test (default: {usual.seconds}) ...",
    )
    parser.add_argument(
        "--least-ms",
        type=value_of(_number_from(0), "a number from 0 on"),
        default=usual.milliseconds,
        metavar="MS",
        help=f"... or MS milliseconds more for a measured time (default: {usual.milliseconds})",
    )
    parser.set_defaults(run=later("snapproof.cli.report:compare_results"))


def _number_from(least: float) -> Callable[[str], float]:
    """Return a type for argparse: a finite number that is not below `least`."""

    def number(text: str) -> float:
        value = float(text)
        if not least <= value < float("inf"):
            raise ValueError
        return value

    return number
