"""Results as KTAP (Linux Documentation/dev-tools/ktap.rst)."""

from __future__ import annotations

from collections.abc import Sequence

from harness.status import Status
from tests_functional.scenarios.outcome import Outcome

_DIRECTIVES = {
    Status.SKIP: "SKIP",
    Status.XFAIL: "XFAIL",
    Status.ERROR: "ERROR",
    Status.MISS: "ERROR",
}
_NOT_OK = {Status.FAIL, Status.ERROR, Status.MISS, Status.XPASS}


def ktap_text(outcomes: Sequence[Outcome]) -> str:
    """A KTAP document: one line per test, its checks as a nested list before it."""
    lines = ["KTAP version 1", f"1..{len(outcomes)}"]
    for number, outcome in enumerate(outcomes, 1):
        if outcome.checks:
            lines += ["  KTAP version 1", f"  1..{len(outcome.checks)}"]
            for index, check in enumerate(outcome.checks, 1):
                status = Status(check["status"])
                reason = str(check.get("reason", ""))
                lines.append("  " + _line(index, str(check["name"]), status, reason))
        lines += [f"# {_clean(line)}" for line in outcome.sentence.splitlines()]
        lines.append(_line(number, outcome.name, outcome.status, outcome.sentence))
    return "\n".join(lines) + "\n"


def _line(number: int, name: str, status: Status, reason: str) -> str:
    # A description must not hold '#': it would start a directive.
    head = f"{'not ok' if status in _NOT_OK else 'ok'} {number} {_clean(name).replace('#', '_')}"
    directive = _DIRECTIVES.get(status)
    if directive is None:
        return head
    return f"{head} # {directive} {_clean(reason).replace('#', '_')}".rstrip()


def _clean(text: str) -> str:
    """The text as one line without control characters, which a QEMU's last words may hold."""
    return "".join(letter if letter.isprintable() else "?" for letter in " ".join(text.split()))
