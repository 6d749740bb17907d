"""Judges a vmstate file: runs every oracle that applies and gathers one verdict."""

from __future__ import annotations

import stat
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from harness.errors import UsageError
from validators.golden import check_golden, open_golden
from validators.pages import PageReader
from validators.stream.format import StreamError
from validators.stream.index import SnapshotIndex
from validators.stream.reader import read_index
from validators.stream.source import PipeSource, open_source
from validators.structure import check_structure
from validators.verdict import CheckResult, Facts, Tally, Verdict, Violation
from validators.write_order import check_write_order

Progress = Callable[[str, int, int], None]


def check_file(
    path: Path, *, golden: Path | None = None, offset: int = 0, progress: Progress | None = None
) -> Verdict:
    """Judge the vmstate stream at `offset` of a file by every oracle that applies.

    Args:
        path: the file; "-" or a pipe is judged by structure alone.
        golden: golden image of the guest at T0 (a folder or one raw file).
        offset: byte offset of the stream in the file.
        progress: called with the name of a stage, pages done and pages in all.

    Raises:
        UsageError: there is no vmstate stream there, or the golden image cannot be used.
    """
    if str(path) == "-" or (path.exists() and not stat.S_ISREG(path.stat().st_mode) and not path.is_dir()):
        return _check_pipe(path, golden)
    with ExitStack() as stack:
        source = stack.enter_context(open_source(path))
        index = read_index(source, offset)
        checks = check_structure(index)
        reader = PageReader(source, index)
        checks.append(_guarded(lambda: check_write_order(reader), "write-order", index))
        if golden is not None:
            image = stack.enter_context(open_golden(golden))
            checks.append(_guarded(lambda: check_golden(reader, image), "golden", index))
        if progress:
            pages = sum(block.pages for block in index.blocks)
            progress("checked", pages, pages)
        return Verdict(tuple(checks), describe(index))


def _check_pipe(path: Path, golden: Path | None) -> Verdict:
    if golden is not None:
        raise UsageError("A pipe can be checked for its structure only; give a file for --golden.")
    if str(path) == "-":
        index = read_index(PipeSource(sys.stdin.buffer))
    else:
        with path.open("rb") as stream:
            index = read_index(PipeSource(stream))
    return Verdict(tuple(check_structure(index)), describe(index))


def _guarded(run: Callable[[], CheckResult], name: str, index: SnapshotIndex) -> CheckResult:
    """Run an oracle over pages; a file that shrinks under it is a violation, not an exception."""
    if index.damage is not None:
        return Tally(name, "Needs the whole of RAM.").skip("The stream is damaged before the end of RAM.")
    try:
        return run()
    except StreamError as error:
        tally = Tally(name, "The file stays as it is while it is read.")
        tally.add(Violation(name, error.sentence, file_offset=error.offset))
        return tally.result()


def describe(index: SnapshotIndex) -> Facts:
    """Facts about a file for a person: machine, layout, sizes."""
    return {
        "machine": index.configuration.machine,
        "layout": index.layout,
        "flow": index.flow,
        "page size": index.page_size,
        "RAMBlocks": len(index.blocks),
        "RAM bytes": sum(block.used_length for block in index.blocks),
        "data pages": index.records.get("page", 0),
        "zero pages": index.records.get("zero", 0),
        "devices": len(index.devices),
        "capabilities": ", ".join(index.configuration.capabilities),
        "stream offset": index.start,
        "stream bytes": index.end - index.start,
    }
