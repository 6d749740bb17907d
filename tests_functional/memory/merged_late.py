"""Takes a snapshot while KSM merges protected pages: the guest's next write to them must still wait."""

from __future__ import annotations

import time
from dataclasses import replace

from harness.deadline import Deadline
from harness.errors import SetupBroken
from harness.linux.ksm import merge_equal_pages, require_ksm
from tests_functional.lib.build_outcome import outcome_of_cycles
from tests_functional.lib.cycle import Source, judge_cycle, writing_guest
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.run import Run
from tests_functional.lib.save import Acts, Flow, take
from tests_functional.lib.source_checks import judge_source
from tests_functional.lib.time_limits import SAVE_SECONDS
from tests_functional.memory.host_pages import merged_mib, part_merged
from tests_functional.memory.same_file import fill_file
from validators.checks import judged

_LABEL = "memory/merged-while-saving"
_MET = "During the save the host merged pages that the guest then wrote to."
_MERGE_SECONDS = 40.0
_FILE_MIB = 16
# So few pages that the check lists each one, so that all of them can be compared with the known issue.
_WRITTEN_MIB = 3


def merged_while_saving(run: Run) -> Outcome:
    """Have the host merge equal pages of the guest after T0, and the guest then write to them."""
    require_ksm()
    begun = time.monotonic()
    # KSM merges only memory that QEMU has marked as mergeable.
    run = replace(run, stack=replace(run.stack, machine=f"{run.stack.machine},mem-merge=on"))
    folder = run.folder / "snapshot"
    folder.mkdir()
    merged: list[float] = []
    with writing_guest(run) as source:
        source.guest.shell.check(fill_file(_FILE_MIB))
        run.say("Saving; meanwhile the host merges pages, and the guest writes to them.")
        acts = Acts(saving=lambda: merged.append(_merge_and_write(source)))
        limit = run.deadline.at_most(SAVE_SECONDS)
        snapshot = take(Flow.STOP_MIGRATE_CONT, source.guest, source.counters, folder, limit, acts)
        met = judged(f"{_LABEL}/met", _MET, [], {"MiB merged": int(merged[0])})
        checks = [*judge_source(source.guest, source.before), met]
        source.guest.machine.quit()
        cycle = judge_cycle(run, source, snapshot, _LABEL, checks)
    return outcome_of_cycles(run, [cycle], time.monotonic() - begun)


def _merge_and_write(source: Source) -> float:
    """Have the host merge pages and the guest write to them; return the MiB merged before the writes.

    Raises:
        SetupBroken: it did not merge enough, or the save ended before enough of that was written.
    """
    merge_equal_pages(Deadline(_MERGE_SECONDS))
    found = merged_mib(source)
    if found < _FILE_MIB:
        raise SetupBroken(f"The host merged {found:.1f} MiB, fewer than the {_FILE_MIB} MiB that are equal.")
    part_merged(source, _WRITTEN_MIB)
    return found
