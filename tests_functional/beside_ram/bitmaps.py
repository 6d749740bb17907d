"""Saves a guest whose disk has a dirty bitmap, with and without the capability that saves bitmaps.

QEMU must refuse the capability together with background snapshots, or save the bitmap as it was at T0.
Without it no file has a bitmap, and that of the source must go on recording. Stop-and-save with the
capability is the control.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from harness.codes import Code
from harness.errors import SetupBroken
from harness.qemu import migration
from harness.qemu.configuration import MIB
from harness.qemu.machine import Machine
from tests_functional.lib.build_outcome import Cycle, outcome_of_cycles
from tests_functional.lib.cycle import Source, judge_cycle, resting, writing_guest
from tests_functional.lib.guest import Guest
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.run import Run
from tests_functional.lib.save import Acts, Flow, take
from tests_functional.lib.source_checks import judge_source
from tests_functional.lib.time_limits import SMALL_SAVE_SECONDS
from tests_functional.refusals.each_option import judge_setting, words_when_set
from tests_functional.refusals.migration_options import Option, settings
from validators.checks import Problem, judged
from validators.verdict import CheckResult

_NAME, _CAPABILITY = "dirty-bitmaps", "dirty-bitmaps"
_NODE, _BITMAP = "beside-ram", "bitmap"
_GRANULARITY, _PIECE_BYTES = 64 << 10, MIB
_DISK = ("-blockdev", f"driver=null-co,node-name={_NODE},size={64 * MIB},read-zeroes=on")
_SOURCE = "The bitmap of the source has what was written to the disk, before and after T0, and records on."
_RESTORED = "The restored guest's disk has the bitmap of T0."
_WITHOUT = "The restored guest's disk has no bitmap, since no capability to save it was on."
_STALLS = "The sink is slow here, so that the save takes long."


@dataclass(frozen=True)
class Bitmap:
    """What QEMU says of the bitmap.

    Attributes:
        dirty_bytes: how much of the disk it has as written.
        recording: whether it takes further writes.
        usable: whether it is neither busy nor inconsistent.
    """

    dirty_bytes: int
    recording: bool
    usable: bool


def dirty_bitmaps(run: Run) -> Outcome:
    """Save a guest whose disk has a dirty bitmap by stop-and-save and in the background.

    Raises:
        NotApplicable: this QEMU has no such capability.
    """
    begun = time.monotonic()
    run = run.with_arguments(_DISK)
    with writing_guest(run) as source:
        machine = source.guest.machine
        migration.require_known(machine, _CAPABILITY)
        migration.require_known(machine, migration.BACKGROUND_SNAPSHOT)
        node = {"node": _NODE, "name": _BITMAP, "granularity": _GRANULARITY}
        machine.qmp.execute("block-dirty-bitmap-add", node)
        option = Option(_NAME, capability=_CAPABILITY)
        words = words_when_set(machine, option, settings(machine))
        refusal = replace(judge_setting(option, words), name="refusal")
        run.say(f"Together with background-snapshot: {refusal.facts.get('words') or 'accepted'}")
        accepted = not any(words.values())
        pieces = _Pieces(machine)
        cycles = [
            _judge(run, source, pieces, Flow.STOP_AND_SAVE, True, []),
            _judge(run, source, pieces, Flow.LIVE, accepted, [refusal]),
        ]
        machine.quit()
    return outcome_of_cycles(run, cycles, time.monotonic() - begun, compare_stuns=False)


class _Pieces:
    """Pieces of the disk, each written once."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.written = 0

    @property
    def written_bytes(self) -> int:
        """Bytes of the disk that were written."""
        return self.written * _PIECE_BYTES

    def write(self) -> None:
        """Write the next piece.

        Raises:
            SetupBroken: QEMU does not write it.
        """
        line = f'qemu-io {_NODE} "write {self.written * _PIECE_BYTES} {_PIECE_BYTES}"'
        # QEMU prints what becomes of it on its own standard output, so that the answer is empty.
        said = self._machine.hmp(line).strip()
        self.written += 1
        if (end := self._highest_offset()) != self.written_bytes:
            raise SetupBroken(
                f"QEMU did not write to the disk of this test: its writes end at byte {end}, and not at "
                f"{self.written_bytes}. It says: {said or 'nothing'}"
            )

    def _highest_offset(self) -> int:
        """Return where the highest write to the disk has ended, as QEMU counts it."""
        nodes = self._machine.qmp.execute("query-blockstats", {"query-nodes": True})
        disk = next(node for node in nodes if node["node-name"] == _NODE)
        return int(disk["stats"]["wr_highest_offset"])


