"""Drives the agent of a bare guest through the mailbox in its control page; see docs/bare-guests.md."""

from __future__ import annotations

import random
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from guest_images.agent.client import AgentStatus, VerifyReport, WriterPlan
from guest_images.agent.counters import AgentCounters, CounterPage, CounterPages
from guest_images.agent.format import (
    CONTROL_MAGIC,
    HISTOGRAM_BUCKETS,
    MAILBOX_MAGIC,
    MISMATCH_WORDS,
    PAGE_BYTES,
    PAGE_WORDS,
    REPORT_MAGIC,
    WORD_BYTES,
    AgentState,
    BareCommand,
    BareResult,
    BesideArgument,
    ControlWord,
    MismatchWord,
    PageWord,
    ReportWord,
    ServeArgument,
    ThreadWord,
)
from guest_images.agent.pages import PATTERNS
from harness.deadline import Deadline
from harness.errors import SetupBroken
from harness.guest.shell import GuestUnreachable
from harness.process import last_line
from harness.qemu.architectures import MACHINE_TYPES
from harness.qemu.configuration import type_of
from harness.qemu.guest_memory import GuestMemory, PageProtected, PhysicalMemory, QemuMemoryGone
from harness.qemu.machine import Machine
from harness.qemu.monitor_memory import physical_memory
from harness.qemu.ram import ramblocks

# What a bare guest leaves to firmware at the end of RAM; see bare/memory.c.
_LEFT_AT_END_BYTES = 4 << 20
# As long as a command over SSH gets, and a check of all memory.
_COMMAND_SECONDS = 40.0
_VERIFY_SECONDS = 120.0
_POLL_SECONDS = 0.0005
# The counter is measured over this time, each end of it by the fastest of some exchanges.
_MEASURED_SECONDS = 0.03
_EXCHANGES = 8

# The thread page of a writer is followed by its report page, and that by the next writer's.
_PAGES_EACH = 2

# QEMU 10.0 hw/i386/: RAM that no machine type of x86 splits, for those whose rule is not known here.
_SURE_LOW_RAM = 2 << 30

_REFUSALS = {
    BareResult.NO_COMMAND: "it does not know that command",
    BareResult.WRONG_STATE: "it is in the wrong state for it",
    BareResult.WRONG_ARGUMENT: "a number is out of its range",
    BareResult.NO_MEMORY: "guest RAM is too small for that plan",
    BareResult.NO_STATE: "its processor or machine has no such state, or refuses it",
}


@dataclass(frozen=True)
class _Instant:
    """One moment on both clocks.

    Attributes:
        host_ns: CLOCK_MONOTONIC of the host.
        ticks: the counter of the guest's processor.
    """

    host_ns: int
    ticks: int


class StateRefused(SetupBroken):
    """The guest's processor or machine has no state beside RAM, or refuses to store or load it."""


def free_ram_at(machine: str, ram_bytes: int) -> int:
    """Return where the last 4 MiB of a bare guest's RAM begin, which nobody uses once it has booted.

    The arguments are those of `ram_windows`. The address counts from the start of RAM, which is 0 on x86.
    """
    windows = ram_windows(machine, ram_bytes)
    low, high_start = windows[ServeArgument.LOW_RAM], windows[ServeArgument.HIGH_START]
    end = high_start + ram_bytes - low if high_start else low
    return end - _LEFT_AT_END_BYTES


