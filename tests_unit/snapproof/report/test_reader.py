"""Contract: results.json fits its schema; the reader accepts exactly that, and else says why not."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from harness.errors import UsageError
from harness.status import Status
from snapproof.report import reader
from snapproof.report.reader import load_results
from snapproof.report.run_result import RunResult, Selection
from snapproof.runs.results_folder import write_results
from tests_unit.support.report_results import everything, hostile, placed, result
from tests_unit.support.scenario_values import outcome
from tests_unit.support.synthetic_stream import Guest, Writer, write_golden
from validators.judge import check_file

_SCHEMA = json.loads(resources.files("snapproof.report").joinpath("results.schema.json").read_text())
_VALIDATOR = jsonschema.Draft202012Validator(_SCHEMA, format_checker=jsonschema.FormatChecker())


def _judged(tmp_path: Path) -> RunResult:
    """Return a run with the checks of a judged file: 60 pages differ from its golden image."""
    writer = Writer(Guest())
    (tmp_path / "vmstate").write_bytes(writer.stream())
    writer.guest.ram[100:160, 9] ^= np.uint64(1)
    golden = write_golden(tmp_path / "golden", writer)
    verdict = json.loads(check_file(tmp_path / "vmstate", golden=golden).to_json())
    assert verdict["status"] == "FAIL"
    return result(
        outcome("a.b", Status.FAIL, checks=verdict["checks"]), selection=Selection("x", ("a*",), 2, (2, 3))
    )


def _made(tmp_path: Path) -> list[RunResult]:
    return [result(), everything(), hostile(), _judged(tmp_path), result(selection=None, environment={})]


def test_the_schema_is_one() -> None:
    """The schema fits its meta-schema, and has the number that results have."""
    _VALIDATOR.check_schema(_SCHEMA)
    assert _SCHEMA["properties"]["schema"]["const"] == result().to_json()["schema"]


def test_results_fit_the_schema_and_come_back(tmp_path: Path) -> None:
    """Written results are valid, and reading them gives the same results."""
    for number, made in enumerate(_made(tmp_path)):
        folder = tmp_path / str(number)
        folder.mkdir()
        write_results(folder, made)
        data = json.loads((folder / "results.json").read_text())
        assert not list(_VALIDATOR.iter_errors(data))
        assert load_results(folder).to_json() == data


_VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1.5, "", "x", [], {}, [1], [1, 2, 3], {"x": 1}, ["x"], "../x", "/x", ".", "./",
    10**400,
)  # fmt: skip


def _mutations(data: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Yield each place of a document with each value to put there, `_GONE` to remove it."""
    keys = data.keys() if isinstance(data, dict) else range(len(data)) if isinstance(data, list) else ()
    for key in keys:
        yield (*path, key), _GONE
        for value in _VALUES:
            yield (*path, key), value
        yield from _mutations(data[key], (*path, key))


_GONE = object()


def _with(data: Any, path: tuple[str | int, ...], value: Any) -> Any:
    changed = copy.deepcopy(data)
    place = changed
    for key in path[:-1]:
        place = place[key]
    if value is _GONE:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return changed


def test_reader_and_schema_agree(tmp_path: Path) -> None:
    """The reader refuses what the schema refuses: every place of a document is changed in nineteen ways.

    The summary and the names of tests are left out: that they agree with one another no schema can say.
    """
    made = everything()
    few = [one for one in made.outcomes if one.status in (Status.FAIL, Status.PASS)]
    data = replace(made, outcomes=few, selection=Selection("x", ("a*", "b"), 2, (2, 3), "w")).to_json()
    seen = {True: 0, False: 0}
    for path, value in _mutations(data):
        changed = _with(data, path, value)
        right = _VALIDATOR.is_valid(changed)
        try:
            reader._checked(changed, tmp_path)
            taken = True
        except UsageError as error:
            # A document of the right shape may still contradict itself.
            taken = "contradicts itself" in error.sentence or "is in it twice" in error.sentence
        assert taken == right, (path, value)
        seen[right] += 1
    assert min(seen.values()) > 200


