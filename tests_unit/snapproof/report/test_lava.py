"""Contract: send-to-lava.sh splits the lines of lava.txt as intended."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from harness.status import Status
from snapproof.report.context import Context
from snapproof.report.lava import lava_lines
from snapproof.report.run_result import RunResult
from tests_unit.support.report_results import everything, hostile, one_of_each, result
from tests_unit.support.scenario_values import outcome

# What send-to-lava.sh of Linaro's test-definitions (commit 03e82bcd3d5b) does with a line: grep for its two
# forms, then awk for the words.
_READER = r"""
while read -r line; do
    words() { echo "${line}" | awk "{print \$1, \$2, \$3, \$4}"; }
    if echo "${line}" | grep -E -iq '.* +(pass|fail|skip)$'; then
        echo "case $(words)"
    elif echo "${line}" | grep -E -iq '.*+ (pass|fail|skip)+ .*+'; then
        echo "measured $(words)"
    else
        echo "lost ${line}"
    fi
done
"""


def _read(made: RunResult) -> list[list[str]]:
    text = lava_lines(made, Context(Path("results")))
    done = subprocess.run(["sh", "-c", _READER], input=text, capture_output=True, text=True, check=True)
    return [line.split() for line in done.stdout.splitlines()]


def test_statuses() -> None:
    """LAVA knows pass, fail and skip; an error is a fail, so that no broken job is green."""
    assert {words[1]: words[2] for words in _read(result(*one_of_each()))} == {
        "a.FAIL": "fail", "a.ERROR": "fail", "a.MISS": "fail", "a.XPASS": "pass",
        "a.XFAIL": "skip", "a.PASS": "pass", "a.DONE": "pass", "a.SKIP": "skip",
    }  # fmt: skip


def test_figures_have_units() -> None:
    """Each number has a line of its own, without an exponent; texts have none."""
    measured = [words for words in _read(everything()) if words[0] == "measured"]
    assert measured == [
        ["measured", "debian-11.0.a.PASS.01-live.stun_ms", "pass", "2.5", "ms"],
        ["measured", "debian-11.0.a.PASS.01-live.file_bytes", "pass", "523123458", "bytes"],
        ["measured", "debian-11.0.a.PASS.01-live.gap_us", "pass", "0.0000001", "us"],
    ]


@pytest.mark.parametrize("made", [everything(), hostile()])
def test_names_are_blank_free_and_unique(made: RunResult) -> None:
    """Results are not lost, lines are not split in the wrong place, and each result has its own name."""
    lines = _read(made)
    figures = sum(not isinstance(value, str) for one in made.outcomes for value in one.figures.values())
    assert [words[0] for words in lines].count("case") == len(made.outcomes)
    assert [words[0] for words in lines].count("measured") == figures
    assert len({words[1] for words in lines}) == len(lines) == len(made.outcomes) + figures
    assert all(words[2] in ("pass", "fail", "skip") for words in lines)


def test_names_that_become_the_same() -> None:
    """Two names that differ only in a blank stay two cases."""
    made = result(outcome("a b", Status.PASS), outcome("a_b", Status.FAIL), outcome(" ", Status.SKIP))
    assert [words[1:] for words in _read(made)] == [["a_b", "pass"], ["a_b-2", "fail"], ["test", "skip"]]
