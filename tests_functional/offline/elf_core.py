"""Compares an ELF core made of a vmstate file with the core that QEMU itself writes of the restored guest."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from harness.codes import Code
from harness.elf_core import Segment
from harness.qemu.core_image import RamTable, dump_core, read_segments
from harness.qemu.monitor_tables import Place, region_of
from harness.status import Status
from tests_functional.lib.build_outcome import outcome_of
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.run import Run
from tests_functional.lib.save import Flow
from tests_functional.offline.extraction import restored, saved
from validators.checks import Problem, judged
from validators.verdict import CheckResult
from validators.vmstate.elf_core import write_elf_core

_NAME = "extracted-ram"
_EXPLANATION = "The ELF core has, at each guest-physical address of RAM, what QEMU's own core has there."
_SECONDS = 120.0
_CHUNK_BYTES = 1 << 20
_DESCRIPTOR = "elf-core"


def core_equals_dump(run: Run) -> Outcome:
    """Save a guest, write the file as ELF core, restore it, and compare with QEMU's dump-guest-memory."""
    begun = time.monotonic()
    snapshot = saved(run, Flow.STOP_MIGRATE_CONT)
    folder = snapshot.path.parent
    run.say("Writing the ELF core, and restoring the file into a new QEMU.")
    ours, theirs = folder / "core-of-the-file", folder / "core-of-QEMU"
    write_elf_core(snapshot.path, ours)
    with restored(run, snapshot) as machine:
        table = RamTable.look(machine)
        dump_core(machine, theirs, _DESCRIPTOR, run.deadline.at_most(_SECONDS))
    check = compare_cores(ours, theirs, main_ram(table))
    if check.status is Status.PASS:
        run.discard(folder)
    return outcome_of(run, [check], time.monotonic() - begun, _EXPLANATION, check.facts)


def main_ram(table: RamTable) -> list[Place]:
    """Return the ranges of addresses at which the guest's processors see the largest RAMBlock."""
    block = max(table.blocks, key=lambda one: one.used_bytes)
    return [place for place in table.places[region_of(block.idstr)] if place.in_cpu_space]


def compare_cores(ours: Path, theirs: Path, ram: list[Place]) -> CheckResult:
    """Compare two ELF cores at each address of RAM.

    Args:
        ours: made of the vmstate file.
        theirs: written by QEMU.
        ram: where QEMU says that its processors see main RAM.
    """
    our_segments, their_segments = read_segments(ours), read_segments(theirs)
    problems, compared = [], 0
    with ours.open("rb") as first, theirs.open("rb") as second:
        for address, size in _chunks(ram):
            pieces = [
                _read(file.fileno(), segments, address, size)
                for file, segments in ((first, our_segments), (second, their_segments))
            ]
            compared += size
            if pieces[0] != pieces[1] or len(pieces[0]) != size:
                sentence = f"The ELF cores differ within {size} bytes from guest-physical {address:#x}."
                problems.append(Problem(Code.EXTRACTED_RAM_DIFFERS, sentence))
    if not compared:
        problems.append(Problem(Code.EXTRACTED_RAM_NOTHING, "No RAM could be compared."))
    return judged(_NAME, _EXPLANATION, problems, {"bytes_compared": compared, "ranges": len(our_segments)})


def _chunks(ram: list[Place]) -> Iterator[tuple[int, int]]:
    for place in ram:
        for offset in range(0, place.size, _CHUNK_BYTES):
            yield place.address + offset, min(_CHUNK_BYTES, place.size - offset)


def _read(descriptor: int, segments: tuple[Segment, ...], address: int, size: int) -> bytes:
    """Return the memory from an address on, in as many segments as it takes; less where a core has none."""
    content = b""
    for one in sorted(segments, key=lambda segment: segment.address):
        at = address + len(content)
        if one.address <= at < one.address + one.size and len(content) < size:
            length = min(size - len(content), one.address + one.size - at)
            content += os.pread(descriptor, length, one.file_offset + at - one.address)
    return content
