"""Lists which reproducers of known issues each profile runs."""

from __future__ import annotations

from tests_functional.lib.known_issues import load_known_issues
from tests_functional.lib.profile_row import ANY_GUEST, PREMERGE, SMALL, ProfileRow

_FINDING = "findings/test_findings.py:Findings.test_reproducer"

ROWS = tuple(
    ProfileRow(
        f"findings.{issue.id.lower()}",
        _FINDING,
        issue.title,
        {**SMALL, "issue": issue.id},
        needs=(),
        profiles=PREMERGE if issue.id == "F2" else (),
        # A reproducer starts its own QEMUs, without a guest.
        kinds=ANY_GUEST,
    )
    for issue in load_known_issues()
)
