"""What goes wrong or is declined: failures, refusals, run states, planted faults, and the findings."""

from __future__ import annotations

from ci.profiles.entry import SMALL, Entry
from tests_functional.scenarios.hindrances import HINDRANCES
from tests_functional.scenarios.known_issues import load_known_issues
from tests_functional.scenarios.planted import LIVE_FAULTS
from tests_functional.scenarios.run_states import RUN_STATES

_FAILURES = "failures/test_failures.py:Failures"
_REFUSALS = "refusals/test_refusals.py:Refusals"
_RUN_STATE = "run_states/test_run_states.py:RunStates.test_state"
_PLANTED = "planted/test_planted_faults.py:PlantedFaults.test_fault"
_FINDING = "findings/test_findings.py:Findings.test_reproducer"

_FAILURE_REASONS = {
    "sinks": "a sink that closes, fills, stalls or fails is the commonest end of a snapshot",
    "cancel": "cancelling is the first thing a user does when a snapshot takes too long",
    "descriptors": "each step of a save opens files, and each may find none left",
    "calls": "each call to the kernel can fail, and each is another path through QEMU's clean-up",
    "kill": "whoever restarts QEMU must not take half a file for a snapshot",
}

TROUBLE = (
    # Every guest that does not survive a case is booted again.
    *(
        Entry(f"failures.{kind}", f"{_FAILURES}.test_{kind}", reason, SMALL, seconds=1800)
        for kind, reason in _FAILURE_REASONS.items()
    ),
    Entry(
        "refusals.capabilities",
        f"{_REFUSALS}.test_capabilities",
        "what QEMU accepts together it must do right; users find out too late otherwise",
        SMALL,
        seconds=900,
    ),
    Entry(
        "refusals.parameters",
        f"{_REFUSALS}.test_parameters",
        "parameters are checked for few combinations, and some change how pages are saved",
        SMALL,
        seconds=1800,
    ),
    *(
        Entry(
            f"refusals.no-userfaultfd-{kind}",
            f"{_REFUSALS}.test_denied",
            hindrance.reason,
            {**SMALL, "kind": kind},
        )
        for kind, hindrance in HINDRANCES.items()
    ),
    *(
        Entry(
            f"run-states.{name}",
            _RUN_STATE,
            state.reason,
            {**SMALL, "state": name},
        )
        for name, state in RUN_STATES.items()
    ),
    # A green run of anything else relies on these.
    *(
        Entry(f"planted.{fault.replace('_', '-')}", _PLANTED, planted.reason, {"fault": fault})
        for fault, planted in LIVE_FAULTS.items()
    ),
    *(
        Entry(f"findings.{issue.id.lower()}", _FINDING, issue.title, {**SMALL, "issue": issue.id}, needs=())
        for issue in load_known_issues()
    ),
)
