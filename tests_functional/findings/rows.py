"""Lists which reproducers of known issues each profile runs."""

from __future__ import annotations

from guest_images.catalogue import BARE_GUESTS
from tests_functional.lib.known_issues import KnownIssue, load_known_issues
from tests_functional.lib.profile_row import ANY_GUEST, PREMERGE, SMALL, ProfileRow

_FINDING = "findings/test_findings.py:Findings.test_reproducer"


def _parameters(issue: KnownIssue) -> dict[str, str | int | float]:
    """Return the parameters of an issue's row: a guest whose QEMU can show it, which is not booted."""
    guest = next((spec.name for spec in BARE_GUESTS if spec.architecture.name in issue.architectures), "")
    return {**SMALL, "issue": issue.id, **({"guest": guest} if guest else {})}


ROWS = tuple(
    ProfileRow(
        f"findings.{issue.id.lower()}",
        _FINDING,
        issue.title,
        _parameters(issue),
        needs=(),
        profiles=PREMERGE if issue.id == "F2" else (),
        # A reproducer starts its own QEMUs, without a guest.
        kinds=ANY_GUEST,
    )
    for issue in load_known_issues()
    if issue.reproduce
)
