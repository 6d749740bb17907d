"""How long the guest's writers stood still during a save, and only during it."""

from __future__ import annotations

from dataclasses import dataclass

from harness.deadline import Deadline
from tests_functional.scenarios.agent import AgentWindow
from tests_functional.scenarios.guest import Guest

# Below what a save is judged by (source_checks.judge_stall).
_CALM_SECONDS = 0.2
_BEGIN_SECONDS = 60.0
# An exchange over SSH ends in the guest a little after it ends for us.
_AFTERMATH_SECONDS = 0.05
_GO_ON_SECONDS = 10.0


@dataclass(frozen=True)
class Standstill:
    """The longest of all writers.

    Attributes:
        stall_us: a single page write, in microseconds.
        gap_us: from the end of one page write to that of the next, whatever for, in microseconds.
    """

    stall_us: int
    gap_us: int


def begin(guest: Guest, window: AgentWindow) -> None:
    """Clear the writers' statistics just before a save.

    The command to do so goes over SSH, whose programs take the writers' processor. On a busy host that was
    seen to last for seconds; it must not count as a stall of the save.

    Raises:
        DeadlineExpired: the host is too busy for the writers to be calm.
    """
    limit = Deadline(_BEGIN_SECONDS)
    while True:
        guest.agent.reset_stats()
        limit.nap(_AFTERMATH_SECONDS)
        if window.standstill()[1] < _CALM_SECONDS:
            return
        limit.check("A moment in which the guest's writers write without a pause")


def end(window: AgentWindow) -> Standstill:
    """What the writers have seen since `begin`, read from guest RAM as soon as a save has completed.

    A standstill that lasts counts only when it ends, so each writer is waited for; one that does not go on
    within ten seconds is left to whoever asks the guest for an answer.
    """
    then, limit = window.steps(), Deadline(_GO_ON_SECONDS)
    while not limit.expired and any(now <= one for now, one in zip(window.steps(), then, strict=True)):
        limit.nap(0.001)
    stall, gap = window.standstill()
    return Standstill(int(stall * 1e6), int(gap * 1e6))
