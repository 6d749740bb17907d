"""Writes results as tmt's results.yaml, for tests with `result: custom`.

Source: tmt 1.78, spec/tests "result" and tmt/schemas/results.yaml. tmt reads results.yaml in $TMT_TEST_DATA.
Names begin with "/"; tmt puts the name of its own test before them. Logs are relative to $TMT_TEST_DATA.
Without a results.yaml tmt would read a results.json there as its own.
"""

from __future__ import annotations

import json
import re
from typing import Any

from harness.status import Status
from snapproof.report.context import Context
from snapproof.report.run_result import OutcomeRecord, RunResult
from snapproof.report.text import one_line

# An expected failure passes, as it does in tmt's own tests with `result: xfail`.
_RESULTS = {
    Status.FAIL: "fail",
    Status.ERROR: "error",
    Status.MISS: "error",
    Status.XPASS: "pass",
    Status.XFAIL: "pass",
    Status.PASS: "pass",
    Status.DONE: "info",
    Status.SKIP: "skip",
}
_SAID = {Status.MISS: "MISS", Status.XFAIL: "XFAIL", Status.XPASS: "XPASS"}
_NOT_IN_A_NAME = re.compile(r"[^\w./:+@=-]+", re.ASCII)
_MOST_LETTERS = 2000


def tmt_results(result: RunResult, context: Context) -> str:
    """Return the document, written as JSON, which is YAML too.

    Raises:
        UsageError: the results folder is not below the folder that the report is written to.
    """
    entries = [_entry(outcome, context) for outcome in result.outcomes]
    return json.dumps(entries, ensure_ascii=False, indent=1) + "\n"


def _entry(outcome: OutcomeRecord, context: Context) -> dict[str, Any]:
    said = _SAID.get(outcome.status)
    passed = sum(check["status"] == Status.PASS.value for check in outcome.checks)
    notes = [f"{said}: {outcome.sentence}" if said else outcome.sentence]
    if outcome.checks:
        notes.append(f"{passed} of {len(outcome.checks)} checks passed")
    return {
        "name": f"/{_NOT_IN_A_NAME.sub('_', outcome.name).strip('/') or 'test'}",
        "result": _RESULTS[outcome.status],
        "note": [one_line(note, _MOST_LETTERS) for note in notes],
        "duration": _duration(outcome.seconds),
        "log": [context.from_output(path) for path in context.files(outcome)],
        # Checks that passed are only counted.
        "subresult": [
            _part(check) for check in outcome.checks if check["status"] not in ("PASS", "DONE", "SKIP")
        ],
    }


def _part(check: Any) -> dict[str, Any]:
    status = Status(check["status"])
    first = [violation["sentence"] for violation in check.get("violations", [])[:1]]
    notes = [check.get("reason") or check["explanation"], *first]
    return {
        "name": f"/{_NOT_IN_A_NAME.sub('_', check['name'])}",
        "result": _RESULTS[status],
        "note": [one_line(note, _MOST_LETTERS) for note in notes],
    }


def _duration(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}"
