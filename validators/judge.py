"""Judges a vmstate file by every oracle that applies."""

from __future__ import annotations

import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.codes import Code
from harness.errors import UsageError
from harness.status import Status
from validators.checks import skipped
from validators.native.library import native_core
from validators.oracles.o2_write_order.scan import NAME as WRITE_ORDER
from validators.oracles.o2_write_order.scan import follow_agent
from validators.oracles.o2_write_order.write_order import NO_AGENT, check_write_order
from validators.oracles.o4_structure.structure import check_structure
from validators.verdict import CheckResult, Tally, Verdict, Violation
from validators.vmstate.containers.container import Container
from validators.vmstate.containers.opening import open_stream
from validators.vmstate.facts import describe
from validators.vmstate.memory_map import machine_map
from validators.vmstate.pages import PageReader
from validators.vmstate.progress import Progress, WatchedSource
from validators.vmstate.ram_image import begins_as_core, index_of_image
from validators.vmstate.stream.following import Follower
from validators.vmstate.stream.format import LEAST_RECORD_BYTES, MAX_PAGES, StreamError
from validators.vmstate.stream.index import SnapshotIndex
from validators.vmstate.stream.reader import read_index
from validators.vmstate.stream.source import PipeSource, open_source
from validators.vmstate.virtio_mem import has_virtio_mem, unplugged_pages

if TYPE_CHECKING:
    from validators.oracles.o1_golden.golden import GoldenFiles

_NOT_JUDGED = (
    "The file has guest RAM and no vmstate stream: the state of devices, memory that is not the agent's, and "
    "whether all of RAM is there were not judged."
)


def check_file(
    path: Path, *, golden: Path | None = None, offset: int = 0, snapshot: str = "",
    agent_ran: bool = False, raw: bool = False, progress: Progress | None = None,
) -> Verdict:  # fmt: skip
    """Judge the vmstate stream or RAM image at `offset` of a file by every oracle that applies to a file.

    Args:
        path: the file; "-" (standard input) or a pipe is judged by structure alone.
        golden: golden image of the guest at T0 (a folder or one raw file).
        offset: byte offset of the stream, or of its container, in the file.
        snapshot: internal snapshot of a qcow2 image, "" for the only one.
        agent_ran: an agent is known to have run at T0: no page is what is left of one that had gone.
        raw: the file is guest RAM alone, as a flat image; an ELF core is known by its content.
        progress: called with the name of a stage, bytes done and bytes in all, every 16 MiB.

    Raises:
        UsageError: there is no vmstate stream or RAM image there, it is larger than we read, it changed
            meanwhile, or the golden image cannot be used.
    """
    if str(path) == "-" or (path.exists() and not stat.S_ISREG(path.stat().st_mode) and not path.is_dir()):
        if golden is not None or offset or snapshot or raw:
            raise UsageError(
                "A pipe is checked from its start and by its structure alone; with a golden image, an "
                "offset, a snapshot's name or --raw give a file."
            )
        return _check_pipe(path)
    if raw or begins_as_core(path, offset):
        if golden is not None or snapshot:
            raise UsageError(
                f"'{path}' is checked as a RAM image, of which neither a golden image nor a snapshot's name "
                "is taken; leave out --golden and --snapshot."
            )
        return _check_image(path, offset, raw, agent_ran, progress or _silent)
    with ExitStack() as stack:
        opened = stack.enter_context(open_stream(path, offset, snapshot))
        offset = opened.start
        source = WatchedSource(opened.source.descriptor, path, progress or _silent)
        source.begin("structure", offset, max(0, source.size - offset))
        image = None
        if golden is not None:
            # Most files are checked without one, and start sooner.
            from validators.oracles.o1_golden.golden import open_golden

            image = stack.enter_context(open_golden(golden))
        follower = _follower(image)
        index = read_index(source, offset, opened.ends_file, follower=follower)
        unplugged = unplugged_pages(source, index)
        large = index.damage is not None and index.damage.code is Code.BLOCK_SIZE_TOO_LARGE
        if large and index.damage and source.size > MAX_PAGES * LEAST_RECORD_BYTES:
            # A file of this size may be right; in a smaller one the length is damaged.
            raise UsageError(index.damage.sentence)
        checks = check_structure(index, unplugged)
        reader = PageReader(source, index, follower)
        data_bytes = index.records.get("page", 0) * index.page_size
        source.begin("write-order", offset, data_bytes)
        checks.append(_guarded(lambda: check_write_order(reader, agent_ran), "write-order", index))
        if image is not None:
            from validators.oracles.o1_golden.golden import check_golden

            source.begin("golden", offset, data_bytes)
            checks.append(_guarded(lambda: check_golden(reader, image, unplugged), "golden", index))
        source.finish()
        if opened.containers:
            checks.insert(0, _judge_containers(opened.containers))
        return _verdict(checks, index, opened.containers)


