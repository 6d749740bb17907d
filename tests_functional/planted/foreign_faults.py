"""Plants faults in a test of a foreign writer, in its files and live; each must be caught and named."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from harness.codes import Code
from harness.errors import SetupBroken
from harness.qemu.architectures import TARGET_PAGE_BYTES
from harness.qemu.machine import Machine, known_pid
from tests_functional.foreign_writers.file_faults import plant
from tests_functional.foreign_writers.marks import Marks
from tests_functional.foreign_writers.scenario import Faults, foreign_writer
from tests_functional.foreign_writers.target import PAGES, Target
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.run import Run
from tests_functional.lib.symptoms import Symptom
from tests_functional.planted.host_faults import LosesProtection
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


@dataclass(frozen=True)
class LostProtection:
    """Pages of a device whose protection is lost.

    Attributes:
        writer: the device's, one of WRITER_KINDS.
        golden: whether the golden image must see what it writes, and not the check of its marks.
    """

    writer: str = _WRITER
    golden: bool = False

    @property
    def check(self) -> str:
        """Return the name of the check that must see it, without what is before it."""
        return "/02-seeds/golden" if self.golden else "/foreign-writer"


# Virtio has a row of its own. These devices have each another way to guest RAM.
_DEVICES = ("pvscsi", "rtl8139", "am53c974", "usb-ehci", "sd-card")

LIVE_FOREIGN_FAULTS: Mapping[str, LostProtection] = {
    "lost-protection": LostProtection(),
    "lost-protection-golden": LostProtection(golden=True),
    **{f"lost-protection-{writer}": LostProtection(writer) for writer in _DEVICES},
}

LOST_PROTECTION = "pages of a device are no longer protected, and QEMU does not know of its writes"


def planted_foreign(name: str) -> Callable[[Run], Outcome]:
    """Return a scenario that plants a fault and passes if the run fails and names the fault.

    Args:
        name: one of FOREIGN_FAULTS or LIVE_FOREIGN_FAULTS.
    """
    if name in LIVE_FOREIGN_FAULTS:
        return lambda run: _lost_protection(run, name)
    return lambda run: _planted(run, name)


def _lost_protection(run: Run, name: str) -> Outcome:
    """Release all pages that a device is about to write, by QEMU's own userfaultfd.

    The device first writes to its queue in front of them, so QEMU goes on there and may save some in time.
    """
    planted, loses = LIVE_FOREIGN_FAULTS[name], LosesProtection(PAGES)
    places: set[int] = set()

    def release(machine: Machine, target: Target) -> None:
        loses(known_pid(machine), target.memory.host_address(target.data))
        places.update(target.offset + page * TARGET_PAGE_BYTES for page in range(PAGES))

    run.say(f"Planted '{name}': {LOST_PROTECTION}.")
    outcome = foreign_writer(planted.writer, Faults(live=release))(run)
    if not loses.acts:
        raise SetupBroken("QEMU had no userfaultfd to plant the fault by, so this run says nothing.")
    return judge_planted(run, f"foreign-{name}", live_fault(name, places), outcome, loses.acts)


def live_fault(name: str, places: Collection[int]) -> LiveFault:
    """Return how a fault of LIVE_FOREIGN_FAULTS must be seen.

    Args:
        name: the fault's.
        places: offsets in the main RAM of the pages that lost their protection; one of them must be named.
    """
    planted = LIVE_FOREIGN_FAULTS[name]
    seen = Symptom(Code.FOREIGN_WRITER_NEWER, {"offset": tuple(places)})
    if planted.golden:
        seen = Symptom(Code.GOLDEN_DIFFERS)
    return LiveFault(LOST_PROTECTION, f"*{planted.check}", (seen,))


def _planted(run: Run, name: str) -> Outcome:
    acts = 0

    def damage(path: Path, marks: Marks, control: int) -> None:
        nonlocal acts
        acts += plant(name, path, marks, control)

    fault = replace(FOREIGN_FAULTS[name], scenario=foreign_writer(_WRITER, Faults(damage)))
    run.say(f"Planted '{name}': {fault.reason}.")
    outcome = fault.scenario(run)
    if acts == 0:
        raise SetupBroken(f"The planted fault '{name}' never acted, so this run says nothing about checks.")
    return judge_planted(run, name, fault, outcome, acts)
