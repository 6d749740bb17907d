"""Rows of the profiles: refusals, and options that QEMU accepts beside a background snapshot."""

from __future__ import annotations

from tests_functional.lib.profile_row import PREMERGE, SMALL, ProfileRow
from tests_functional.refusals.uffd_restrictions import UFFD_RESTRICTIONS

_REFUSALS = "refusals/test_refusals.py:Refusals"

ROWS = (
    ProfileRow(
        "refusals.capabilities",
        f"{_REFUSALS}.test_capabilities",
        "what QEMU accepts together it must do right; users find out too late otherwise",
        SMALL,
        seconds=900,
    ),
    ProfileRow(
        "refusals.parameters",
        f"{_REFUSALS}.test_parameters",
        "parameters are checked for few combinations, and some change how pages are saved",
        SMALL,
        seconds=1800,
    ),
    *(
        ProfileRow(
            f"refusals.no-userfaultfd-{kind}",
            f"{_REFUSALS}.test_denied",
            restriction.reason,
            {**SMALL, "kind": kind},
            profiles=PREMERGE if kind == "seccomp-eperm" else (),
        )
        for kind, restriction in UFFD_RESTRICTIONS.items()
    ),
)
