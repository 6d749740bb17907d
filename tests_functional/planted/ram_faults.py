"""Plants faults in the test of all kinds of RAM, that tests of the main RAM alone cannot see."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from harness.codes import Code
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.run import Run
from tests_functional.lib.symptoms import Symptom
from tests_functional.planted.live_faults import LiveFault, judge_planted, run_with_fault
from tests_functional.ram_blocks.kinds import KNOWN_KINDS
from tests_functional.ram_blocks.scenario import ram_blocks

_DEVICES, _UNKNOWN = "devices", "unknown_kind"
# As a new QEMU would have RAM that nobody knows: the kinds without those of one type.
_FEWER = tuple(entry for entry in KNOWN_KINDS if entry.access != "nv-ram")

RAM_FAULTS: Mapping[str, LiveFault] = {
    "forget_small": LiveFault(
        "only the main RAM is protected, so other RAM reaches the file newer than T0",
        "01-bus/golden",
        (Symptom(Code.GOLDEN_DIFFERS),),
        ram_blocks(_DEVICES),
    ),
    _UNKNOWN: LiveFault(
        "a machine has RAM of a kind that has no test",
        "*/ram-kinds",
        (Symptom(Code.RAM_BLOCKS_UNKNOWN_KIND),),
        ram_blocks(_DEVICES, _FEWER),
    ),
}


def planted_ram(name: str) -> Callable[[Run], Outcome]:
    """Return a scenario that plants a fault and passes if the run fails and names the fault.

    Args:
        name: one of RAM_FAULTS.
    """
    fault = RAM_FAULTS[name]
    if name != _UNKNOWN:
        return lambda run: run_with_fault(run, name, fault)
    # Its act is that the table has fewer kinds.
    return lambda run: judge_planted(run, name, fault, fault.scenario(run), 1)
