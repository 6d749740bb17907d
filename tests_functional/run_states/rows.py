"""Lists which tests of guests that stand still each profile runs."""

from __future__ import annotations

from tests_functional.lib.profile_row import ANY_GUEST, LINUX, PREMERGE, SMALL, ProfileRow
from tests_functional.run_states.states import RUN_STATES

_RUN_STATES = "run_states/test_run_states.py:RunStates"
_ITS_KERNEL = "a guest suspends itself, and wakes up, through its kernel"

ROWS = (
    *(
        ProfileRow(
            f"run-states.{name}",
            f"{_RUN_STATES}.test_state",
            state.reason,
            {**SMALL, "state": name},
            profiles=PREMERGE if name == "paused" else (),
            kinds=LINUX if name == "suspended" else ANY_GUEST,
            why_linux=_ITS_KERNEL if name == "suspended" else "",
        )
        for name, state in RUN_STATES.items()
    ),
    ProfileRow(
        "run-states.prelaunch",
        f"{_RUN_STATES}.test_never_started",
        "management layers make every guest with -S and start it later",
        SMALL,
        kinds=ANY_GUEST,
    ),
)
