"""Saves a guest with a disk in the background while the capability `block` is on, which migrates disks too.

QEMU must refuse the combination, or save the disk as it was at T0: what it saves in parts, while the guest
runs, is of later. The capability is there up to QEMU 9.0.
"""

from __future__ import annotations

import time

from harness.qemu import migration
from tests_functional.lib.build_outcome import outcome_of_cycles
from tests_functional.lib.cycle import snapshot_cycle, writing_guest
from tests_functional.lib.driven import require_driven
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.run import Run
from tests_functional.lib.save import Flow

_CAPABILITY = "block"
# A disk of zeros, which needs no file; the capability knows disks by the name that -drive gives them.
_DISK = (
    *("-drive", "driver=null-co,size=16M,read-zeroes=on,if=none,id=beside-ram"),
    *("-device", "ide-hd,drive=beside-ram"),
)
_LABEL = "block-capability/01-live"


def block_capability(run: Run) -> Outcome:
    """Save a running guest with both capabilities, and judge its file and the restored guest."""
    begun = time.monotonic()
    require_driven(run)
    run = run.with_arguments(_DISK)
    with writing_guest(run) as source:
        machine = source.guest.machine
        with migration.capability_on(machine, _CAPABILITY):
            cycle = snapshot_cycle(run, source, Flow.LIVE, _LABEL, incoming=(_CAPABILITY,))
        machine.quit()
    return outcome_of_cycles(run, [cycle], time.monotonic() - begun)
