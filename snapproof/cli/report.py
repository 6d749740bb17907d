"""`snapproof report`: writes results in other formats, merges them, and compares them."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from harness.errors import UsageError
from snapproof.cli.help_text import help_text
from snapproof.report.compare import Thresholds, compare, comparison_lines
from snapproof.report.context import DEFAULT_ORIGIN, Context
from snapproof.report.formats import deliver, formats_help, named_format
from snapproof.report.merge import Part, merged
from snapproof.report.merged_folder import copy_files, require_apart
from snapproof.report.reader import RunUnfinished, load_results
from snapproof.report.text import one_line
from snapproof.runs.json_file import write_json_file, write_named_file
from snapproof.runs.results import make_results_folder, write_results
from tests_functional.lib.result_files import HEAVY_FILES

# A "|" would end the cell of a Markdown table.
_URL = re.compile(r"https?://[^\s<>\"|]+")


def add_parser(commands: Any) -> None:
    """Add the command's arguments."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "report",
        help="write results in other formats, merge them, compare them",
        **help_text(
            "Works on results folders of earlier runs; boots nothing.",
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
    parser.add_argument("results", type=Path, metavar="RESULTS", help="a results folder")
    parser.add_argument("--format", required=True, metavar="NAME", help="one of the formats above")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="default: standard output, or $GITHUB_STEP_SUMMARY"
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
    parser.set_defaults(run=render)


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
    parser.add_argument("results", type=Path, nargs="+", metavar="DIR", help="a results folder")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="a new results folder")
    parser.set_defaults(run=merge)


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
    parser.add_argument("old", type=Path, metavar="OLD", help="results folder to compare with")
    parser.add_argument("new", type=Path, metavar="NEW", help="results folder to be judged")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the comparison there too")
    parser.add_argument(
        "--factor",
        type=_number_from(1),
        default=usual.factor,
        metavar="X",
        help=f"slower is X times as long (default: {usual.factor}) ...",
    )
    parser.add_argument(
        "--least-seconds",
        type=_number_from(0),
        default=usual.seconds,
        metavar="S",
        help=f"... and S seconds more for a test (default: {usual.seconds}) ...",
    )
    parser.add_argument(
        "--least-ms",
        type=_number_from(0),
        default=usual.milliseconds,
        metavar="MS",
        help=f"... or MS milliseconds more for a measured time (default: {usual.milliseconds})",
    )
    parser.set_defaults(run=compare_results)


def _number_from(least: float) -> Callable[[str], float]:
    """Return a type for argparse: a finite number that is not below `least`."""

    def number(text: str) -> float:
        value = float(text)
        if not least <= value < float("inf"):
            raise ValueError
        return value

    return number


def render(arguments: argparse.Namespace) -> int:
    """Write results in a format and return 0, whatever the results are."""
    wanted = named_format(arguments.format)
    if arguments.url and not _URL.fullmatch(arguments.url):
        raise UsageError(f"'{arguments.url}' is not a URL for --url; it must begin with http:// or https://.")
    output: Path | None = arguments.output
    context = Context(
        arguments.results.absolute(),
        output.absolute().parent if output else None,
        arguments.url,
        arguments.origin,
        arguments.build_id,
    )
    text = wanted.render(load_results(arguments.results), context)
    if output:
        write_named_file(output, text, "--output", "report")
    else:
        deliver(wanted, text)
    return 0


def merge(arguments: argparse.Namespace) -> int:
    """Merge results folders into a new one and return the exit code of all tests together."""
    parts, lost = _parts(arguments.results)
    require_apart(arguments.results, arguments.output)
    command = [str(Path(sys.argv[0]).absolute()), "report", "merge"]
    command += [str(folder.absolute()) for folder in arguments.results]
    found = merged(parts, [*command, "--output", str(arguments.output.absolute())], lost)
    folder = make_results_folder(arguments.output)
    copy_files(found, folder, HEAVY_FILES)
    write_results(folder, found.result)
    result = found.result
    for note in found.notes:
        print(one_line(note), file=sys.stderr)
    counts = ", ".join(f"{count} {name}" for name, count in result.counts().items())
    print(f"Results: {folder}")
    print(f"{result.status.value if result.status else 'NOTHING RAN'}: {counts} from {len(parts)} folders")
    return result.exit_code


def _parts(folders: Sequence[Path]) -> tuple[list[Part], dict[Path, str]]:
    """Read the results of all folders.

    Returns:
        The results, and for each folder whose run ended before it had any the sentence that says so.


    Raises:
        UsageError: no folder has results, or one is not a results folder.
    """
    parts: list[Part] = []
    lost: dict[Path, str] = {}
    for folder in folders:
        try:
            parts.append(Part(folder.absolute(), load_results(folder)))
        except RunUnfinished as error:
            lost[folder.absolute()] = error.sentence
    if not parts:
        raise UsageError(next(iter(lost.values())))
    return parts, lost


def compare_results(arguments: argparse.Namespace) -> int:
    """Compare two results folders and return the exit code that `--help` explains."""
    thresholds = Thresholds(arguments.factor, arguments.least_seconds, arguments.least_ms)
    comparison = compare(load_results(arguments.old), load_results(arguments.new), thresholds)
    print("\n".join(comparison_lines(comparison)))
    if arguments.json:
        write_json_file(arguments.json, json.dumps(comparison.to_json(), indent=1))
    return comparison.exit_code
