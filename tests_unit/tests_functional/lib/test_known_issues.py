"""Contract: only what the baseline recognises is XFAIL; anything new beside it stays FAIL."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from harness.codes import Code
from harness.status import Status
from tests_functional.lib.known_issues import KnownIssue, load_known_issues, with_known_issues
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.symptoms import Symptom
from validators.verdict import CheckResult, Violation

_LOST = Code.GOLDEN_DIFFERS
_ISSUE = KnownIssue(
    id="F0",
    title="it loses a page",
    checks=("repetition/*",),
    codes=(Symptom(_LOST),),
    seen=("10.0.",),
    absent=("7.2.",),
    sporadic=False,
    reproduce="docs/reproducers/f0.sh QEMU",
    upstream="",
)


def _check(name: str, *codes: Code) -> CheckResult:
    """A check that passed, or failed with these codes."""
    violations = tuple(Violation(name, code, f"It is {code}.") for code in codes)
    status = Status.FAIL if codes else Status.PASS
    return CheckResult(name, "It holds.", status, violations, len(violations))


def _outcome(*checks: CheckResult, qemu: str = "10.0.13") -> Outcome:
    status = Status.FAIL if any(check.status is Status.FAIL for check in checks) else Status.PASS
    return Outcome("repetition.x", status, "It is so.", checks=checks, environment={"qemu": qemu})


def _judge(outcome: Outcome, issue: KnownIssue = _ISSUE) -> Outcome:
    return with_known_issues(outcome, [issue])


def test_known_failure_is_xfail_and_named() -> None:
    """A recognised failure is XFAIL; the outcome says which issue it is."""
    found = _judge(_outcome(_check("repetition/a", _LOST), _check("host")))
    assert found.status is Status.XFAIL
    assert found.checks[0].known_issue == "F0"
    assert "F0" in found.sentence


def test_new_failure_beside_a_known_one_is_fail() -> None:
    """The known one does not hide it, and the sentence names the new one."""
    found = _judge(_outcome(_check("repetition/a", _LOST), _check("host", Code.HOST_FILE_LEFT_OPEN)))
    assert found.status is Status.FAIL
    assert "host: It is host.file-left-open." in found.sentence


@pytest.mark.parametrize(
    "check",
    [
        _check("repetition/a", _LOST, Code.QEMU_ENDED),
        _check("other/a", _LOST),
        replace(_check("repetition/a", _LOST), total=2000),
        replace(_check("repetition/a", _LOST), violations=(), total=1),
    ],
)
def test_what_is_not_wholly_explained_stays_fail(check: CheckResult) -> None:
    """Another check, another code beside it, or violations that are not listed are not explained."""
    assert _judge(_outcome(check)).status is Status.FAIL


def test_known_issue_where_it_was_not_seen_is_a_regression() -> None:
    """A failure that looks like a known issue stays FAIL on a QEMU that is known to be free of it."""
    assert _judge(_outcome(_check("repetition/a", _LOST), qemu="7.2.22")).status is Status.FAIL
    assert _judge(_outcome(_check("repetition/a", _LOST), qemu="9.0.0")).status is Status.XFAIL


def test_issue_that_does_not_show_is_xpass() -> None:
    """A pass is XPASS if the issue showed always on this QEMU; it is PASS elsewhere and if it is sporadic."""
    assert _judge(_outcome(_check("repetition/a"))).status is Status.XPASS
    assert _judge(_outcome(_check("repetition/a"), qemu="7.2.22")).status is Status.PASS
    assert _judge(_outcome(_check("repetition/a")), replace(_ISSUE, sporadic=True)).status is Status.PASS


def test_one_that_does_not_show_hides_none_that_does() -> None:
    """The sentence says which is which."""
    other = replace(_ISSUE, id="F2", title="Another", checks=("other/*",))
    checks = [_check("repetition/a", _LOST), _check("other/a")]
    found = with_known_issues(replace(_outcome(checks[0]), checks=checks), [_ISSUE, other])
    assert found.status is Status.XPASS
    assert "did not show: F2 (Another)" in found.sentence
    assert f"Another one did: {_ISSUE.id} (" in found.sentence


def test_broken_setup_stays_what_it_is() -> None:
    """ERROR, MISS and SKIP are never explained by a known issue."""
    for status in (Status.ERROR, Status.MISS, Status.SKIP):
        outcome = replace(_outcome(_check("repetition/a", _LOST)), status=status)
        assert _judge(outcome).status is status


def test_baseline_file_is_whole() -> None:
    """Each issue has a section in docs/findings.md and a reproducer that can be run."""
    root = Path(__file__).parents[3]
    findings = (root / "docs/findings.md").read_text(encoding="utf-8")
    issues = load_known_issues()
    assert issues
    assert len({issue.id for issue in issues}) == len(issues)
    for issue in issues:
        assert f"\n## {issue.id}: " in findings
        assert issue.subject == "libvirt" or os.access(root / issue.reproduce.split()[0], os.X_OK)


def test_check_that_may_see_it() -> None:
    """It is XFAIL where it does see the issue, and no XPASS where it does not."""
    issue = replace(_ISSUE, may=("source/*",))
    assert _judge(_outcome(_check("source/a", _LOST)), issue).status is Status.XFAIL
    assert _judge(_outcome(_check("source/a")), issue).status is Status.PASS


def test_issue_of_the_kernel() -> None:
    """Its versions are those of the host's kernel, whatever QEMU's is."""
    issue = replace(_ISSUE, subject="linux", seen=("6.18.",), absent=("6.19.",))
    failed = _outcome(_check("repetition/a", _LOST), qemu="7.2.22")
    for kernel, status in (("6.18.44", Status.XFAIL), ("6.19.1", Status.FAIL)):
        assert _judge(replace(failed, environment={"host_kernel": kernel}), issue).status is status
