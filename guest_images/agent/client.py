"""Commands for the guest's agent, given over SSH, and its replies."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from guest_images.agent.counters import AgentCounters
from harness.deadline import Deadline
from harness.errors import SetupBroken
from harness.guest.shell import GuestShell
from harness.qemu.machine import Machine

_VERIFY_SECONDS = 120.0


@dataclass(frozen=True)
class WriterPlan:
    """What the agent is to write.

    Attributes:
        bytes: size of the written region.
        threads: writer threads, one per vCPU.
        pattern: one of guest_images.agent.pages.PATTERNS.
        seed: of the random order.
        rate: pages per second and thread, 0 for as fast as it can.
        address: where the pages lie, guest-physical, 0 where the agent likes; for bare guests alone.
    """

    bytes: int
    threads: int = 1
    pattern: str = "random"
    seed: int = 1
    rate: int = 0
    address: int = 0


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


class Agent(Protocol):
    """The agent in one guest; scenarios and oracles know it by this alone.

    `AgentClient` goes through a shell in the guest, `BareAgent` through guest RAM.
    """

    def serve(self, plan: WriterPlan, guest_ram_bytes: int, deadline: Deadline) -> None:
        """Start the agent and have it lay out its region; it does not write yet.

        Raises:
            SetupBroken: the guest has not so much memory, or does not let the agent lock it.
        """

    def start(self) -> None:
        """Let the writers run."""

    def pause(self) -> None:
        """Park the writers, each between two page writes."""

    def resume(self) -> None:
        """Let parked writers go on."""

    def reset_stats(self) -> None:
        """Clear the stall histogram and its maximum."""

    def quit(self) -> None:
        """End the agent."""

    def corrupt(self, thread: int, index: int) -> None:
        """Flip one bit of one page: a planted fault."""

    def status(self) -> AgentStatus:
        """Return counters, clocks and the stall histogram as they are now.

        Raises:
            GuestUnreachable: the guest does not answer.
        """

    def verify(self) -> VerifyReport:
        """Check all pages against the step counts; the writers must be parked."""

    def counters(self, machine: Machine) -> AgentCounters:
        """Return the agent's counters in the memory of its QEMU.

        Raises:
            SetupBroken: they are not in guest RAM.
            MachineryMissing: the host does not let us read QEMU's memory.
        """


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
                f"The writers cannot start in the guest: {why} (--guest-needs gives the guest more "
                "RAM beside the writers, for devices that a wrapper of QEMU adds, say.)"
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
        """End the agent, which wipes its pages: from then on none in guest RAM is an agent's."""
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

    def counters(self, machine: Machine) -> AgentCounters:
        """Search guest RAM for the agent's counters."""
        return AgentCounters.find(machine, self.status().nonce)

    def _command(self, command: str, seconds: float = 40.0) -> dict[str, Any]:
        text = self._shell.check(f"{self._agent} ctl {command}", Deadline(seconds))
        try:
            answer = json.loads(text)
        except ValueError as error:
            raise SetupBroken(f"The agent answered '{command}' with something that is not JSON.") from error
        if not isinstance(answer, dict) or "error" in answer:
            raise SetupBroken(f"The agent refused '{command}': {answer}.")
        return answer
