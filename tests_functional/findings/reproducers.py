"""Runs the reproducers of known issues: each must show its defect on the listed versions and no others."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from harness.codes import Code
from harness.errors import NotApplicable, SetupBroken
from harness.process import ChildProcess, log_tail
from harness.status import Status
from tests_functional.lib.build_outcome import outcome_of
from tests_functional.lib.known_issues import KnownIssue, load_known_issues
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.run import Run
from validators.checks import Problem, judged, skipped
from validators.verdict import CheckResult

# The reproducers are in docs/, beside the findings that users attach to a bug report.
_HOME = Path(__file__).parents[2]
_SECONDS = 150.0
_TWICE = 2
# The exit codes of a reproducer, as in its usage line.
_ABSENT, _SHOWS, _NOT_APPLICABLE = range(3)
_EXPLANATION = (
    "The reproducer shows the defect on versions listed as seen, and not on those listed as absent."
)


def reproduced(issue_id: str, newer: Mapping[str, Path]) -> Callable[[Run], Outcome]:
    """Return a scenario that runs the reproducer of one known issue twice.

    Args:
        issue_id: as in the baseline of known issues.
        newer: the run's newer QEMUs by label, the newest last, for issues that need two QEMUs.
    """
    issue = next(issue for issue in load_known_issues() if issue.id == issue_id)
    return lambda run: _reproduced(run, issue, newer)


def _reproduced(run: Run, issue: KnownIssue, newer: Mapping[str, Path]) -> Outcome:
    begun = time.monotonic()
    command = _command(issue, run.stack.executable, newer)
    run.say(f"{issue.id}: {issue.title}.")
    codes = [_run_script(run, command, number) for number in range(1, _TWICE + 1)]
    said = log_tail(run.folder / f"reproducer-{_TWICE}.log").strip().splitlines()
    version = issue.version(run.host_environment)
    check = judge_reproducer(issue, version, codes, said[-1] if said else "")
    holds = f"{issue.id} does not show here: {issue.title}."
    return outcome_of(run, [check], time.monotonic() - begun, holds)


def _command(issue: KnownIssue, qemu: Path, newer: Mapping[str, Path]) -> list[str]:
    """Return the issue's command with the paths of this run's QEMUs.

    Raises:
        NotApplicable: the command needs a newer QEMU as well, and the run has none.
        SetupBroken: the script is missing.
    """
    script, *parameters = issue.reproduce.split()
    if not (_HOME / script).is_file():
        raise SetupBroken(
            f"The reproducer of {issue.id}, '{script}', is missing; run snapproof from a source checkout."
        )
    if "NEW-QEMU" in parameters and not newer:
        raise NotApplicable(
            f"{issue.id} needs a newer QEMU as well, and this run has none; add one with --qemu."
        )
    newest = list(newer.values())[-1] if newer else qemu
    values = {"QEMU": qemu, "OLD-QEMU": qemu, "NEW-QEMU": newest}
    interpreter = sys.executable if script.endswith(".py") else "/bin/sh"
    return [interpreter, str(_HOME / script), *(str(values[parameter]) for parameter in parameters)]


def _run_script(run: Run, command: Sequence[str], number: int) -> int:
    """Run the script once and return its exit code; end all processes that it started."""
    log = run.folder / f"reproducer-{number}.log"
    with ChildProcess(command, log, environment={"ACCEL": run.stack.accel}) as process:
        code = process.wait(run.deadline.at_most(_SECONDS))
    if code not in (_ABSENT, _SHOWS, _NOT_APPLICABLE):
        raise SetupBroken(f"The reproducer '{command[1]}' broke with exit code {code}; see '{log}'.")
    return code


def judge_reproducer(issue: KnownIssue, version: str, codes: Sequence[int], said: str) -> CheckResult:
    """Compare a reproducer's exit codes with the versions that the baseline lists.

    Args:
        issue: the known issue.
        version: version of QEMU or of the host's kernel, depending on the issue's subject.
        codes: the reproducer's exit codes, one for each run.
        said: the last line of its output.
    """
    name, shown = f"findings/{issue.id}", list(codes).count(_SHOWS)
    facts: dict[str, int | float | str] = {"runs": len(codes), "shown": shown}
    free, seen = issue.listed_absent(version), issue.listed_seen(version)
    if set(codes) == {_NOT_APPLICABLE} and not seen:
        if not free:
            return skipped(name, _EXPLANATION, f"{issue.id} does not apply here: {said}")
        return judged(name, _EXPLANATION, [], facts)
    if shown and free:
        sentence = f"{issue.id} shows on {version}, which the baseline lists as free of it: {said}"
        return judged(name, _EXPLANATION, [Problem(Code.REPRODUCER_SHOWS_WHERE_ABSENT, sentence)], facts)
    reason = f"known issue {issue.id}: {issue.title}"
    if shown == len(codes) or (shown and issue.by_chance):
        problem = Problem(Code.REPRODUCER_SHOWS, f"{issue.id} shows in {shown} of {len(codes)} runs.")
        failed = judged(name, _EXPLANATION, [problem], facts)
        return replace(failed, status=Status.XFAIL, reason=reason, known_issue=issue.id)
    if shown:
        sentence = (
            f"{issue.id} shows in {shown} of {len(codes)} runs, but the baseline does not say 'by_chance'."
        )
        return judged(name, _EXPLANATION, [Problem(Code.REPRODUCER_SHOWS_AT_TIMES, sentence)], facts)
    passed = judged(name, _EXPLANATION, [], facts)
    if seen and not issue.by_chance:
        said = f"{reason}; it does not show"
        return replace(passed, status=Status.XPASS, reason=said, known_issue=issue.id)
    return passed
