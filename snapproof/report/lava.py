"""Writes results as lines for LAVA: `name result [measurement units]`.

automated/utils/send-to-lava.sh of Linaro's test-definitions (commit 03e82bcd3d5b) reads these lines: it
splits at blanks, knows pass, fail and skip, and calls `lava-test-case` for each line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal

from harness.status import Status
from snapproof.report.context import Context
from snapproof.report.run_result import OutcomeRecord, RunResult

# LAVA has no word for a test that broke, and send-to-lava.sh does not take "unknown". The job must not be
# green, so it is "fail". A known issue is neither a new failure nor a pass, so it is "skip".
_RESULTS = {
    Status.FAIL: "fail",
    Status.ERROR: "fail",
    Status.MISS: "fail",
    Status.XPASS: "pass",
    Status.XFAIL: "skip",
    Status.PASS: "pass",
    Status.DONE: "pass",
    Status.SKIP: "skip",
}
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9._-]+")
_UNITS = {"ms": "ms", "us": "us", "s": "s", "seconds": "s", "bytes": "bytes", "mib": "MiB", "ratio": "times"}


def lava_lines(result: RunResult, _context: Context) -> str:
    """Return a line for each test, each followed by a line for each of its figures.

    The line of a figure says ``pass``, since it was measured; the line of its test says whether it is good.
    """
    names = _Names()
    return "".join(f"{line}\n" for outcome in result.outcomes for line in _lines(outcome, names))


def _lines(outcome: OutcomeRecord, names: _Names) -> Iterator[str]:
    name = names.unique(outcome.name)
    yield f"{name} {_RESULTS[outcome.status]}"
    for figure, value in outcome.figures.items():
        if not isinstance(value, str):
            # Without an exponent, which shell tools do not know.
            number = format(Decimal(str(value)), "f")
            unit = _UNITS.get(figure.rpartition("_")[2], "")
            yield f"{names.unique(f'{outcome.name}.{figure}')} pass {number} {unit}".rstrip()


class _Names:
    """Makes names that LAVA takes, each unique: LAVA would treat two results with one name as one case."""

    def __init__(self) -> None:
        self._given: set[str] = set()

    def unique(self, text: str) -> str:
        name = first = _NOT_IN_A_NAME.sub("_", text.replace("/", ".")).strip("._-") or "test"
        number = 1
        while name in self._given:
            number += 1
            name = f"{first}-{number}"
        self._given.add(name)
        return name
