"""Check that a restored guest is the same guest, remembers all of its memory, and goes on."""

from __future__ import annotations

import time

from guest_images.agent.client import Agent, AgentStatus, VerifyReport
from harness.codes import Code
from harness.deadline import Deadline
from validators.checks import Problem, judged
from validators.verdict import T0, CheckResult

_STATE = "The restored guest is in the run state it had at T0."
_IDENTITY = "The restored guest is the same boot of the same guest."
_CLOCK = "The guest's clock goes on from T0, neither back nor ahead."
_MEMORY = "The agent finds all of its memory as its step counts imply."
_GOES_ON = "The writers go on."

# Heartbeat every 10 ms, and a busy TCG guest may be late with it.
_CLOCK_SLACK_SECONDS = 2.0
_MORE_STEPS = 200
_GOES_ON_SECONDS = 30.0


def check_run_state(state: str, at_t0: str) -> CheckResult:
    """Check that a guest is restored into the run state that it had at T0, as `query-status` names it."""
    problems = []
    if state != at_t0:
        problems.append(
            Problem(
                Code.RESTORED_RUN_STATE,
                f"The restored guest is '{state}', at T0 it was '{at_t0}'.",
                {"state": state, "before": at_t0},
            )
        )
    return judged("restored-state", _STATE, problems)


def check_restored_guest(
    agent: Agent, source: AgentStatus, t0: T0 | None, begun: float, slept: bool, deadline: Deadline
) -> list[CheckResult]:
    """Check a restored guest from inside.

    Args:
        agent: the agent in it.
        source: the agent's status in the source guest.
        t0: as found in the file, None where it was not.
        begun: `time.monotonic()` when the restore began.
        slept: whether the guest was suspended at T0.
        deadline: for all of it.

    Raises:
        SnapproofError: the guest does not answer.
    """
    status = agent.status()
    elapsed = time.monotonic() - begun
    agent.pause()
    report = agent.verify()
    agent.resume()
    return [
        _identity(status, source),
        _clock(status, source, t0, elapsed, slept),
        _memory(report, source, agent.status().errors),
        _goes_on(agent, deadline),
    ]


def _identity(status: AgentStatus, source: AgentStatus) -> CheckResult:
    problems = []
    if status.boot_id != source.boot_id:
        problems.append(
            Problem(
                Code.RESTORED_BOOT_ID,
                f"The restored guest has boot id {status.boot_id}, the source had {source.boot_id}.",
            )
        )
    if status.nonce != source.nonce:
        problems.append(
            Problem(Code.RESTORED_AGENT, "The restored guest runs another agent than the source did.")
        )
    if status.state != "running":
        problems.append(
            Problem(
                Code.RESTORED_WRITERS_STATE,
                f"The restored guest's writers are '{status.state}', at T0 they were running.",
                {"state": status.state},
            )
        )
    return judged("restored-identity", _IDENTITY, problems)


def _clock(
    status: AgentStatus, source: AgentStatus, t0: T0 | None, elapsed: float, slept: bool
) -> CheckResult:
    if t0 is None:
        unknown = Problem(Code.RESTORED_NO_T0, "The guest's time at T0 was not found in the file.")
        return judged("restored-clock", _CLOCK, [unknown])
    ran = (status.monotonic_ns - t0.monotonic_ns) / 1e9
    offset = (status.realtime_ns - status.monotonic_ns) - (source.realtime_ns - source.monotonic_ns)
    problems = []
    if ran < 0:
        problems.append(
            Problem(
                Code.RESTORED_CLOCK_BACK, f"The restored guest's clock went back by {-ran:.3f} s behind T0."
            )
        )
    if ran > elapsed + _CLOCK_SLACK_SECONDS:
        problems.append(
            Problem(
                Code.RESTORED_CLOCK_AHEAD,
                f"The restored guest's clock is {ran:.3f} s past T0, {elapsed:.3f} s after its restore.",
            )
        )
    # While a guest sleeps, its hardware clock goes on, and is what it sets its wall clock by.
    if (-offset if slept else abs(offset)) / 1e9 > _CLOCK_SLACK_SECONDS:
        problems.append(
            Problem(
                Code.RESTORED_WALL_CLOCK,
                f"The restored guest's wall clock moved by {offset / 1e9:.3f} s against its uptime.",
            )
        )
    return judged("restored-clock", _CLOCK, problems, {"guest_ran_seconds": round(ran, 3)})


def _memory(report: VerifyReport, source: AgentStatus, found_by_writers: int) -> CheckResult:
    problems = [
        Problem(
            Code.RESTORED_WRONG_PAGE,
            f"In the restored guest page {found['index']} of thread {found['thread']} (guest page frame "
            f"{found['pfn']:#x}) holds generation {found['found_generation']} instead of "
            f"{found['expected_generation']}.",
        )
        for found in report.mismatches
    ]
    if found_by_writers:
        # They check each page before they overwrite it, and by now they may have overwritten it.
        problems.append(
            Problem(
                Code.RESTORED_OVERWRITTEN_PAGE,
                f"The writers found {found_by_writers} wrong pages when they came to overwrite them.",
            )
        )
    if report.mismatch_count and not problems:
        sentence = f"{report.mismatch_count} pages are wrong in the restored guest."
        problems.append(Problem(Code.RESTORED_WRONG_PAGE, sentence))
    if report.pages_checked < source.data_pages:
        problems.append(
            Problem(
                Code.RESTORED_UNCHECKED_PAGE,
                f"Only {report.pages_checked} of {source.data_pages} pages could be checked.",
            )
        )
    facts: dict[str, int | float | str] = {
        "pages": report.pages_checked,
        "checksums": " ".join(report.checksums),
    }
    return judged("restored-memory", _MEMORY, problems, facts)


def _goes_on(agent: Agent, deadline: Deadline) -> CheckResult:
    before = agent.status()
    limit = deadline.at_most(_GOES_ON_SECONDS)
    while True:
        after = agent.status()
        least = min(now - then for now, then in zip(after.steps, before.steps, strict=True))
        if least >= _MORE_STEPS or limit.expired:
            break
        limit.nap(0.05)
    problems = []
    if least < _MORE_STEPS:
        problems.append(
            Problem(
                Code.RESTORED_WRITERS_STALLED,
                f"A writer made only {least} steps in {limit.seconds:.0f} s after the restore.",
            )
        )
    return judged("restored-goes-on", _GOES_ON, problems, {"steps": sum(after.steps) - sum(before.steps)})
