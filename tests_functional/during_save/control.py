"""The control: the same thing is done while an ordinary migration saves the guest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness.qemu.machine import Machine
from tests_functional.during_save.judge import judge_answers, judge_end, judge_guest
from tests_functional.during_save.mid_save import mid_save, quit_after
from tests_functional.during_save.thing import Place, Thing, refused_words
from tests_functional.lib.cycle import writing_guest
from tests_functional.lib.run import Run
from tests_functional.lib.time_limits import SMALL_SAVE_SECONDS
from validators.verdict import CheckResult

# Where an ordinary migration has completed, the guest is this, and not what it was in mid-migration.
_MIGRATED = "postmigrate"
# Enough for the rest of a small guest, so that the migration does not go on for ever while the guest writes.
_LAST_PASS = {"downtime-limit": 30_000, "max-bandwidth": 1 << 34}


@dataclass(frozen=True)
class Control:
    """What became of an ordinary migration.

    Attributes:
        checks: those that the background snapshot has too.
        words: how it ended, for a table.
    """

    checks: Sequence[CheckResult]
    words: str


def control(run: Run, thing: Thing) -> Control:
    """Do a thing while an ordinary migration saves a running guest."""
    folder = run.folder / "control"
    folder.mkdir()
    limit = run.deadline.at_most(SMALL_SAVE_SECONDS * run.stack.slowness)
    with writing_guest(replace(run, folder=folder)) as source:
        thing.prepare(Place(source.guest, folder, limit))
        run.say("The control: an ordinary migration.")
        place = Place(source.guest, folder, limit)
        met = mid_save(place, thing, folder / "vmstate", source.counters, limit, hasten=_hasten)
        lost = not thing.state or met.ending.lost is not None
        quitted = [] if lost else [quit_after(source.guest.machine, run.stack.slowness)]
        run.discard(folder)
    words = "QEMU ended" if not thing.state else met.ending.words
    refusal = refused_words(place.answers)
    if refusal:
        words = f"{words}; {refusal}"
    if not thing.state:
        return Control([judge_answers(thing, place.answers)], words)
    checks = [
        judge_answers(thing, place.answers),
        judge_end(thing, met.ending),
        judge_guest((_MIGRATED, thing.state), met.ending),
        *quitted,
    ]
    return Control(checks, words)


def _hasten(machine: Machine) -> None:
    machine.qmp.execute("migrate-set-parameters", _LAST_PASS)
