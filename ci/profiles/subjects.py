"""Where each subject's tests are, and the entries that more than one profile takes from a subject."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from ci.profiles.entry import Entry
from tests_functional.scenarios.hindrances import HINDRANCES
from tests_functional.scenarios.planted import LIVE_FAULTS

SNAPSHOT_FLOWS = "snapshot/test_flows.py:SnapshotFlows"
OFFLINE_TESTS = "offline/test_extract.py:Extraction"
REPETITION_TESTS = "repetition/test_repetition.py:Repetition"
REFUSAL_TESTS = "refusals/test_refusals.py:Refusals"
VERSION_TESTS = "versions/test_versions.py:Versions"
RUN_STATE_TEST = "run_states/test_run_states.py:RunStates.test_state"
DISTURBANCE_TEST = "snapshot/test_disturbances.py:Disturbances.test_disturbance"
FINDING_TEST = "findings/test_findings.py:Findings.test_reproducer"
MEMORY_TESTS = "memory/test_memory.py:Memory"
_FAILURE_TESTS = "failures/test_failures.py:Failures"
_PLANTED_TEST = "planted/test_planted_faults.py:PlantedFaults.test_fault"

SMALL: Mapping[str, str | int | float] = {"ram_mib": 256, "coverage": 0.7}
"""Parameters of a guest for tests that need many snapshots or guests rather than a large one."""


class _Kind(Protocol):
    """A kind of guest RAM, whatever is special about it."""

    @property
    def reason(self) -> str:
        """Why it is tested."""


def memories(test: str, kinds: Mapping[str, _Kind], **parameters: float) -> tuple[Entry, ...]:
    """The tests of some kinds of guest RAM, by the method that tests such."""
    return tuple(
        Entry(f"memory.{name}", f"{MEMORY_TESTS}.{test}", kind.reason, {**SMALL, **parameters, "kind": name})
        for name, kind in kinds.items()
    )


FAILURE_REASONS = {
    "sinks": "a sink that closes, fills, stalls or fails is the commonest end of a snapshot",
    "cancel": "cancelling is the first thing a user does when a snapshot takes too long",
    "descriptors": "each step of a save opens files, and each may find none left",
    "calls": "each call to the kernel can fail, and each is another path through QEMU's clean-up",
    "kill": "whoever restarts QEMU must not take half a file for a snapshot",
}


def failures(kind: str) -> Entry:
    """The test of one kind of failure; every guest that does not survive a case is booted again."""
    reference = f"{_FAILURE_TESTS}.test_{kind}"
    return Entry(f"failures.{kind}", reference, FAILURE_REASONS[kind], SMALL, seconds=1800)


def planted(fault: str) -> Entry:
    """The test that plants one fault, which a green run of anything else relies on."""
    name = f"planted.{fault.replace('_', '-')}"
    return Entry(name, _PLANTED_TEST, LIVE_FAULTS[fault].reason, {"fault": fault})


def denied(kind: str) -> Entry:
    """The test of one way in which a host keeps userfaultfd from QEMU."""
    reference = f"{REFUSAL_TESTS}.test_denied"
    reason = HINDRANCES[kind].reason
    return Entry(f"refusals.no-userfaultfd-{kind}", reference, reason, {**SMALL, "kind": kind})
