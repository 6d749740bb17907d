"""Plants faults in steps of tests with real guests, which no library in QEMU can cause; each must be seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from harness.codes import Code
from harness.qemu.architectures import PSERIES
from harness.qemu.migration import BACKGROUND_SNAPSHOT
from tests_functional.beside_ram.kinds import guests_with
from tests_functional.beside_ram.scenario import state_beside_ram
from tests_functional.beside_ram.sections import sections_without
from tests_functional.during_save.scenario import done
from tests_functional.during_save.thing import Place, Thing
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.run import Run
from tests_functional.lib.symptoms import Symptom
from tests_functional.planted.live_faults import LiveFault, judge_planted

_STATE, _TABLE, _HTAB = "storage-keys", "hash-table", "spapr/htab"
_NO_COMMAND, _PARAMETER = "no-such-command", "downtime-limit"
_OTHER_LIMIT = 777


def _refuse_in_background(place: Place) -> None:
    """Give a command that QEMU refuses, if the save is a background snapshot."""
    capabilities = place.machine.qmp.execute("query-migrate-capabilities")
    if {"capability": BACKGROUND_SNAPSHOT, "state": True} in capabilities:
        place.give(_NO_COMMAND)


def _set_parameter(place: Place) -> None:
    place.machine.qmp.execute("migrate-set-parameters", {_PARAMETER: _OTHER_LIMIT})


STEP_FAULTS: Mapping[str, LiveFault] = {
    "refused-in-background": LiveFault(
        "QEMU refuses a command while a background snapshot is taken, and not during an ordinary migration",
        "*/answers",
        (Symptom(Code.DURING_SAVE_REFUSED, {"command": (_NO_COMMAND,)}),),
        done("refused-in-background", Thing("a command is refused", _refuse_in_background)),
    ),
    "setting-by-the-way": LiveFault(
        "a migration parameter changes while RAM is saved",
        "*/settings",
        (Symptom(Code.DURING_SAVE_SETTINGS, {"setting": (_PARAMETER,)}),),
        done("setting-by-the-way", Thing("a parameter changes", _set_parameter)),
    ),
    "stuck-beside-ram": LiveFault(
        "the storage keys of a restored guest no longer change",
        "*/restored-goes-on",
        (Symptom(Code.BESIDE_RAM_STUCK, {"state": (_STATE,)}),),
        state_beside_ram(_STATE, restored_stores=False),
    ),
    "untested-section": LiveFault(
        "a machine type has an iterable section of a handler that has no test",
        f"{PSERIES.name}/iterable-sections",
        (Symptom(Code.BESIDE_RAM_UNTESTED, {"section": (_HTAB,)}),),
        sections_without(_HTAB, PSERIES.name),
    ),
}
"""By name; each is a scenario with a step that goes wrong."""

STEP_GUESTS: Mapping[str, str] = {
    "stuck-beside-ram": guests_with(_STATE)[0].name,
    "untested-section": guests_with(_TABLE)[0].name,
}
"""The guest of a fault's scenario, where it is not any bare one."""


def planted_step(name: str) -> Callable[[Run], Outcome]:
    """Return a scenario that plants a fault and passes if the run fails and names the fault.

    Args:
        name: one of STEP_FAULTS.
    """
    fault = STEP_FAULTS[name]

    def run_with_it(run: Run) -> Outcome:
        run.say(f"Planted '{name}': {fault.reason}.")
        return judge_planted(run, name, fault, fault.scenario(run), 1)

    return run_with_it
