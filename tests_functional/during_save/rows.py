"""Lists which tests of things done while RAM is saved each profile runs."""

from __future__ import annotations

from collections.abc import Mapping

from tests_functional.during_save.afterwards import AFTERWARDS
from tests_functional.during_save.things import THINGS
from tests_functional.lib.profile_row import ANY_GUEST, PREMERGE, QUICK_GUEST, ProfileRow

_DURING_SAVE = "during_save/test_during_save.py:DuringSave"

_GUEST: Mapping[str, str | int | float] = {"ram_mib": 64, "coverage": 0.6, "guest": QUICK_GUEST}

ROWS = (
    *(
        ProfileRow(
            f"during-save.{name}",
            f"{_DURING_SAVE}.test_thing",
            thing.reason,
            {**_GUEST, "thing": name},
            profiles=PREMERGE if name == "stop-cont" else (),
            kinds=ANY_GUEST,
        )
        for name, thing in THINGS.items()
    ),
    *(
        ProfileRow(
            f"during-save.{name}",
            f"{_DURING_SAVE}.test_afterwards",
            thing.reason,
            {**_GUEST, "thing": name},
            kinds=ANY_GUEST,
        )
        for name, thing in AFTERWARDS.items()
    ),
)
