"""Lists which refusal tests each profile runs: migration options, and hosts without userfaultfd."""

from __future__ import annotations

from tests_functional.lib.profile_row import ANY_GUEST, PREMERGE, SMALL, ProfileRow
from tests_functional.refusals.uffd_restrictions import UFFD_RESTRICTIONS

_REFUSALS = "refusals/test_refusals.py:Refusals"

ROWS = (
    ProfileRow(
        "refusals.capabilities",
        f"{_REFUSALS}.test_capabilities",
        "a save with an accepted combination must be right, or users notice only when they restore",
        SMALL,
        seconds=900,
        kinds=ANY_GUEST,
    ),
    ProfileRow(
        "refusals.parameters",
        f"{_REFUSALS}.test_parameters",
        "parameters are checked for few combinations, and some change how pages are saved",
        SMALL,
        seconds=1800,
        kinds=ANY_GUEST,
    ),
    *(
        ProfileRow(
            f"refusals.no-userfaultfd-{kind}",
            f"{_REFUSALS}.test_denied",
            restriction.reason,
            {**SMALL, "kind": kind},
            profiles=PREMERGE if kind == "seccomp-eperm" else (),
            kinds=ANY_GUEST,
        )
        for kind, restriction in UFFD_RESTRICTIONS.items()
    ),
)
