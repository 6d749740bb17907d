"""Writes results as KTAP (Linux Documentation/dev-tools/ktap.rst, version 1 of the format)."""

from __future__ import annotations

from harness.status import Status
from snapproof.report.context import Context
from snapproof.report.run_result import RunResult
from snapproof.report.text import one_line

_DIRECTIVES = {
    Status.SKIP: "SKIP",
    Status.XFAIL: "XFAIL",
    Status.ERROR: "ERROR",
    Status.MISS: "ERROR",
}
_NOT_OK = {Status.FAIL, Status.ERROR, Status.MISS}


def ktap_text(result: RunResult, _context: Context) -> str:
    """Return a KTAP document: a line for each test, after the nested list of its checks."""
    outcomes = result.outcomes
    lines = ["KTAP version 1", f"1..{len(outcomes)}"]
    for number, outcome in enumerate(outcomes, 1):
        if outcome.checks:
            lines += ["  KTAP version 1", f"  1..{len(outcome.checks)}"]
            for index, check in enumerate(outcome.checks, 1):
                status = Status(check["status"])
                reason = str(check.get("reason", ""))
                lines.append("  " + _line(index, str(check["name"]), status, reason))
        lines += [f"# {one_line(line)}" for line in outcome.sentence.splitlines()]
        lines.append(_line(number, outcome.name, outcome.status, outcome.sentence))
    return "\n".join(lines) + "\n"


def _line(number: int, name: str, status: Status, reason: str) -> str:
    # A '#' in a description would start a directive.

    head = f"{'not ok' if status in _NOT_OK else 'ok'} {number} {one_line(name).replace('#', '_')}"
    directive = _DIRECTIVES.get(status)
    if directive is None:
        return head
    return f"{head} # {directive} {one_line(reason).replace('#', '_')}".rstrip()
