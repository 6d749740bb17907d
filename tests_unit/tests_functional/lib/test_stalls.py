"""Contract: what happens before or after a save is no stall of it; one that lasts is counted whole."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import cast

import pytest

from guest_images.agent.counters import AgentCounters, LongGap
from guest_images.agent.format import LONG_GAP_NS
from harness.deadline import Deadline
from harness.errors import DeadlineExpired
from harness.linux.run_queue import ProcessorTime, ThreadReading
from tests_functional.lib import stalls
from tests_unit.support.scenario_values import SOURCE, StandInAgent, stand_in_guest


class StandInCounters:
    """Gives steps and stalls in turn, the last for ever; its guest's clock runs from 1000 s on."""

    def __init__(
        self,
        steps: Sequence[tuple[int, ...]],
        stalled: Sequence[tuple[float, float]],
        gaps: Sequence[LongGap] | None,
    ) -> None:
        self._steps, self._stalls, self._gaps = list(steps), list(stalled), gaps
        self._begun = time.monotonic()

    def long_gaps(self) -> list[LongGap] | None:
        """All that the agent has kept, None where there were too many."""
        return None if self._gaps is None else list(self._gaps)

    def guest_clock(self) -> float:
        """Guest seconds."""
        return 1000 + time.monotonic() - self._begun

    def steps(self) -> tuple[int, ...]:
        """The next step counts."""
        return self._steps.pop(0) if len(self._steps) > 1 else self._steps[0]

    def longest_write(self) -> float:
        """The longest write that belongs to the next longest gap, in seconds."""
        return self._stalls[0][0]

    def longest_gap(self) -> float:
        """The next longest gap, in seconds."""
        return (self._stalls.pop(0) if len(self._stalls) > 1 else self._stalls[0])[1]


def _counters(
    steps: Sequence[tuple[int, ...]],
    stalled: Sequence[tuple[float, float]],
    gaps: Sequence[LongGap] | None = (),
) -> AgentCounters:
    return cast(AgentCounters, StandInCounters(steps, stalled, gaps))


def test_begins_in_a_calm_moment() -> None:
    """Statistics are cleared again where clearing them has itself held up a writer."""
    guest = stand_in_guest(SOURCE)
    stalls.begin(guest, _counters([(0,)], [(0.0, 2.2), (0.0, 0.2), (0.0, 0.01)]))
    assert cast(StandInAgent, guest.agent).resets == 3


def test_no_calm_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that is too busy to measure breaks the test: QEMU is neither blamed nor cleared."""
    monkeypatch.setattr(stalls, "_BEGIN_SECONDS", 0.1)
    with pytest.raises(DeadlineExpired):
        stalls.begin(stand_in_guest(SOURCE), _counters([(0,)], [(0.0, 0.5)]))


def test_lasting_standstill_counts() -> None:
    """Every writer is waited for: only its next steps say how long it stalled."""
    counters = _counters([(5, 7), (5, 9), (6, 9), (7, 9)], [(1.5, 1.75)], [LongGap(1000, 1.75)])
    assert stalls.end(counters, time.time() - 2) == stalls.Stalls(1_500_000, 1_750_000)


def test_standstill_before_t0_is_none_of_the_save() -> None:
    """Only the part of a gap after T0 counts."""
    counters = _counters([(5,), (9,)], [(0.7, 0.7)], [LongGap(999.2, 0.7), LongGap(999.8, 0.5)])
    found = stalls.end(counters, time.time() - 0.4)
    assert found.gap_us == pytest.approx(200_000, abs=20_000)


def test_short_standstill_counts_whole() -> None:
    """The agent keeps no time of short gaps, and they matter to no check."""
    assert stalls.end(_counters([(5,), (9,)], [(0.0, 0.04)], None), time.time()).gap_us == 40_000


def test_too_many_stalls_to_tell() -> None:
    """No gap counts as one before T0 if the agent could not keep them all."""
    assert stalls.end(_counters([(5,), (9,)], [(0.0, 0.7)], None), time.time()).gap_us == 700_000


def test_writer_that_never_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not waited for for ever; that the guest hangs is found out next."""
    monkeypatch.setattr(stalls, "_GO_ON_SECONDS", 0.05)
    counters = _counters([(5, 7)], [(0.0, 0.25)], [LongGap(1000, 0.25)])
    assert stalls.end(counters, time.time() - 1) == stalls.Stalls(0, 250_000)


