"""Contract: tmt accepts results.yaml for a test with `result: custom`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import fmf.utils
import pytest
import tmt
import tmt.utils

from harness.errors import UsageError
from harness.status import Status
from snapproof.report.context import Context
from snapproof.report.run_result import RunResult
from snapproof.report.tmt_results import tmt_results
from tests_unit.support.report_results import everything, hostile, one_of_each, placed, result
from tests_unit.support.scenario_values import outcome


def _loaded(text: str) -> list[Any]:
    """Load the file with the functions with which tmt loads custom results."""
    entries = tmt.utils.yaml_to_list(text)
    schema = tmt.utils.load_schema(Path("results.yaml"))
    found = fmf.utils.validate_data(entries, schema, schema_store=tmt.utils.load_schema_store())
    assert not found.errors
    return [tmt.Result.from_serialized(entry) for entry in entries]


@pytest.mark.parametrize("made", [result(*one_of_each()), everything(), hostile()])
def test_tmt_takes_it(made: RunResult, tmp_path: Path) -> None:
    """Schema and loader accept every status, several QEMUs and hostile text."""
    found = _loaded(tmt_results(made, placed(tmp_path, made)))
    assert len({entry.name for entry in found}) == len(made.outcomes)
    assert all(entry.name.startswith("/") and entry.name.isprintable() for entry in found)
    assert all((tmp_path / log).is_file() for entry in found for log in entry.log)


def test_statuses(tmp_path: Path) -> None:
    """A known failure passes, as with tmt's own `result: xfail`; MISS is an error."""
    made = result(*one_of_each())
    found = {entry.name: entry.result.value for entry in _loaded(tmt_results(made, placed(tmp_path, made)))}
    assert found == {
        "/a.FAIL": "fail", "/a.ERROR": "error", "/a.MISS": "error", "/a.XPASS": "pass",
        "/a.XFAIL": "pass", "/a.PASS": "pass", "/a.DONE": "info", "/a.SKIP": "skip",
    }  # fmt: skip


def test_notes_and_subresults(tmp_path: Path) -> None:
    """An entry has the sentence, the number of passed checks, and each other check with a violation."""
    first = _loaded(tmt_results(everything(), placed(tmp_path, everything())))[0]
    assert first.note == ["Reason FAIL.", "1 of 4 checks passed"]
    assert [(part.name, part.result.value) for part in first.subresult] == [
        ("/01-live/golden", "fail"), ("/01-live/file", "pass"),
    ]  # fmt: skip
    assert first.subresult[0].note == ["It demands.", "Page 7 is newer."]


def test_logs_are_relative_to_the_file(tmp_path: Path) -> None:
    """Logs are found with the results in $TMT_TEST_DATA, in a folder below it, and through a link to it."""
    made = result(outcome("a.b", Status.PASS))
    context = placed(tmp_path / "data" / "run", made)
    (tmp_path / "link").symlink_to(tmp_path / "data")
    for base in (tmp_path / "data", tmp_path / "link"):
        (entry,) = _loaded(tmt_results(made, replace(context, output=base)))
        assert [str(log) for log in entry.log] == ["run/tests/a.b/test.log", "run/tests/a.b/qemu.log"]


def test_logs_that_tmt_would_not_keep(tmp_path: Path) -> None:
    """A file that is not in or above the results folder is refused: tmt would not fetch the logs."""
    made = result(outcome("a.b", Status.PASS))
    context = replace(placed(tmp_path / "run", made), output=tmp_path / "elsewhere")
    with pytest.raises(UsageError, match=r"names logs relative to its own folder.*\.$"):
        tmt_results(made, context)


def test_duration() -> None:
    """A duration above a day is given in hours."""
    made = result(outcome("a.b", Status.PASS, seconds=100 * 3600 + 61.4))
    (entry,) = _loaded(tmt_results(made, Context(Path("results"))))
    assert entry.duration == "100:01:01"


@pytest.mark.parametrize(("old", "new"), [('"/a.b"', '"a.b"'), ('"pass"', '"good"'), ('"note"', '"notes"')])
def test_the_schema_refuses(old: str, new: str) -> None:
    """The loader refuses a document with one error, so the tests above can fail."""
    text = tmt_results(result(outcome("a.b", Status.PASS)), Context(Path("results")))
    with pytest.raises(AssertionError):
        _loaded(text.replace(old, new, 1))
