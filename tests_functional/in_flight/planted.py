"""Plants faults in what arrives in a restored guest, through its real device; each must be seen."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from harness.codes import Code
from tests_functional.in_flight.kinds import STREAM_KINDS
from tests_functional.in_flight.numbers import Numbers
from tests_functional.in_flight.scenario import (
    RESTORED_CHECK,
    Faults,
    Passage,
    far_ends,
    require_stream,
    source_with,
)
from tests_functional.lib.build_outcome import outcome_of
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.run import Run
from tests_functional.lib.save import Flow
from validators.checks import Problem, judged
from validators.verdict import CheckResult

_STREAM = "uart-in"
_CLAIM = "A fault that is planted in what arrives turns the check red, with its own code alone."
_HOLDS = "Each planted fault was seen."


def _lost(numbers: Numbers) -> Sequence[int]:
    return numbers.restored[1:]


def _twice(numbers: Numbers) -> Sequence[int]:
    return [numbers.in_flight[-1], *numbers.restored]


def _disorder(numbers: Numbers) -> Sequence[int]:
    return numbers.restored[::-1]


def _after_t0(numbers: Numbers) -> Sequence[int]:
    return [numbers.source[0], *numbers.restored]


FAULTS: Mapping[Code, Faults] = {
    Code.IN_FLIGHT_LOST: _lost,
    Code.IN_FLIGHT_TWICE: _twice,
    Code.IN_FLIGHT_DISORDER: _disorder,
    Code.IN_FLIGHT_AFTER_T0: _after_t0,
}
"""What is sent in place of the right items, by the code that it must have."""


def planted_faults(run: Run) -> Outcome:
    """Take a live snapshot for each fault, and plant it in the restored guest."""
    begun = time.monotonic()
    kind = STREAM_KINDS[_STREAM]
    require_stream(run, kind)
    checks = []
    with far_ends(run, 1 + len(FAULTS)) as (here, *there), source_with(run, kind, here) as (source, stream):
        for number, ((code, fault), far) in enumerate(zip(FAULTS.items(), there, strict=True), 1):
            passage = Passage(run, kind, Numbers.of(number, kind.counts), far, fault)
            cycle = passage.judge(source, stream, Flow.LIVE, f"planted/{code}")
            checks.append(judge_seen(code, cycle.verdict.checks))
        source.guest.machine.quit()
    return outcome_of(run, checks, time.monotonic() - begun, _HOLDS)


def judge_seen(code: Code, checks: Sequence[CheckResult]) -> CheckResult:
    """Check that a planted fault was seen, and nothing else was wrong.

    Args:
        code: the fault's.
        checks: all of the snapshot.
    """
    found = [(check.name, violation.code) for check in checks for violation in check.violations]
    problems = []
    if found != [(RESTORED_CHECK, code)]:
        told = ", ".join(f"{name}: {other}" for name, other in found) or "nothing"
        sentence = f"The fault {code} was planted in what arrives, and the checks say: {told}."
        problems.append(Problem(Code.IN_FLIGHT_UNSEEN, sentence, {"fault": code}))
    return judged(f"planted-{code}", _CLAIM, problems)