def test_wait_for_a_processor_in_the_longest_gap() -> None:
    """The readings around it tell how much of it was the host's; those of after it are waited for."""
    counters = _counters([(5,), (9,)], [(0.0, 0.7)], [LongGap(999.9, 0.7)])
    now = time.time()
    still, ran = ProcessorTime(0, 0), ProcessorTime(0, 600_000_000)
    readings = [ThreadReading(now - 0.9, {3: still}), ThreadReading(now - 0.2, {3: still})]
    late = threading.Timer(0.05, lambda: readings.append(ThreadReading(time.time(), {3: ran})))
    late.start()
    found = stalls.end(counters, now - 2, readings, {3: "CPU 0/TCG"})
    late.join()
    assert (found.gap_us, found.waited_us) == (700_000, 600_000)


def test_each_writer_is_waited_for_two_steps() -> None:
    """A step is counted before the gap that it ends, so the first step does not show the gap yet."""
    stand_in = StandInCounters([(5, 7), (6, 9), (7, 8), (7, 9)], [(0.0, 0.01)], ())
    stalls.end(cast(AgentCounters, stand_in), time.time())
    assert stand_in.steps() == (7, 9)
    assert len(stand_in._steps) == 1


def test_gap_that_ended_before_t0_leaves_the_bound() -> None:
    """All that is known of the gaps after T0 is that each was shorter than the agent keeps."""
    counters = _counters([(5,), (9,)], [(0.0, 0.7)], [LongGap(999.0, 0.7)])
    assert stalls.end(counters, time.time()).gap_us == LONG_GAP_NS // 1000


class StaleClock(StandInCounters):
    """Tells an old time at first, as a guest does that has only just been resumed."""

    def __init__(self, told: int) -> None:
        super().__init__([(5,), (9,)], [(0.7, 0.7)], [LongGap(999.2, 0.7), LongGap(999.8, 0.5)])
        self._told = told

    def guest_clock(self) -> float:
        """900 s for a number of times."""
        self._told -= 1
        return 900.0 if self._told >= 0 else super().guest_clock()


def test_guest_clock_is_read_when_it_is_fresh() -> None:
    """The heartbeat stores the time, so its last value may be from before T0."""
    found = stalls.end(cast(AgentCounters, StaleClock(3)), time.time() - 0.4)
    assert found.gap_us == pytest.approx(200_000, abs=20_000)


def test_clock_that_stands_still_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole gap counts then."""
    monkeypatch.setattr(stalls, "_GO_ON_SECONDS", 0.05)
    assert stalls.end(cast(AgentCounters, StaleClock(10**9)), time.time() - 0.4).gap_us == 700_000


@pytest.mark.parametrize(
    ("now", "gone"),
    [((7, 9), True), ((9, 20), True), ((6, 9), False), ((7, 8), False), ((5, 7), False)],
)
def test_writer_has_gone_on_after_two_steps(now: tuple[int, ...], gone: bool) -> None:
    """Each of the writers."""
    assert stalls.gone_on(_counters([now], [(0.0, 0.0)]), (5, 7)) is gone


@pytest.fixture(name="naps")
def _naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    naps: list[float] = []

    class Noted(Deadline):
        def nap(self, seconds: float) -> None:
            naps.append(seconds)
            super().nap(min(seconds, 0.01))

    monkeypatch.setattr(stalls, "Deadline", Noted)
    return naps


def test_command_over_ssh_has_ended_before_a_calm_moment(naps: list[float]) -> None:
    """It ends in the guest a little later than here, and would take the processor from the writers."""
    stalls.begin(stand_in_guest(SOURCE), _counters([(0,)], [(0.0, 0.01)]))
    assert naps == [0.05]


def test_writers_and_clock_are_asked_again_soon(naps: list[float]) -> None:
    """A stall that begins after the save would count as one of it; and the CPUs are the guest's."""
    stale = StaleClock(3)
    stale._steps = [(5,), (6,), (7,)]
    stalls.end(cast(AgentCounters, stale), time.time())
    assert naps == [0.001, 0.0005, 0.0005]
