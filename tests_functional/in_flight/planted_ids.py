"""Plants wrong generation IDs around snapshots of a real guest; each must be seen."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Set
from dataclasses import dataclass, replace

from harness.codes import Code
from tests_functional.in_flight.planted import judge_seen
from tests_functional.in_flight.vmgenid import (
    FIRST,
    KEPT_CHECK,
    RESTORED_CHECK,
    GuidPage,
    Plant,
    id_cycle,
    require_ids,
    with_ids,
)
from tests_functional.lib.build_outcome import outcome_of
from tests_functional.lib.cycle import writing_guest
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.run import Run
from tests_functional.lib.save import Flow
from validators.verdict import CheckResult

_HOLDS = "Each planted generation ID was seen."
_FIRST_CHECK = f"{FIRST}{RESTORED_CHECK}"
_GIVEN = "5a0e1f7c-8a5d-4b1e-9c7d-2f60b3c4d5e6"


def _put_stray(page: GuidPage) -> None:
    page.put(uuid.uuid4())


def _put_right(page: GuidPage) -> None:
    page.put(page.of_qemu())


@dataclass(frozen=True)
class IdFault:
    """A fault.

    Attributes:
        expected: the checks that must see it, each with its code.
        plant: what is done around the snapshot.
        announced: whether QEMU is told where the ID is in guest RAM.
    """

    expected: Set[tuple[str, Code]]
    plant: Plant
    announced: bool = True


ID_FAULTS: Mapping[str, IdFault] = {
    "file": IdFault({(KEPT_CHECK, Code.VMGENID_FILE)}, Plant(before_save=_put_stray, after_save=_put_right)),
    "source": IdFault({(KEPT_CHECK, Code.VMGENID_SOURCE)}, Plant(after_save=_put_stray)),
    "stale": IdFault(
        {(_FIRST_CHECK, Code.VMGENID_STALE), (RESTORED_CHECK, Code.VMGENID_STALE)},
        Plant(after_restore=_put_stray),
    ),
    "same": IdFault({(RESTORED_CHECK, Code.VMGENID_SAME)}, Plant(restored_guid=_GIVEN)),
    # QEMU writes no ID then, so that all guests have the source's.
    "unannounced": IdFault(
        {
            (check, code)
            for check in (_FIRST_CHECK, RESTORED_CHECK)
            for code in (Code.VMGENID_STALE, Code.VMGENID_SAME)
        },
        Plant(),
        announced=False,
    ),
}
"""What is planted, by name."""


def planted_ids(run: Run) -> Outcome:
    """Take a live snapshot of a new guest for each fault, and plant it."""
    begun = time.monotonic()
    require_ids(run)
    checks = []
    for name, fault in ID_FAULTS.items():
        folder = run.folder / name
        folder.mkdir()
        checks.append(_planted(replace(run, folder=folder), name, fault))
    return outcome_of(run, checks, time.monotonic() - begun, _HOLDS)


def _planted(run: Run, name: str, fault: IdFault) -> CheckResult:
    with writing_guest(with_ids(run)) as source:
        page = GuidPage(source.guest.machine)
        if fault.announced:
            page.announce()
        else:
            _put_right(page)
        cycle = id_cycle(run, source, Flow.LIVE, f"planted/{name}", fault.plant)
        source.guest.machine.quit()
    return judge_seen(f"vmgenid-{name}", fault.expected, cycle.verdict.checks)
