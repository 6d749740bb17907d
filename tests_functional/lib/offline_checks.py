"""Checks that the offline oracles judged all pages of a snapshot, so that a skipped oracle is not green."""

from __future__ import annotations

from guest_images.agent.client import AgentStatus
from harness.codes import Code
from harness.qemu.architectures import TARGET_PAGE_BYTES
from harness.status import Status
from tests_functional.lib.save import Snapshot
from validators.checks import Problem, judged
from validators.verdict import CheckResult, Verdict

_ORACLES = "Every oracle that applies looked at all of its pages."


def judge_oracles(offline: Verdict, snapshot: Snapshot, source: AgentStatus) -> CheckResult:
    """Check that the offline oracles judged all pages that this snapshot must hold.

    Without this check, the write-order oracle would skip a file that has lost the agent's pages.
    """
    problems = []
    order = offline.check("write-order")
    if order is None or order.status is Status.SKIP:
        reason = order.reason if order else "it did not run"
        problems.append(
            Problem(
                Code.ORACLES_NO_AGENT,
                f"The guest's agent was writing, but its pages were not found in the file: {reason}",
            )
        )
    elif order.status is Status.PASS and order.facts["pages verified"] != source.data_pages:
        problems.append(
            Problem(
                Code.ORACLES_AGENT_PAGES,
                f"The agent has {source.data_pages} pages, {order.facts['pages verified']} were verified.",
            )
        )
    if snapshot.golden:
        golden = offline.check("golden")
        expected = snapshot.golden.total_bytes // TARGET_PAGE_BYTES
        compared = golden.facts.get("pages compared", 0) if golden else 0
        if compared != expected:
            problems.append(
                Problem(
                    Code.ORACLES_GOLDEN_PAGES,
                    f"The golden image has {expected} pages, {compared} were compared.",
                )
            )
    return judged("oracles", _ORACLES, problems)
