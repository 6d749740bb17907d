"""Check the source guest's writers while RAM was saved: they wrote, and none waited for the whole save."""

from __future__ import annotations

from collections.abc import Sequence

from harness.codes import Code
from validators.checks import Problem, judged, skipped
from validators.verdict import CheckResult

_OVERLAP = "The writers wrote while RAM was saved; without that the run would prove nothing."
_STALL = "No writer stalled for half of the save: a page that is written to is saved next."

# A page that is asked for is saved next, so a write waits for some pages, not for a share of RAM; a sink
# that stalls for half of the save would look the same. Below the floor it is the host's scheduling.
_STALL_SHARE = 0.5
_STALL_FLOOR_SECONDS = 0.25


def check_overlap(before: Sequence[int], at_t0: Sequence[int], completed: Sequence[int]) -> CheckResult:
    """Check that the writers wrote between T0 and the end of a save during which the guest ran.

    Args:
        before: steps of each writer thread when the save was asked for.
        at_t0: steps of each thread at T0, as found in the file.
        completed: steps of each thread when the save had completed.
    """
    written = sum(completed) - sum(at_t0)
    problems = []
    if written <= 0:
        problems.append(
            Problem(
                Code.OVERLAP_NOTHING_WRITTEN,
                "No page was written between T0 and the end of the save, so this run proves nothing.",
            )
        )
    # By thread, since the steps that one is ahead would hide those that another is behind.
    for thread, (asked, found) in enumerate(zip(before, at_t0, strict=False)):
        if found < asked:
            problems.append(
                Problem(
                    Code.OVERLAP_T0_TOO_EARLY,
                    f"T0 in the file is {asked - found} steps of thread {thread} before the save was "
                    "asked for.",
                )
            )
    if len(at_t0) != len(before):
        problems.append(
            Problem(
                Code.OVERLAP_THREADS,
                f"The file knows {len(at_t0)} writer threads, the guest has {len(before)}.",
            )
        )
    return judged("overlap", _OVERLAP, problems, {"pages_written_during_save": written})


def check_write_stall(gap_us: int, save_ms: int, waited_us: int = 0) -> CheckResult:
    """Check that no write waited for the save as a whole instead of for one page.

    Args:
        gap_us: the longest time from T0 on in which a writer made no step, in microseconds.
        save_ms: QEMU's total time of the save, in milliseconds.
        waited_us: how much of the gap the host may have caused by giving QEMU's threads no processor.

    Returns:
        The check, skipped if without the host the gap might have been short enough.
    """
    # Not only the time of its writes: with one vCPU, the guest's kernel waits for it as well.
    gap, save, waited = gap_us / 1e6, save_ms / 1e3, waited_us / 1e6
    most = max(_STALL_SHARE * save, _STALL_FLOOR_SECONDS)
    problems = []
    if gap - waited <= most < gap:
        return skipped(
            "write-stall",
            _STALL,
            f"The host is too busy to tell: a writer stalled for {gap:.3f} s during a save of {save:.3f} s, "
            f"and QEMU's threads waited for a processor for {waited:.3f} s of it.",
        )
    if gap > most:
        problems.append(
            Problem(
                Code.WRITE_STALL_TOO_LONG,
                f"A writer of the guest stalled for {gap:.3f} s during a save of {save:.3f} s.",
            )
        )
    return judged("write-stall", _STALL, problems, {"largest_gap_us": gap_us})


def skip_write_stall(reason: str) -> CheckResult:
    """Return the check of `check_write_stall` as skipped, because something else stalled the writers."""
    return skipped("write-stall", _STALL, reason)
