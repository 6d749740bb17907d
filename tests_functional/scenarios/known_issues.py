"""The baseline of known issues: failed checks that one of them explains become XFAIL, new ones stay FAIL."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from harness.status import Status, worst
from tests_functional.scenarios.outcome import Outcome

BASELINE = Path(__file__).parent.parent / "known_issues.toml"


@dataclass(frozen=True)
class KnownIssue:
    """A real defect of QEMU or Linux, with evidence in docs/findings.md.

    Attributes:
        id: as in docs/findings.md.
        title: what happens, in one line.
        checks: shell patterns for the names of the checks that see it.
        probe: regular expression that recognises it in a violation's sentence.
        seen: prefixes of the versions that it was seen on, of QEMU's or, where `subject` is so, of Linux's.
        absent: prefixes of those that it was looked for on and not seen.
        sporadic: whether it depends on timing, so that a check that passes says nothing.
        reproduce: one command that needs only a QEMU and a shell.
        upstream: link to a report, "" where there is none.
        by_chance: whether even its reproducer depends on timing.
        may: shell patterns for the names of further checks, which see it or not, by chance.
        subject: whose defect it is, ``qemu`` or ``linux``: that of the host.
    """

    id: str
    title: str
    checks: tuple[str, ...]
    probe: str
    seen: tuple[str, ...]
    absent: tuple[str, ...]
    sporadic: bool
    reproduce: str
    upstream: str
    by_chance: bool = False
    subject: str = "qemu"
    may: tuple[str, ...] = ()

    def version(self, environment: Mapping[str, Any]) -> str:
        """Version of its subject in a result's environment, "" where that does not say."""
        return str(environment.get("host_kernel" if self.subject == "linux" else "qemu", ""))

    def explains(self, check: Mapping[str, Any], environment: Mapping[str, Any]) -> bool:
        """Whether all that a failed check found is this; never on a version known to be free of it."""
        violations = check.get("violations", [])
        return (
            not self.listed_absent(self.version(environment))
            and self.concerns(check)
            and len(violations) > 0
            and len(violations) == check.get("total", len(violations))
            and all(re.search(self.probe, violation["sentence"]) for violation in violations)
        )

    def expected(self, check: Mapping[str, Any], environment: Mapping[str, Any]) -> bool:
        """Whether this check should have failed there."""
        named = any(fnmatchcase(check["name"], pattern) for pattern in self.checks)
        return self.listed_seen(self.version(environment)) and not self.sporadic and named

    def listed_seen(self, version: str) -> bool:
        """Whether it was seen on that version of its subject."""
        return any(version.startswith(prefix) for prefix in self.seen)

    def listed_absent(self, version: str) -> bool:
        """Whether it was looked for on that version of its subject and not seen."""
        return any(version.startswith(prefix) for prefix in self.absent)

    def concerns(self, check: Mapping[str, Any]) -> bool:
        """Whether it can show in this check."""
        return any(fnmatchcase(check["name"], pattern) for pattern in (*self.checks, *self.may))


def load_known_issues(path: Path = BASELINE) -> tuple[KnownIssue, ...]:
    """The baseline file's issues."""
    entries = tomllib.loads(path.read_text(encoding="utf-8"))["issue"]
    lists = ("checks", "may", "seen", "absent")
    return tuple(
        KnownIssue(**{**entry, **{name: tuple(entry.get(name, ())) for name in lists}}) for entry in entries
    )


def with_known_issues(outcome: Outcome, issues: Sequence[KnownIssue]) -> Outcome:
    """The outcome with XFAIL for what the baseline explains, and XPASS for what it says would fail.

    Only checks count: a test that ended otherwise (ERROR, MISS, a crash outside of any check) stays as it is.
    """
    if (outcome.status is not Status.FAIL and outcome.status is not Status.PASS) or not outcome.checks:
        return outcome
    checks = [_judge(check, issues, outcome.environment) for check in outcome.checks]
    statuses = [Status(check["status"]) for check in checks]
    status = worst(statuses) or outcome.status
    if statuses == [Status(check["status"]) for check in outcome.checks]:
        return outcome
    titles = {issue.id: issue.title for issue in issues}
    shown, absent = (_named(checks, titles, wanted) for wanted in (Status.XFAIL, Status.XPASS))
    first = next((check for check in checks if Status(check["status"]) is status), None)
    sentence = {
        Status.XFAIL: f"Known issue {shown}; all else is right.",
        Status.XPASS: f"A known issue did not show: {absent}; see docs/findings.md."
        + (f" Another one did: {shown}." if shown else ""),
    }.get(status, _first_sentence(first) or outcome.sentence)
    return replace(outcome, status=status, checks=tuple(checks), sentence=sentence)


def issues_of(checks: Sequence[Mapping[str, Any]], status: Status) -> set[str]:
    """Ids of the known issues of checks with a status: XFAIL for those that show, XPASS for the others."""
    return {
        str(check["known_issue"])
        for check in checks
        if check["status"] == status.value and check.get("known_issue")
    }


def _named(checks: Sequence[Mapping[str, Any]], titles: Mapping[str, str], status: Status) -> str:
    return "; ".join(f"{name} ({titles[name]})" for name in sorted(issues_of(checks, status)))


def _judge(
    check: Mapping[str, Any], issues: Sequence[KnownIssue], environment: Mapping[str, Any]
) -> Mapping[str, Any]:
    status = Status(check["status"])
    for issue in issues:
        if status is Status.FAIL and issue.explains(check, environment):
            reason = f"known issue {issue.id}: {issue.title}"
            return {**check, "status": Status.XFAIL.value, "known_issue": issue.id, "reason": reason}
        if status is Status.PASS and issue.expected(check, environment):
            reason = f"known issue {issue.id} did not show"
            return {**check, "status": Status.XPASS.value, "known_issue": issue.id, "reason": reason}
    return check


def _first_sentence(check: Mapping[str, Any] | None) -> str:
    violations = check.get("violations", []) if check else []
    return f"{check['name']}: {violations[0]['sentence']}" if check and violations else ""
