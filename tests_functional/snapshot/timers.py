"""Checks by the guest's heartbeat that a background snapshot stops the guest at T0 only."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from harness.codes import Code
from harness.deadline import Deadline
from harness.errors import NotApplicable, SetupBroken
from harness.status import Status
from tests_functional.lib.build_outcome import outcome_of
from tests_functional.lib.measure.cases import Way, Writer
from tests_functional.lib.measure.sample import measure
from tests_functional.lib.measure.warm_guest import WarmGuest, remove, sized, started, warm_guest
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.run import Run
from validators.checks import Problem, judged, skipped
from validators.verdict import CheckResult

_WAYS = {Way.BACKGROUND_EXEC: "timers/exec", Way.BACKGROUND_FILE: "timers/file"}
_DEMAND = "The guest's timers go on during the save: the guest stops for milliseconds at T0, and not again."

# The median of these samples counts: a busy host spoils single ones, a second stop shows in each of them.
_SAMPLES = 5
# A heartbeat is due every 10 ms. Measured (docs/bench.md): 14 to 38 ms without a second stop, under TCG with
# one vCPU that also waits for pages; 0.1 s and more where QEMU's main loop waits for a disk (finding F18).
_MOST_MS = 100.0
_CALM_SECONDS = 1.0
_WARM_SECONDS, _START_SECONDS = 200.0, 90.0


@dataclass
class _Found:
    """Results of a way's saves: the largest gaps between heartbeats in ms, or why there are none."""

    gaps_ms: list[float] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    unknown: str = ""

    def check(self, name: str) -> CheckResult:
        """Return the way's check result."""
        if self.unknown:
            return skipped(name, _DEMAND, self.unknown)
        problems, figures = list(self.problems), {}
        if self.gaps_ms:
            gap = statistics.median(self.gaps_ms)
            figures["largest_clock_gap_ms"] = round(gap, 1)
            if gap > _MOST_MS:
                of = f"median of {len(self.gaps_ms)}"
                problems.append(
                    Problem(
                        Code.TIMERS_STOOD_STILL,
                        f"The guest's timers stopped for {gap:.0f} ms of a save ({of}).",
                    )
                )
        return judged(name, _DEMAND, problems, figures)


def timers_go_on(run: Run) -> Outcome:
    """Measure the guest's heartbeat during saves to a command and to a file, each of a newly started guest.

    Raises:
        SetupBroken: the guest's timers stop as long without a save, or a save failed for a reason that
            is not QEMU's fault.
    """
    begun = time.monotonic()
    run.require_room()
    found, calm = {way: _Found() for way in _WAYS}, list[float]()
    stack = sized(run.stack, run.stack.ram_mib)
    run.say(f"Booting the warm guest ({stack.ram_mib} MiB, {stack.vcpus} vCPU, {stack.accel}).")
    limit = run.deadline.at_most(_WARM_SECONDS)
    with warm_guest(stack, Writer.ALL, run.folder / "warm", limit, run.seed) as warm:
        run.say(f"Saving it {_SAMPLES} times in each of {len(_WAYS)} ways, and {_SAMPLES} times not at all.")
        for number in range(1, _SAMPLES + 1):
            calm.append(_gap_without_a_save(run, warm))
            for way in _WAYS:
                _save(run, warm, way, number, found[way])
    _require_calm(calm)
    checks = [found[way].check(name) for way, name in _WAYS.items()]
    by = " and ".join(way.value for way, one in found.items() if not one.unknown)
    holds = f"The guest's timers went on while it was saved ({by})."
    figures = {"clock_gap_without_a_save_ms": round(statistics.median(calm), 1)}
    return outcome_of(run, checks, time.monotonic() - begun, holds, figures)


def _save(run: Run, warm: WarmGuest, way: Way, number: int, found: _Found) -> None:
    if found.unknown or found.problems:
        return
    try:
        sample = measure(warm, way, run.folder / f"{way.value}-{number}", repeat=number, around_seconds=0.0)
    except NotApplicable as error:
        found.unknown = error.sentence
        return
    if sample.status is Status.FAIL:
        found.problems.append(Problem(Code.TIMERS_SAVE_FAILED, f"Save {number} failed: {sample.error}"))
    elif not sample.measured or sample.guest_clock_gap_ms is None:
        raise SetupBroken(f"Save {number} of '{run.name}' could not be measured: {sample.error}")
    else:
        found.gaps_ms.append(sample.guest_clock_gap_ms)


def _gap_without_a_save(run: Run, warm: WarmGuest) -> float:
    """Measure the largest gap in the same guest without a save, for about as long as a save takes."""
    folder, limit = run.folder / "calm", Deadline(_START_SECONDS)
    with started(warm, folder, Way.BACKGROUND_EXEC, limit) as running:
        limit.nap(_CALM_SECONDS)
        gap = running.counters.longest_heartbeat_gap() * 1e3
    remove(folder)
    return gap


def _require_calm(gaps_ms: Sequence[float]) -> None:
    gap = statistics.median(gaps_ms)
    if gap > _MOST_MS:
        raise SetupBroken(
            f"The guest's timers stop for {gap:.0f} ms while nothing is saved: this host is too busy "
            "to tell whether a save stops the guest; end other programs and run this test again."
        )
