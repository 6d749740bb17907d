"""The guest agent as seen from the host: commands over SSH, counters straight from guest RAM."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from guest_images.agent.format import CONTROL_MAGIC, THREAD_MAGIC
from harness.deadline import Deadline
from harness.errors import SetupBroken
from harness.machine import Machine
from harness.ram import ramblocks, read_populated
from harness.ssh import GuestShell

_PAGE_BYTES = 4096
# Words of a thread page, see docs/agent-format.md.
_NONCE_WORD, _THREAD_WORD, _STEPS_WORD = 1, 2, 4
# In ns.
_MAX_STALL_WORD, _MAX_GAP_WORD = 8, 10
_LONG_GAPS_WORD, _LONG_GAP_WORD, _LONG_GAPS_KEPT = 11, 16, 16
_CONTROL_MONOTONIC_WORD = 8
_VERIFY_SECONDS = 120.0


@dataclass(frozen=True)
class WriterPlan:
    """What the agent is to write.

    Attributes:
        bytes: size of the written region.
        threads: writer threads, one per vCPU.
        pattern: one of guest_images.agent.format.PATTERNS.
        seed: of the random order.
        rate: pages per second and thread, 0 for as fast as it can.
    """

    bytes: int
    threads: int = 1
    pattern: str = "random"
    seed: int = 1
    rate: int = 0


@dataclass(frozen=True)
class AgentStatus:
    """The agent's own account.

    Attributes:
        boot_id: the guest kernel's boot id.
        monotonic_ns: guest CLOCK_MONOTONIC in ns.
        realtime_ns: guest CLOCK_REALTIME in ns.
        steps: page writes completed, per thread.
        errors: pages found wrong before they were overwritten, over all threads.
        data_pages: pages it writes.
        max_stall_us: longest single page write since the statistics were reset, in microseconds.
        max_gap_us: longest time from the end of one page write to that of the next, in microseconds.
        histogram: page writes by duration; bucket b counts [2^b, 2^(b+1)) microseconds.
        nonce: identifies this agent's pages.
        state: `idle`, `running` or `paused`.
    """

    boot_id: str
    monotonic_ns: int
    realtime_ns: int
    steps: tuple[int, ...]
    errors: int
    data_pages: int
    max_stall_us: int
    max_gap_us: int
    histogram: tuple[int, ...]
    nonce: int
    state: str


@dataclass(frozen=True)
class LongGap:
    """A time in which a writer made no step, of 50 ms or more.

    Attributes:
        end: the guest's CLOCK_MONOTONIC at its end, in seconds.
        seconds: its length.
    """

    end: float
    seconds: float


@dataclass(frozen=True)
class VerifyReport:
    """What the agent found when it checked all of its memory.

    Attributes:
        pages_checked: pages compared with what the step counts imply.
        mismatch_count: pages that differ.
        mismatches: the first of them, each as the agent describes it.
        checksums: one per thread, over all of its pages.
    """

    pages_checked: int
    mismatch_count: int
    mismatches: tuple[Mapping[str, Any], ...]
    checksums: tuple[str, ...]


class AgentClient:
    """Drives the agent of one guest over its SSH connection."""

    def __init__(self, shell: GuestShell, command: str) -> None:
        """Drive the agent that `command` calls in the guest's shell."""
        self._shell = shell
        self._agent = command

    def serve(self, plan: WriterPlan, guest_ram_bytes: int, deadline: Deadline) -> None:
        """Start the agent and have it allocate its region; it does not write yet.

        Raises:
            SetupBroken: the guest has not so much memory, or does not let the agent lock it.
        """
        started = self._shell.run(
            f"{self._agent} serve --bytes {plan.bytes} --threads {plan.threads} --pattern {plan.pattern} "
            f"--seed {plan.seed} --rate {plan.rate} --guest-ram {guest_ram_bytes}",
            deadline,
        )
        if started.exit_code:
            why = started.stderr.strip() or f"exit code {started.exit_code}."
            raise SetupBroken(
                f"The writers cannot start in the guest: {why} (A guest of your own gets more RAM beside the "
                "writers by --guest-needs.)"
            )
        if not self._command("status")["locked"]:
            raise SetupBroken(
                "The guest does not let the agent lock its memory, so pages could move or be swapped out; it "
                "must run as root without a limit on locked memory."
            )

    def start(self) -> None:
        """Let the writers run."""
        self._command("start")

    def pause(self) -> None:
        """Park the writers, each between two page writes."""
        self._command("pause")

    def resume(self) -> None:
        """Let parked writers go on."""
        self._command("resume")

    def reset_stats(self) -> None:
        """Clear the stall histogram and its maximum."""
        self._command("reset-stats")

    def quit(self) -> None:
        """End the agent; what it wrote stays in memory that the guest's kernel may give to others."""
        self._command("quit")

    def corrupt(self, thread: int, index: int) -> None:
        """Flip one bit of one page: a planted fault."""
        self._command(f"corrupt {thread} {index}")

    def status(self) -> AgentStatus:
        """Counters, clocks and the stall histogram, now."""
        answer = self._command("status")
        threads = answer["threads"]
        return AgentStatus(
            boot_id=str(answer["boot_id"]),
            monotonic_ns=int(answer["monotonic_ns"]),
            realtime_ns=int(answer["realtime_ns"]),
            steps=tuple(int(thread["steps"]) for thread in threads),
            errors=sum(int(thread["errors"]) for thread in threads),
            data_pages=int(answer["data_pages"]),
            max_stall_us=max(int(thread["max_stall_us"]) for thread in threads),
            max_gap_us=max(int(thread["max_gap_us"]) for thread in threads),
            histogram=tuple(sum(bucket) for bucket in zip(*(t["hist"] for t in threads), strict=True)),
            nonce=int(answer["nonce"]),
            state=str(answer["state"]),
        )

    def verify(self) -> VerifyReport:
        """Check all pages against the step counts; the writers must be parked."""
        answer = self._command("verify", _VERIFY_SECONDS)
        return VerifyReport(
            pages_checked=int(answer["pages_checked"]),
            mismatch_count=int(answer["mismatch_count"]),
            mismatches=tuple(answer["mismatches"]),
            checksums=tuple(str(thread["checksum"]) for thread in answer["threads"]),
        )

    def _command(self, command: str, seconds: float = 40.0) -> dict[str, Any]:
        text = self._shell.check(f"{self._agent} ctl {command}", Deadline(seconds))
        try:
            answer = json.loads(text)
        except ValueError as error:
            raise SetupBroken(f"The agent answered '{command}' with something that is not JSON.") from error
        if not isinstance(answer, dict) or "error" in answer:
            raise SetupBroken(f"The agent refused '{command}': {answer}.")
        return answer


