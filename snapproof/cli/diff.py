"""Runs `snapproof diff`: lists the differences between two vmstate files."""

from __future__ import annotations

import argparse
import itertools
import json
from dataclasses import asdict
from typing import Any

from harness.errors import UsageError
from harness.plural import counted
from harness.status import EXIT_FAIL, EXIT_PASS
from snapproof.cli.numpy_note import note_numpy
from snapproof.cli.streams import shown
from snapproof.cli.verdict_text import range_text
from snapproof.runs.outputs import write_json_file
from validators.vmstate.diff import Difference, diff_files
from validators.vmstate.stream_diff import FieldChange

_SHOWN = 40
_VALUE_WIDTH = 60
_CONTEXT = 12


def diff(arguments: argparse.Namespace) -> int:
    """Compare the files, print the differences, and return the exit code that `--help` explains."""
    if [str(arguments.first), str(arguments.second)] == ["-", "-"]:
        raise UsageError("Standard input is one file; give '-' for A or B, not for both.")
    names = [*arguments.snapshot, *arguments.snapshot]
    if len(names) not in (0, 2, 4):
        raise UsageError("--snapshot is given at most twice, for A and for B.")
    snapshots = (names[0], names[1]) if names else ("", "")
    note_numpy(arguments.first)
    found = diff_files(arguments.first, arguments.second, offsets=arguments.offset, snapshots=snapshots)
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
        "stream": [asdict(change) for change in found.stream],
        "fields": [asdict(change) for change in found.fields],
    }
    return json.dumps(content, indent=1)


def _print(arguments: argparse.Namespace, found: Difference) -> None:
    for path, names in ((arguments.first, found.only_first), (arguments.second, found.only_second)):
        for name in names:
            print(f"only in {shown(path)}: RAMBlock {shown(name)}, or it has another length there")
    ranges = found.ranges
    for block, offsets in found.pages.items():
        pages = counted(len(offsets), "page")
        stretches = counted(sum(entry.block == block for entry in ranges), "range")
        print(f"RAMBlock {shown(block)}: {pages} of other content, in {stretches}")
    for entry in ranges[:_SHOWN]:
        print(f"  {range_text(entry.block, entry.start, entry.end, entry.pages)}")
    _more(len(ranges), "ranges")
    if found.stream:
        print(f"stream: {counted(len(found.stream), 'difference')}")
    for change in found.stream[:_SHOWN]:
        print(f"  {change_text(change)}")
    _more(len(found.stream), "differences")
    if found.fields:
        print(f"devices: {counted(len(found.fields), 'field')} of other value")
    for change in found.fields[:_SHOWN]:
        print(f"  {change_text(change)}")
    _more(len(found.fields), "fields")
    print("same" if found.same else "different")


def _more(count: int, what: str) -> None:
    if count > _SHOWN:
        print(f"  ... and {count - _SHOWN:,} more {what}; --json has them")


def change_text(change: FieldChange) -> str:
    """Both values on one line; of long ones the part from shortly before the first difference on."""
    before, after = _text(change.before), _text(change.after)
    start = 0
    if max(len(before), len(after)) > _VALUE_WIDTH:
        alike = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(before, after, strict=False))
        start = max(0, sum(1 for _ in alike) - _CONTEXT)
    return f"{change.path}: {_cut(before, start)} -> {_cut(after, start)}"


def _text(value: Any) -> str:
    """A value in full; numbers above 9 in hexadecimal too, as addresses and registers are read."""
    if value is None:
        return "nothing"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 9:
        return f"{value:#x} ({value})"
    return json.dumps(value) if isinstance(value, list | dict) else str(value)


def _cut(text: str, start: int) -> str:
    """Return at most _VALUE_WIDTH characters of a text from `start` on, with dots where it is cut."""
    shown = text[start : start + _VALUE_WIDTH]
    return f"{'...' if start else ''}{shown}{'...' if len(text) > start + _VALUE_WIDTH else ''}"
