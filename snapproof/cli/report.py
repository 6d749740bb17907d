"""Runs `snapproof report`: writes results in other formats, merges them, and compares them."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from harness.errors import UsageError
from harness.plural import counted
from snapproof.cli.streams import verbatim_output
from snapproof.cli.verdict_text import result_line
from snapproof.explore.merge import campaigns_in, merge_campaigns, read_part, require_alike
from snapproof.explore.results import ENDED, INTERRUPTED, result_of
from snapproof.report.compare import Thresholds, compare, comparison_lines
from snapproof.report.context import Context
from snapproof.report.formats import deliver, named_format
from snapproof.report.merge import Part, merged
from snapproof.report.merged_folder import copy_files, require_apart
from snapproof.report.reader import RunUnfinished, load_results
from snapproof.report.text import one_line
from snapproof.runs.outputs import write_json_file, write_named_file
from snapproof.runs.own_command import own_command
from snapproof.runs.results_folder import make_results_folder, write_results
from tests_functional.lib.result_files import HEAVY_FILES

# A "|" would end the cell of a Markdown table.
_URL = re.compile(r"https?://[^\s<>\"|]+")


def render(arguments: argparse.Namespace) -> int:
    """Write results in a format and return 0, even if tests failed."""
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
        write_named_file(output, text, "report")
    else:
        with verbatim_output():
            deliver(wanted, text)
    return 0


def merge(arguments: argparse.Namespace) -> int:
    """Merge results folders into a new one and return the exit code of all tests together."""
    require_apart(arguments.results, arguments.output)
    campaigns = [campaigns_in(folder.absolute()) for folder in arguments.results]
    if all(campaigns):
        return _merge_explored([place for places in campaigns for place in places], arguments.output)
    parts, lost = _parts(arguments.results)
    command = [str(Path(sys.argv[0]).absolute()), "report", "merge"]
    command += [str(folder.absolute()) for folder in arguments.results]
    found = merged(parts, [*command, "--output", str(arguments.output.absolute())], lost)
    folder = make_results_folder(arguments.output)
    copy_files(found, folder, HEAVY_FILES)
    write_results(folder, found.result)
    result = found.result
    for note in found.notes:
        print(one_line(note), file=sys.stderr)
    print(f"Results: {folder}")
    print(f"{result_line(result)} from {counted(len(parts), 'folder')}")
    return result.exit_code


def _merge_explored(campaigns: Sequence[Path], output: Path) -> int:
    """Merge campaigns of `snapproof explore`, with their corpora and causes."""
    parts = [read_part(folder) for folder in campaigns]
    require_alike(parts)
    folder = make_results_folder(output)
    summary = merge_campaigns(parts, folder)
    result = result_of(summary, own_command())
    write_results(folder, result)
    for part in parts:
        if (state := part.summary.get("state", ENDED)) != ENDED:
            why = "was interrupted" if state == INTERRUPTED else "runs still, or was killed"
            print(f"snapproof: The campaign in '{part.folder}' {why}.", file=sys.stderr)
    print(f"Results: {folder}")
    print(f"{result_line(result)} from {counted(len(parts), 'campaign')}")
    return result.exit_code


def _parts(folders: Sequence[Path]) -> tuple[list[Part], dict[Path, str]]:
    """Read the results of all folders.

    Returns:
        The results; and for each folder without results, because its run was ended early, the sentence
        that says so.

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
