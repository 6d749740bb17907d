"""`snapproof diff`: what differs between two vmstate files."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import Any

from harness.status import EXIT_FAIL, EXIT_PASS
from snapproof.cli.verdict_text import counted, range_text
from snapproof.runs.outputs import write_json_file
from validators.vmstate.diff import Difference, diff_files

_SHOWN = 40
_VALUE_WIDTH = 60


def diff(arguments: argparse.Namespace) -> int:
    """Run the command; see `snapproof diff --help`."""
    found = diff_files(arguments.first, arguments.second)
    if arguments.json:
        write_json_file(arguments.json, _json(found))
    _print(arguments, found)
    return EXIT_PASS if found.same else EXIT_FAIL


def _json(found: Difference) -> str:
    content = {
        "version": 1,
        "same": found.same,
        "differing_pages": found.total_pages,
        "ranges": [asdict(entry) for entry in found.ranges],
        "blocks_only_in_first": list(found.only_first),
        "blocks_only_in_second": list(found.only_second),
        "fields": [asdict(change) for change in found.fields],
    }
    return json.dumps(content, indent=1)


def _print(arguments: argparse.Namespace, found: Difference) -> None:
    for path, names in ((arguments.first, found.only_first), (arguments.second, found.only_second)):
        for name in names:
            print(f"only in {path}: RAMBlock {name}, or it has another length there")
    ranges = found.ranges
    for block, offsets in found.pages.items():
        pages = counted(len(offsets), "page")
        stretches = counted(sum(entry.block == block for entry in ranges), "range")
        print(f"RAMBlock {block}: {pages} of other content, in {stretches}")
    for entry in ranges[:_SHOWN]:
        print(f"  {range_text(entry.block, entry.start, entry.end, entry.pages)}")
    _more(len(ranges), "ranges")
    if found.fields:
        print(f"devices: {counted(len(found.fields), 'field')} of other value")
    for change in found.fields[:_SHOWN]:
        print(f"  {change.path}: {_short(change.before)} -> {_short(change.after)}")
    _more(len(found.fields), "fields")
    print("same" if found.same else "different")


def _more(count: int, what: str) -> None:
    if count > _SHOWN:
        print(f"  ... and {count - _SHOWN:,} more {what}; --json has them")


def _short(value: Any) -> str:
    """A field's value on one line, long ones cut."""
    text = "nothing" if value is None else json.dumps(value) if isinstance(value, list | dict) else str(value)
    return text if len(text) <= _VALUE_WIDTH else f"{text[: _VALUE_WIDTH - 3]}..."
