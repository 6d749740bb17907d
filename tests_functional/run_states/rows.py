"""Lists which tests of guests that stand still each profile runs."""

from __future__ import annotations

from tests_functional.lib.profile_row import ANY_GUEST, LINUX, PREMERGE, QUICK_GUEST, SMALL, ProfileRow
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
    ProfileRow(
        "run-states.woken",
        f"{_RUN_STATES}.test_woken",
        "a guest may be woken up at any time, which resets its machine while RAM is saved",
        {"ram_mib": 64, "coverage": 0.6, "guest": QUICK_GUEST},
        kinds=ANY_GUEST,
    ),
    ProfileRow(
        "run-states.woken-control",
        f"{_RUN_STATES}.test_asleep_control",
        "an ordinary save of the same guest tells what is a matter of background snapshots",
        {"ram_mib": 64, "coverage": 0.6, "guest": QUICK_GUEST},
        kinds=ANY_GUEST,
    ),
    ProfileRow(
        "run-states.woken-linux",
        f"{_RUN_STATES}.test_woken",
        "the same with a guest that goes on where it was when it fell asleep",
        SMALL,
        seconds=600,
        why_linux=_ITS_KERNEL,
    ),
)
