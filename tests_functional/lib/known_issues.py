"""Reads the baseline of known issues, and turns a failed check that one of them explains into XFAIL."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from harness.status import Status, worst
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.symptoms import Symptom
from validators.verdict import CheckResult, Violation

BASELINE = Path(__file__).parent.parent / "known_issues.toml"


@dataclass(frozen=True)
class KnownIssue:
    """A real defect of QEMU or Linux, with evidence in docs/findings.md.

    Attributes:
        id: as in docs/findings.md.
        title: what happens, in one line.
        checks: shell patterns for the names of the checks that detect it.
        codes: symptoms of a violation that it causes; one of them is enough.
        seen: prefixes of the versions on which it was seen, of its subject.
        absent: prefixes of the versions on which it was tested and not seen.
        sporadic: whether it depends on timing, so that a check that passes proves nothing.
        reproduce: one command that needs only a QEMU and a shell, "" for a defect of libvirt.
        upstream: link to a report, "" where there is none.
        by_chance: whether even its reproducer depends on timing.
        may: shell patterns for the names of further checks, which detect it only by chance.
        subject: the defective program: ``qemu``, ``linux`` for the host's kernel, or ``libvirt``.
        hosts: names of the catalogue's hosts to which it applies, empty for any host.
        architectures: of guests to which it applies, empty for any; its reproducer runs with their QEMU.
    """

    id: str
    title: str
    checks: tuple[str, ...]
    codes: tuple[Symptom, ...]
    seen: tuple[str, ...]
    absent: tuple[str, ...]
    sporadic: bool
    reproduce: str
    upstream: str
    by_chance: bool = False
    subject: str = "qemu"
    may: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    architectures: tuple[str, ...] = ()

    def version(self, environment: Mapping[str, Any]) -> str:
        """Return the version of its subject in a result's environment, "" if it is not there."""
        return str(environment.get("host_kernel" if self.subject == "linux" else "qemu", ""))

    def explains(self, check: CheckResult, environment: Mapping[str, Any]) -> bool:
        """Return whether it causes all violations of a failed check; False on a version listed as absent."""
        return (
            not self.listed_absent(self.version(environment))
            and self._concerns_host(environment)
            and self._concerns_guest(environment)
            and self.concerns(check.name)
            and len(check.violations) > 0
            and len(check.violations) == check.total
            and all(self.recognises(violation) for violation in check.violations)
        )

    def recognises(self, violation: Violation) -> bool:
        """Return whether this issue causes the violation."""
        return any(symptom.fits(violation) for symptom in self.codes)

    def expected(self, check: str, environment: Mapping[str, Any]) -> bool:
        """Return whether the check of that name should have failed in this environment."""
        named = any(fnmatchcase(check, pattern) for pattern in self.checks)
        concerned = self._concerns_host(environment) and self._concerns_guest(environment)
        seen = self.listed_seen(self.version(environment)) and concerned
        return seen and not self.sporadic and named

    def _concerns_host(self, environment: Mapping[str, Any]) -> bool:
        return not self.hosts or environment.get("host") in self.hosts

    def _concerns_guest(self, environment: Mapping[str, Any]) -> bool:
        return not self.architectures or environment.get("guest_architecture") in self.architectures

    def listed_seen(self, version: str) -> bool:
        """Return whether it was seen on that version of its subject."""
        return any(version.startswith(prefix) for prefix in self.seen)

    def listed_absent(self, version: str) -> bool:
        """Return whether it was tested on that version of its subject and not seen."""
        return any(version.startswith(prefix) for prefix in self.absent)

    def concerns(self, check: str) -> bool:
        """Return whether the check of that name can detect it."""
        return any(fnmatchcase(check, pattern) for pattern in (*self.checks, *self.may))


def load_known_issues(path: Path = BASELINE) -> tuple[KnownIssue, ...]:
    """Return the baseline file's issues.

    Raises:
        ValueError: an entry names a code that does not exist.
    """
    entries = tomllib.loads(path.read_text(encoding="utf-8"))["issue"]
    return tuple(_issue(entry) for entry in entries)


def _issue(entry: Mapping[str, Any]) -> KnownIssue:
    names = ("checks", "may", "seen", "absent", "hosts", "architectures")
    lists = {name: tuple(entry.get(name, ())) for name in names}
    codes = tuple(Symptom.parse(symptom) for symptom in entry["codes"])
    return KnownIssue(**{**entry, **lists, "codes": codes})


def known_on_host(host: str, check: str, violation: Violation) -> KnownIssue | None:
    """Return the issue that is known on a host of the catalogue and causes this violation, None for none.

    Args:
        host: the host's name in the catalogue.
        check: name of the check, e.g. ``hosts/balanced/write-order``.
        violation: the first violation of the check.
    """
    for issue in load_known_issues():
        if host in issue.hosts and issue.concerns(check) and issue.recognises(violation):
            return issue
    return None


def with_known_issues(outcome: Outcome, issues: Sequence[KnownIssue]) -> Outcome:
    """Return the outcome with XFAIL for checks that the baseline explains, and XPASS for those it expected.

    Only checks count: a test that ended otherwise (ERROR, MISS, a crash outside of any check) stays as it is.
    """
    if (outcome.status is not Status.FAIL and outcome.status is not Status.PASS) or not outcome.checks:
        return outcome
    checks = [_judge(check, issues, outcome.environment) for check in outcome.checks]
    statuses = [check.status for check in checks]
    status = worst(statuses) or outcome.status
    if statuses == [check.status for check in outcome.checks]:
        return outcome
    titles = {issue.id: issue.title for issue in issues}
    shown, absent = (_named(checks, titles, wanted) for wanted in (Status.XFAIL, Status.XPASS))
    first = next((check for check in checks if check.status is status), None)
    sentence = {
        Status.XFAIL: f"Known issue {shown}; all else is right.",
        Status.XPASS: f"A known issue did not show: {absent}; see docs/findings.md."
        + (f" Another one did: {shown}." if shown else ""),
    }.get(status, _first_sentence(first) or outcome.sentence)
    return replace(outcome, status=status, checks=tuple(checks), sentence=sentence)


def _named(checks: Sequence[CheckResult], titles: Mapping[str, str], status: Status) -> str:
    """Return the known issues of the checks with a status, by id and title."""
    ids = {check.known_issue for check in checks if check.status is status and check.known_issue}
    return "; ".join(f"{name} ({titles[name]})" for name in sorted(ids))


def _judge(check: CheckResult, issues: Sequence[KnownIssue], environment: Mapping[str, Any]) -> CheckResult:
    for issue in issues:
        if check.status is Status.FAIL and issue.explains(check, environment):
            reason = f"known issue {issue.id}: {issue.title}"
            return replace(check, status=Status.XFAIL, known_issue=issue.id, reason=reason)
        if check.status is Status.PASS and issue.expected(check.name, environment):
            reason = f"known issue {issue.id} did not show"
            return replace(check, status=Status.XPASS, known_issue=issue.id, reason=reason)
    return check


def _first_sentence(check: CheckResult | None) -> str:
    violations = check.violations if check else ()
    return f"{check.name}: {violations[0].sentence}" if check and violations else ""