class AgentWindow:
    """The writers' step counters read from QEMU's memory, without disturbing the guest.

    An SSH exchange takes a tenth of a second and needs the guest's help; this takes microseconds,
    so it can say how far the writers were at the instant a save completed.
    """

    def __init__(self, machine: Machine, nonce: int) -> None:
        """Find the thread pages of the agent with this nonce.

        Raises:
            SetupBroken: they are not in guest RAM.
            MachineryMissing: the host does not let us read QEMU's memory.
        """
        self._path = Path(f"/proc/{machine.process.pid}/mem")
        threads: dict[int, int] = {}
        control: set[int] = set()
        for block in ramblocks(machine):
            if block.host_address:
                for address, data in read_populated(machine, block):
                    threads.update(_thread_pages(data, address, nonce))
                    control.update(_control_pages(data, address, nonce))
        if not threads or not control:
            raise SetupBroken("The agent's thread and control pages were not found in guest RAM.")
        self.addresses = [threads[thread] for thread in sorted(threads)]
        """Of the thread pages, in QEMU's own address space, by thread."""
        self.control = min(control)
        """Of the control page, likewise."""

    def steps(self) -> tuple[int, ...]:
        """Page writes completed by each writer thread, now."""
        return self._words(_STEPS_WORD)

    def standstill(self) -> tuple[float, float]:
        """Longest single page write, and longest time from one to the next, of all writers, in seconds.

        Since their statistics were last reset.
        """
        return max(self._words(_MAX_STALL_WORD)) / 1e9, max(self._words(_MAX_GAP_WORD)) / 1e9

    def long_gaps(self) -> list[LongGap] | None:
        """All times of 50 ms and more in which a writer made no step, since their statistics were reset.

        Returns:
            None where there were more than the agent keeps.
        """
        found = []
        for address in self.addresses:
            count = self._word(address, _LONG_GAPS_WORD)
            if count > _LONG_GAPS_KEPT:
                return None
            words = [self._word(address, _LONG_GAP_WORD + number) / 1e9 for number in range(2 * count)]
            found += [LongGap(end, length) for end, length in zip(words[::2], words[1::2], strict=True)]
        return found

    def guest_clock(self) -> float:
        """The guest's CLOCK_MONOTONIC in seconds, as told last: 10 ms ago at most in a guest that runs."""
        return self._word(self.control, _CONTROL_MONOTONIC_WORD) / 1e9

    def _words(self, number: int) -> tuple[int, ...]:
        """One word of each thread page, now."""
        return tuple(self._word(address, number) for address in self.addresses)

    def _word(self, address: int, number: int) -> int:
        with self._path.open("rb", buffering=0) as memory:
            return int.from_bytes(os.pread(memory.fileno(), 8, address + number * 8), "little")


def _thread_pages(data: bytes, address: int, nonce: int) -> dict[int, int]:
    """Thread number to host address for the thread pages in a chunk of RAM."""
    words, hits = _pages_of(data, THREAD_MAGIC, nonce)
    return {int(words[hit, _THREAD_WORD]): address + hit * _PAGE_BYTES for hit in hits}


def _control_pages(data: bytes, address: int, nonce: int) -> list[int]:
    """Host addresses of the control pages in a chunk of RAM."""
    return [address + hit * _PAGE_BYTES for hit in _pages_of(data, CONTROL_MAGIC, nonce)[1]]


def _pages_of(data: bytes, magic: int, nonce: int) -> tuple[npt.NDArray[np.uint64], list[int]]:
    """A chunk of RAM as words of pages, and which of them are the agent's of one kind."""
    words = np.frombuffer(data[: len(data) // _PAGE_BYTES * _PAGE_BYTES], dtype="<u8").reshape(-1, 512)
    return words, np.flatnonzero((words[:, 0] == magic) & (words[:, _NONCE_WORD] == nonce)).tolist()
