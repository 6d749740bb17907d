"""Lists which tests of paused and suspended guests each profile runs."""

from __future__ import annotations

from tests_functional.lib.profile_row import ANY_GUEST, LINUX, PREMERGE, SMALL, ProfileRow
from tests_functional.run_states.stopped_guests import RUN_STATES

_RUN_STATE = "run_states/test_run_states.py:RunStates.test_state"

ROWS = tuple(
    ProfileRow(
        f"run-states.{name}",
        _RUN_STATE,
        state.reason,
        {**SMALL, "state": name},
        profiles=PREMERGE if name == "paused" else (),
        kinds=ANY_GUEST if name == "paused" else LINUX,
        why_linux="" if name == "paused" else "a guest suspends itself, and wakes up, through its kernel",
    )
    for name, state in RUN_STATES.items()
)
