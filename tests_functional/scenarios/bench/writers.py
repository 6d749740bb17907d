"""What the guest writes while it is saved: nothing to speak of, a tenth of RAM, all of it, or a hot tenth."""

from __future__ import annotations

import enum

from guest_images.agent.format import PAGE_BYTES
from harness.deadline import Deadline
from harness.machine_config import MIB
from tests_functional.scenarios.agent import AgentStatus, WriterPlan
from tests_functional.scenarios.counters import AgentCounters
from tests_functional.scenarios.guest import Guest, Stack, start_writers

# An idle guest's writes: few, so that they cost nothing, and yet enough to be timed.
_IDLE_PAGES, _IDLE_RATE = 64, 50
_TENTH = 0.1
_ROOM_KIB = 8 << 10


class Writer(enum.Enum):
    """What writes. Whichever it is, as much of RAM holds data, so that as much has to be saved."""

    IDLE = "idle"
    TENTH = "10%"
    ALL = "all"
    HOT = "hot"

    def plan(self, stack: Stack, seed: int) -> WriterPlan:
        """The agent's orders on a stack."""
        if self is Writer.IDLE:
            return WriterPlan(_IDLE_PAGES * PAGE_BYTES * stack.vcpus, stack.vcpus, "random", seed, _IDLE_RATE)
        if self is Writer.TENTH:
            pages = int(stack.total_mib * MIB * _TENTH) // PAGE_BYTES // stack.vcpus * stack.vcpus
            return WriterPlan(pages * PAGE_BYTES, stack.vcpus, "random", seed)
        return stack.writer_plan("hot" if self is Writer.HOT else "random", seed)


def start(
    guest: Guest, stack: Stack, writer: Writer, seed: int, deadline: Deadline
) -> tuple[AgentStatus, AgentCounters]:
    """Fill the covered share of RAM, and let the writer write.

    Raises:
        SetupBroken: the guest has not so much memory.
        DeadlineExpired: it did not get through all pages in time.
    """
    plan = writer.plan(stack, seed)
    if writer in (Writer.IDLE, Writer.TENTH):
        _fill(guest, stack, plan.bytes >> 10, seed, deadline)
    return start_writers(guest, plan, deadline)


def _fill(guest: Guest, stack: Stack, needed_kib: int, seed: int, deadline: Deadline) -> None:
    """Have an agent write all of its pages and end; Linux leaves in free pages what was in them."""
    start_writers(guest, stack.writer_plan("sequential", seed), deadline)
    guest.agent.pause()
    guest.agent.quit()

    def freed() -> bool:
        for line in guest.shell.check("cat /proc/meminfo", deadline).splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) > needed_kib + _ROOM_KIB
        return True

    deadline.wait_for(freed, "The guest's memory being free again", interval=0.1)