def _refused(folder: Path) -> str:
    with pytest.raises(UsageError) as caught:
        load_results(folder)
    sentence = caught.value.sentence
    assert sentence.endswith(".")
    assert "\n" not in sentence
    return sentence


def _file(tmp_path: Path, text: str | bytes) -> Path:
    (tmp_path / "results.json").write_bytes(text.encode() if isinstance(text, str) else text)
    return tmp_path


def test_missing(tmp_path: Path) -> None:
    """A missing folder, an empty one, an unfinished run and a folder in place of the file differ in words."""
    assert _refused(tmp_path / "no").startswith("There is no results folder")
    assert "name the results folder of a run" in _refused(tmp_path)
    (tmp_path / "tests").mkdir()
    assert "its run was ended before it had written its results" in _refused(tmp_path)
    (tmp_path / "results.json").mkdir()
    assert "cannot be read: Is a directory" in _refused(tmp_path)


@pytest.mark.parametrize(
    "text",
    ["", "{", '{"schema": 1', b"\xff\xfe", "[" * 100_000, '{"schema": NaN}', "9" * 5000, "\0"],
    ids=range(8),
)
def test_not_json(tmp_path: Path, text: str | bytes) -> None:
    """A file that is cut short, not text, nested too deep or has NaN is not JSON."""
    assert "is not JSON; it may have been cut short" in _refused(_file(tmp_path, text))


_OTHERS = ("[]", "7", "null", '"x"', "{}", '{"schema": 2}', '{"schema": true}', '{"schema": "1"}')


@pytest.mark.parametrize("text", _OTHERS)
def test_other_schema(tmp_path: Path, text: str) -> None:
    """JSON of another kind, or of a newer snapproof, is refused."""
    assert "this snapproof reads results of schema 1" in _refused(_file(tmp_path, text))


def test_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file without end is not read into memory."""
    monkeypatch.setattr(reader, "_MOST_BYTES", 3 << 20)
    assert "is larger than 3 MiB" in _refused(_file(tmp_path, " " * (3 << 20) + "{}"))


def _nested(depth: int) -> dict[str, Any]:
    return {"x": _nested(depth - 1)} if depth else {}


def test_pipe_has_no_end(tmp_path: Path) -> None:
    """A pipe is refused: reading one that nobody writes to would never end."""
    os.mkfifo(tmp_path / "results.json")
    assert "is a pipe" in _refused(tmp_path)


def test_wrong_shapes_are_named(tmp_path: Path) -> None:
    """The sentence says which value is wrong."""
    placed(tmp_path, everything())
    data = json.loads((tmp_path / "results.json").read_text())
    for path, value, said in (
        (("tests", 3, "status"), "GOOD", "test 3 has a 'status' that it cannot have"),
        (("tests", 0, "checks", 0, "name"), _GONE, "a check of test 0 has no 'name'"),
        (("tests", 1, "folder"), "../../etc", "test 1 has a 'folder' that it cannot have"),
        (("tests", 1, "seconds"), 1e999, "test 1 has a 'seconds' that it cannot have"),
        (("tests", 1, "name"), data["tests"][0]["name"], "the test 'debian-10.0/a.FAIL' is in it twice"),
        (("started",), "yesterday", "it has a 'started' that it cannot have"),
        (("started",), "9999-12-31T23:59:59+00:00", "it has a 'started' that it cannot have"),
        (("seconds",), 1e300, "it has a 'seconds' that it cannot have"),
        (("environment",), _nested(60), "it is nested more than 50 deep"),
    ):  # fmt: skip
        text = json.dumps(_with(data, path, value))
        assert said in _refused(_file(tmp_path, text.replace("Infinity", "1e999")))


@pytest.mark.parametrize(("name", "value"), [("status", "PASS"), ("exit_code", 0), ("counts", {"PASS": 8})])
def test_summary_that_contradicts_its_tests(tmp_path: Path, name: str, value: Any) -> None:
    """A summary that differs from the tests is refused."""
    placed(tmp_path, everything())
    data = json.loads((tmp_path / "results.json").read_text())
    assert "contradicts itself" in _refused(_file(tmp_path, json.dumps({**data, name: value})))