def _check_image(path: Path, offset: int, raw: bool, agent_ran: bool, progress: Progress) -> Verdict:
    """Judge guest RAM without a stream: by the write order alone.

    Raises:
        UsageError: it cannot be read, or has no agent page, so that nothing in it can be judged.
    """
    with open_source(path) as opened:
        source = WatchedSource(opened.descriptor, path, progress)
        index, facts = index_of_image(source, offset, raw)
        source.begin(WRITE_ORDER, offset, index.records["page"] * index.page_size)
        reader = PageReader(source, index)
        order = _guarded(lambda: check_write_order(reader, agent_ran), WRITE_ORDER, index)
        source.finish()
        if order.reason == NO_AGENT:
            raise UsageError(
                f"'{path}' has no page of snapproof's agent at a multiple of {index.page_size} bytes from "
                "the start of its RAM, so nothing in it can be judged. Either no agent was in the guest, or "
                "RAM begins at another --offset, or the file is compressed."
            )
        facts["agent pages judged"] = order.facts.get("pages verified", 0)
        lengths = {block.idstr: block.used_length for block in index.blocks}
        checks = [skipped("structure", "What a vmstate stream has besides agent pages.", _NOT_JUDGED), order]
        return Verdict(tuple(_with_addresses(checks, index)), facts, lengths)


def _follower(image: GoldenFiles | None) -> Follower | None:
    """Return what has pages judged by the oracles while the rest of the stream is read."""
    if native_core() is None:
        return None
    works = {WRITE_ORDER: follow_agent()}
    if image is not None:
        from validators.oracles.o1_golden.golden import NAME as GOLDEN
        from validators.oracles.o1_golden.golden import follow_golden

        works[GOLDEN] = follow_golden(image)
    return Follower(works)


def _judge_containers(containers: Sequence[Container]) -> CheckResult:
    """Check what a stream lies in."""
    tally = Tally("container", "What the stream lies in is finished and whole.")
    for container in containers:
        if container.problem is not None:
            tally.report(container.problem.code, container.problem.sentence)
    return tally.result()


def _silent(_stage: str, _done: int, _total: int) -> None:
    """Report no progress."""


def _verdict(
    checks: list[CheckResult], index: SnapshotIndex, containers: Sequence[Container] = ()
) -> Verdict:
    if index.damage is not None and not any(check.status is Status.FAIL for check in checks):
        # A file that was not read to its end never passes, also if no rule is broken.
        tally = Tally("readable", "The stream can be read to its end.")
        tally.report(index.damage.code, index.damage.sentence, file_offset=index.damage.offset)
        checks = [*checks, tally.result()]
    lengths = {block.idstr: block.used_length for block in index.blocks}
    return Verdict(tuple(_with_addresses(checks, index)), describe(index, containers), lengths)


def _with_addresses(checks: list[CheckResult], index: SnapshotIndex) -> Iterator[CheckResult]:
    """Add guest-physical addresses that the machine type implies and the checks did not give."""
    memory = machine_map(index)
    numbers = {block.idstr: number for number, block in enumerate(index.blocks)}

    def placed(violation: Violation) -> Violation:
        number = numbers.get(violation.block)
        if memory is None or number is None or violation.offset is None or violation.gpa is not None:
            return violation
        return replace(violation, gpa=memory.address(number, violation.offset))

    for check in checks:
        yield replace(check, violations=tuple(placed(found) for found in check.violations))


def _check_pipe(path: Path) -> Verdict:
    if str(path) == "-":
        index = read_index(PipeSource(sys.stdin.buffer))
    else:
        with path.open("rb") as stream:
            index = read_index(PipeSource(stream))
    if index.damage is not None and index.damage.check == "pipe":
        raise UsageError(f"{index.damage.sentence} The stream was not judged; give the file itself.")
    if has_virtio_mem(index):
        raise UsageError(
            "Which memory of a virtio-mem device is plugged in, and must be in the stream, cannot be judged "
            "in a pipe; give the file itself."
        )
    return _verdict(check_structure(index), index)


def _guarded(run: Callable[[], CheckResult], name: str, index: SnapshotIndex) -> CheckResult:
    """Run an oracle over pages; make a violation of an error, as of a file that shrinks meanwhile."""
    if index.damage is not None:
        return Tally(name, "Needs the whole of RAM.").skip("The stream is damaged before the end of RAM.")
    try:
        return run()
    except StreamError as error:
        tally = Tally(name, "The file stays as it is while it is read.")
        tally.report(error.code, error.sentence, file_offset=error.offset)
        return tally.result()