class BareAgent:
    """The agent of a guest that has nothing else; an `Agent`.

    Everything is read and written in guest RAM, so it costs microseconds and takes no processor time of the
    guest; only a command has to be picked up by the guest's first vCPU, between two of its steps.
    """

    def __init__(self, machine: Machine, control_page: int, memory: PhysicalMemory | None = None) -> None:
        """Drive the agent in the guest of a machine.

        Args:
            machine: QEMU.
            control_page: guest-physical address of the agent's control page.
            memory: the way to guest RAM; by default QEMU's own memory, else the monitor.
        """
        self._machine = machine
        self._memory = memory or physical_memory(machine)
        self._control_page = control_page

    def wait_booted(self, deadline: Deadline) -> None:
        """Wait until the guest's agent takes commands.

        Raises:
            GuestUnreachable: it does not in time, or QEMU has ended.
        """
        while not self._is_booted():
            if deadline.expired:
                raise GuestUnreachable(f"The bare guest did not boot within {deadline.seconds:.0f} s.")
            deadline.nap(_POLL_SECONDS)

    def _is_booted(self) -> bool:
        try:
            if self._control(ControlWord.MAILBOX) == MAILBOX_MAGIC:
                return True
        except QemuMemoryGone as error:
            raise self._ended("had booted") from error
        if not self._machine.alive():
            raise self._ended("had booted")
        return False

    def _ended(self, what: str) -> GuestUnreachable:
        """Return the error for a QEMU that ended before the guest had done something."""
        last = last_line(self._machine.evidence().log_tail).strip()
        words = f"; its last words: {last}" if last else ""
        return GuestUnreachable(f"QEMU ended before the bare guest {what}{words}.")

    def boot(self) -> int:
        """Return a number that each boot of the guest has for itself: the processor's counter then."""
        return self._control(ControlWord.BOOT_TICKS)

    def wait_answer(self, deadline: Deadline) -> None:
        """Wait until the agent answers, as a login waits for a guest that has one.

        Raises:
            GuestUnreachable: it does not in time.
        """
        self._command(BareCommand.TIME, deadline=deadline)

    def serve(self, plan: WriterPlan, guest_ram_bytes: int, deadline: Deadline) -> None:
        """Have the agent lay out its region; it does not write yet."""
        first = self._instant(deadline)
        time.sleep(_MEASURED_SECONDS)
        second = self._instant(deadline)
        ns_per_tick = ((second.host_ns - first.host_ns) << 32) // (second.ticks - first.ticks)
        since_boot_ns = (second.ticks - self._control(ControlWord.BOOT_TICKS)) * ns_per_tick >> 32
        arguments = {
            ServeArgument.NONCE: random.getrandbits(64),
            ServeArgument.PATTERN: PATTERNS.index(plan.pattern),
            ServeArgument.SEED: plan.seed,
            ServeArgument.THREADS: plan.threads,
            ServeArgument.BYTES: plan.bytes,
            ServeArgument.GUEST_RAM: guest_ram_bytes,
            ServeArgument.RATE: plan.rate,
            ServeArgument.NS_PER_TICK: ns_per_tick,
            ServeArgument.REALTIME_NS: time.time_ns() - since_boot_ns,
            ServeArgument.DATA: plan.address,
            **ram_windows(self._machine.config.machine, guest_ram_bytes),
        }
        self._command(BareCommand.SERVE, [arguments[name] for name in ServeArgument], deadline)

    def start(self) -> None:
        """Let the writers run."""
        self._command(BareCommand.RUN)

    def pause(self) -> None:
        """Park the writers, each between two page writes."""
        self._command(BareCommand.PAUSE)

    def resume(self) -> None:
        """Let parked writers go on."""
        self._command(BareCommand.RUN)

    def reset_stats(self) -> None:
        """Clear the stall histogram and its maximum."""
        self._command(BareCommand.RESET)

    def quit(self) -> None:
        """End the agent, which wipes its pages; another can be served."""
        self._command(BareCommand.QUIT)

    def corrupt(self, thread: int, index: int) -> None:
        """Flip one bit of one page: a planted fault."""
        self._command(BareCommand.CORRUPT, [thread, index, 0])

    def write_hole(self, thread: int, index: int) -> None:
        """Write to the page behind a page of pattern `sparse`, which nobody has touched before."""
        self._command(BareCommand.CORRUPT, [thread, index, 1])

    def put_beside_ram(self, place: int, value: int) -> None:
        """Store state that the machine keeps beside RAM; see bare/processor.h for what that is.

        Args:
            place: a guest-physical address, or the number of an entry.
            value: what to store, of which the state may have less than 64 bits.

        Raises:
            StateRefused: as it says.
        """
        self._command(BareCommand.PUT_BESIDE, [place, value])

    def get_beside_ram(self, place: int) -> int:
        """Return what `put_beside_ram` has stored last at a place.

        Raises:
            StateRefused: as it says.
        """
        self._command(BareCommand.GET_BESIDE, [place, 0])
        return self._control(ControlWord.ARGUMENTS, BesideArgument.VALUE)

    def status(self) -> AgentStatus:
        """Return counters, clocks and the stall histogram as they are now; the guest answers for it."""
        self._command(BareCommand.TIME)
        control = self._page(self._control_page)
        if control[PageWord.MAGIC] != CONTROL_MAGIC:
            raise SetupBroken("The bare agent has not been given a plan, so it has no status.")
        threads = [self._page(address) for address in self._thread_pages(control)]
        histograms = [page[ThreadWord.HISTOGRAM :][:HISTOGRAM_BUCKETS] for page in threads]
        return AgentStatus(
            boot_id=f"bare-{control[ControlWord.BOOT_TICKS]:016x}",
            monotonic_ns=control[ControlWord.MONOTONIC_NS],
            realtime_ns=control[ControlWord.REALTIME_NS],
            steps=tuple(page[ThreadWord.STEPS] for page in threads),
            errors=sum(page[ThreadWord.ERRORS] for page in threads),
            data_pages=control[ControlWord.DATA_PAGES],
            max_stall_us=max(page[ThreadWord.LONGEST_WRITE_NS] for page in threads) // 1000,
            max_gap_us=max(page[ThreadWord.LONGEST_GAP_NS] for page in threads) // 1000,
            histogram=tuple(sum(bucket) for bucket in zip(*histograms, strict=True)),
            nonce=control[PageWord.NONCE],
            state=AgentState(control[ControlWord.STATE]).name.lower(),
        )

    def verify(self) -> VerifyReport:
        """Check all pages against the step counts; the writers must be parked."""
        self._command(BareCommand.VERIFY, deadline=Deadline(_VERIFY_SECONDS))
        control = self._page(self._control_page)
        reports = [self._page(address + PAGE_BYTES) for address in self._thread_pages(control)]
        if any(page[PageWord.MAGIC] != REPORT_MAGIC for page in reports):
            raise SetupBroken("The bare agent has checked its memory, and yet left no report of it.")
        return VerifyReport(
            pages_checked=sum(page[ReportWord.PAGES] for page in reports),
            mismatch_count=sum(page[ReportWord.COUNT] for page in reports),
            mismatches=tuple(found for page in reports for found in _mismatches(page)),
            checksums=tuple(str(page[ReportWord.DATA_CHECKSUM]) for page in reports),
        )

    def counters(self, machine: Machine) -> AgentCounters:
        """Return the agent's counters, which need no search: the control page says where they are."""
        blocks = ramblocks(machine)
        memory = GuestMemory(machine)

        def place(address: int) -> CounterPage:
            host = memory.host_address(address)
            for block in blocks:
                if 0 <= host - block.host_address < block.used_bytes:
                    return CounterPage(block.idstr, host - block.host_address)
            raise SetupBroken(f"QEMU does not say in which RAMBlock guest RAM at {address:#x} lies.")

        control = self._page(self._control_page)
        threads = tuple(place(address) for address in self._thread_pages(control))
        return AgentCounters(machine, CounterPages(place(self._control_page), threads), blocks)

    def _instant(self, deadline: Deadline) -> _Instant:
        """Return one moment on both clocks: the fastest of some exchanges, in the middle of it."""
        found = []
        for _ in range(_EXCHANGES):
            before = time.monotonic_ns()
            self._command(BareCommand.TIME, deadline=deadline, poll=0.0)
            after = time.monotonic_ns()
            ticks = self._control(ControlWord.TICKS)
            found.append((after - before, _Instant((before + after) // 2, ticks)))
        return min(found, key=lambda one: one[0])[1]

    def _command(
        self,
        command: BareCommand,
        arguments: list[int] | None = None,
        deadline: Deadline | None = None,
        poll: float = _POLL_SECONDS,
    ) -> None:
        """Ask for a command and wait until it is carried out.

        Raises:
            GuestUnreachable: it was not in time. SetupBroken: the agent refused it.
        """
        try:
            self._carried_out(command, arguments or [], deadline or Deadline(_COMMAND_SECONDS), poll)
        except QemuMemoryGone as error:
            raise self._ended(f"had answered '{command.name}'") from error

    def _carried_out(self, command: BareCommand, arguments: list[int], limit: Deadline, poll: float) -> None:
        number = self._control(ControlWord.ANSWER) + 1
        self._put(ControlWord.ARGUMENTS, arguments, limit)
        self._put(ControlWord.COMMAND, [command], limit)
        self._put(ControlWord.REQUEST, [number], limit)
        while self._control(ControlWord.ANSWER) != number:
            if not self._machine.alive():
                raise self._ended(f"had answered '{command.name}'")
            if limit.expired:
                raise GuestUnreachable(
                    f"The bare guest did not answer '{command.name}' within {limit.seconds:.0f} s."
                )
            limit.nap(poll)
        result = BareResult(self._control(ControlWord.RESULT))
        if result is not BareResult.DONE:
            refused = StateRefused if result is BareResult.NO_STATE else SetupBroken
            raise refused(f"The bare agent refused '{command.name}': {_REFUSALS[result]}.")

    def _thread_pages(self, control: tuple[int, ...]) -> list[int]:
        """Return the address of each writer's thread page."""
        first, count = control[ControlWord.META], control[ControlWord.THREADS]
        return [first + number * _PAGES_EACH * PAGE_BYTES for number in range(count)]

    def _control(self, word: ControlWord, behind: int = 0) -> int:
        data = self._memory.read(self._control_page + (word + behind) * WORD_BYTES, WORD_BYTES)
        return int.from_bytes(data, "little")

    def _put(self, word: ControlWord, values: list[int], limit: Deadline) -> None:
        """Store words in the mailbox, once a background snapshot has saved its page.

        Raises:
            GuestUnreachable: the page stays protected.
        """
        data = struct.pack(f"<{len(values)}Q", *values)
        while data:
            try:
                self._memory.write(self._control_page + word * WORD_BYTES, data)
                break
            except PageProtected as error:
                if limit.expired:
                    raise GuestUnreachable(
                        f"The bare guest got no command within {limit.seconds:.0f} s: userfaultfd protects "
                        "its mailbox, so the guest cannot write there either."
                    ) from error
                limit.nap(_POLL_SECONDS)

    def _page(self, address: int) -> tuple[int, ...]:
        return struct.unpack(f"<{PAGE_WORDS}Q", self._memory.read(address, PAGE_BYTES))


def ram_windows(machine: str, ram_bytes: int) -> dict[ServeArgument, int]:
    """Return where guest RAM lies, as arguments of SERVE.

    Args:
        machine: the argument of `-machine`.
        ram_bytes: guest RAM.
    """
    found = [entry for entry in MACHINE_TYPES if entry.is_named(type_of(machine))]
    windows = found[0].ram_windows(ram_bytes) if found else [(0, _SURE_LOW_RAM)]
    low = min(windows[0][1], ram_bytes)
    high = windows[1][0] if len(windows) > 1 and ram_bytes > low else 0
    return {ServeArgument.LOW_RAM: low, ServeArgument.HIGH_START: high}


def _mismatches(page: tuple[int, ...]) -> list[Mapping[str, Any]]:
    """Return the wrong pages of a report page as the Linux agent describes them."""
    found: list[Mapping[str, Any]] = []
    for number in range(page[ReportWord.KEPT]):
        start = ReportWord.MISMATCHES + number * MISMATCH_WORDS
        words = {word: page[start + word] for word in MismatchWord}
        found.append(
            {
                "kind": "hole" if words[MismatchWord.HOLE] else "data",
                "thread": page[ReportWord.THREAD],
                "index": words[MismatchWord.INDEX],
                "pfn": words[MismatchWord.FRAME],
                "expected_generation": words[MismatchWord.EXPECTED_GENERATION],
                "found_generation": words[MismatchWord.FOUND_GENERATION],
                "expected_step": words[MismatchWord.EXPECTED_STEP],
                "found_step": words[MismatchWord.FOUND_STEP],
                "word": words[MismatchWord.WORD],
            }
        )
    return found
