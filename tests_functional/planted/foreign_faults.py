"""Plants faults in the files of a test of a foreign writer; each must be caught and named."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from harness.codes import Code
from harness.errors import SetupBroken
from tests_functional.foreign_writers.file_faults import plant
from tests_functional.foreign_writers.marks import Marks
from tests_functional.foreign_writers.scenario import foreign_writer
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.run import Run
from tests_functional.lib.symptoms import Symptom
from tests_functional.planted.live_faults import LiveFault, judge_planted

_WRITER = "virtio-blk"

FOREIGN_FAULTS: Mapping[str, LiveFault] = {
    "lose-write": LiveFault(
        "a page lacks what a device wrote before T0", "*/foreign-writer", (Symptom(Code.FOREIGN_WRITER_LOST),)
    ),
    "double-write": LiveFault(
        "a page has the content of another one, which a device wrote",
        "*/foreign-writer",
        (Symptom(Code.FOREIGN_WRITER_TWICE),),
    ),
    "forget-requests": LiveFault(
        "the requests are lost that a device was given before T0",
        "*/restored-foreign-writer",
        (Symptom(Code.FOREIGN_WRITER_SILENT),),
    ),
}


def planted_foreign(name: str) -> Callable[[Run], Outcome]:
    """Return a scenario that plants a fault and passes if the run fails and names the fault.

    Args:
        name: one of FOREIGN_FAULTS.
    """
    return lambda run: _planted(run, name)


def _planted(run: Run, name: str) -> Outcome:
    acts = 0

    def damage(path: Path, marks: Marks, control: int) -> None:
        nonlocal acts
        acts += plant(name, path, marks, control)

    fault = replace(FOREIGN_FAULTS[name], scenario=foreign_writer(_WRITER, damage))
    run.say(f"Planted '{name}': {fault.reason}.")
    outcome = fault.scenario(run)
    if acts == 0:
        raise SetupBroken(f"The planted fault '{name}' never acted, so this run says nothing about checks.")
    return judge_planted(run, name, fault, outcome, acts)