def _judge(
    run: Run, source: Source, pieces: _Pieces, flow: Flow, saved: bool, further: Sequence[CheckResult]
) -> Cycle:
    """Save the guest by a flow, write to the disk before and after T0, and judge the bitmaps.

    Args:
        run: the test's run.
        source: the guest.
        pieces: of its disk.
        flow: how to save.
        saved: whether the capability is on that saves bitmaps.
        further: checks made before.
    """
    machine = source.guest.machine
    label = f"{_NAME}/{flow.label}"
    folder = run.folder / label
    folder.mkdir(parents=True)
    run.say(f"{label}: saving ({flow.value}).")
    pieces.write()
    at_t0 = pieces.written_bytes
    limit = run.deadline.at_most(SMALL_SAVE_SECONDS)
    with ExitStack() as on:
        if saved:
            on.enter_context(migration.capability_on(machine, _CAPABILITY))
        acts = Acts(saving=pieces.write) if flow.background else Acts()
        snapshot = take(flow, source.guest, source.counters, folder, limit, acts)
    pieces.write()
    snapshot = replace(snapshot, incoming=(*snapshot.incoming, _CAPABILITY) if saved else snapshot.incoming)

    def look(guest: Guest) -> list[CheckResult]:
        return [judge_restored_bitmap(bitmap_of(guest.machine), at_t0 if saved else None)]

    checks = [*further, *judge_source(source.guest, source.before)]
    checks.append(judge_source_bitmap(bitmap_of(machine), pieces.written_bytes))
    with resting(run.stack, machine, checks):
        return judge_cycle(run, source, snapshot, label, checks, look, _STALLS)


def bitmap_of(machine: Machine) -> Bitmap | None:
    """Return the bitmap of a machine's disk, None if it has none."""
    nodes = machine.qmp.execute("query-named-block-nodes", {"flat": True})
    disk = next(node for node in nodes if node["node-name"] == _NODE)
    found: list[dict[str, Any]] = [one for one in disk.get("dirty-bitmaps", []) if one["name"] == _BITMAP]
    if not found:
        return None
    usable = not found[0]["busy"] and not found[0].get("inconsistent", False)
    return Bitmap(int(found[0]["count"]), bool(found[0]["recording"]), usable)


def judge_source_bitmap(found: Bitmap | None, written: int) -> CheckResult:
    """Check the bitmap of a source guest after a save; `written` bytes of its disk were written."""
    fields, problems = {"state": _NAME}, []
    if found is None:
        sentence = "The disk of the source guest has lost its dirty bitmap."
        problems.append(Problem(Code.BESIDE_RAM_SOURCE, sentence, fields))
    elif found.dirty_bytes != written or not found.recording or not found.usable:
        state = f"{'' if found.recording else 'not '}recording and {'' if found.usable else 'not '}usable"
        sentence = (
            f"The dirty bitmap of the source guest has {found.dirty_bytes} of {written} bytes that were "
            f"written, and is {state}."
        )
        problems.append(Problem(Code.BESIDE_RAM_SOURCE, sentence, fields))
    return judged("source-bitmap", _SOURCE, problems)


def judge_restored_bitmap(found: Bitmap | None, at_t0: int | None) -> CheckResult:
    """Check the bitmap of a restored guest's disk.

    Args:
        found: it, None for none.
        at_t0: how many bytes had been written at T0; None where no bitmap was saved.
    """
    fields, problems = {"state": _NAME}, []
    if at_t0 is None:
        if found is not None:
            sentence = "The disk of the restored guest has a dirty bitmap, which nobody asked to be saved."
            problems.append(Problem(Code.BESIDE_RAM_LOST, sentence, fields))
        return judged("restored-bitmap", _WITHOUT, problems)
    if found is None:
        sentence = "The disk of the restored guest has no dirty bitmap."
        problems.append(Problem(Code.BESIDE_RAM_LOST, sentence, fields))
    elif found.dirty_bytes > at_t0:
        sentence = (
            f"The restored dirty bitmap has {found.dirty_bytes} bytes as written, and {at_t0} were at T0."
        )
        problems.append(Problem(Code.BESIDE_RAM_NEWER, sentence, fields))
    elif found.dirty_bytes < at_t0 or not found.recording or not found.usable:
        sentence = (
            f"The restored dirty bitmap has {found.dirty_bytes} of {at_t0} bytes of T0 as written, "
            f"is {'' if found.recording else 'not '}recording and {'' if found.usable else 'not '}usable."
        )
        problems.append(Problem(Code.BESIDE_RAM_LOST, sentence, fields))
    return judged("restored-bitmap", _RESTORED, problems)
