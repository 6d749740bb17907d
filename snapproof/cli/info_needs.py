"""Runs `snapproof info --needs`: prints what a file demands of the QEMU that restores it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict

from harness.errors import SnapshotWrong, UsageError
from harness.status import EXIT_PASS
from snapproof.cli.streams import shown
from snapproof.runs.outputs import write_json_file
from validators.vmstate.containers.opening import open_stream
from validators.vmstate.needs import NOT_IN_A_STREAM, Need, Needs, needs_of
from validators.vmstate.stream.reader import read_index


def info_needs(arguments: argparse.Namespace) -> int:
    """Print what the file demands, and return the exit code.

    Raises:
        SnapshotWrong: it is damaged, so what it demands is not all known.
        UsageError: it comes from a pipe.
    """
    if str(arguments.file) == "-":
        raise UsageError("--needs takes no pipe; name a file.")
    with open_stream(arguments.file, arguments.offset, arguments.snapshot) as opened:
        index = read_index(opened.source, opened.start, opened.ends_file)
    if index.damage is not None:
        raise SnapshotWrong(
            f"What '{arguments.file}' demands is not all known, since it is damaged: {index.damage.sentence}"
        )
    needs = needs_of(index)
    if arguments.json:
        content = {"version": 1, **asdict(needs), "not_in_a_stream": NOT_IN_A_STREAM}
        write_json_file(arguments.json, json.dumps(content, indent=1))
    for line in needs_lines(needs):
        print(line)
    return EXIT_PASS


def needs_lines(needs: Needs) -> Iterator[str]:
    """Yield the lines for a person."""
    yield "Options of QEMU:"
    yield from map(_line, needs.options)
    yield "Capabilities that must be on before 'migrate-incoming':"
    yield from map(_line, needs.capabilities) if needs.capabilities else ("  none",)
    yield "Further RAMBlocks that must be there, with these bytes:"
    yield from (f"  {shown(name)}: {length:,}" for name, length in needs.blocks)
    yield "A stream does not say:"
    yield from (f"  {text}" for text in NOT_IN_A_STREAM)


def _line(need: Need) -> str:
    doubt = "" if need.sure else " (a guess by the section's name)"
    return f"  {shown(need.option)}  # {shown(need.reason)}{doubt}"
