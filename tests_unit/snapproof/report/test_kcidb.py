"""Contract: kcidb-io accepts kcidb.json as version 5.3, and all its references resolve."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import kcidb_io
import pytest

from harness.errors import UsageError
from harness.status import Status
from snapproof.report.context import Context
from snapproof.report.kcidb import kcidb_json
from snapproof.report.run_result import RunResult
from tests_functional.lib.known_issues import load_known_issues
from tests_unit.support.report_results import check, everything, hostile, placed, result
from tests_unit.support.scenario_values import outcome

_SCHEMA = kcidb_io.schema.V5_3


def _document(made: RunResult, context: Context) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(kcidb_json(made, context))
    _SCHEMA.validate(data)
    # Without this, documents of older versions would be accepted too.
    assert data["version"] == {"major": 5, "minor": 3}
    return data


@pytest.mark.parametrize("made", [result(), everything(), hostile()])
def test_kcidb_takes_it(made: RunResult, tmp_path: Path) -> None:
    """The document fits the schema with every status, known issues, several QEMUs and hostile text."""
    data = _document(made, replace(placed(tmp_path, made), url="https://ci.example/run"))
    assert len(data.get("tests", [])) == len(made.outcomes)


def test_references_are_complete(tmp_path: Path) -> None:
    """Checkouts of builds, builds of tests and issues of incidents exist; no id is there twice."""
    data = _document(everything(), placed(tmp_path, everything()))
    ids = {kind: [entry["id"] for entry in data[kind]] for kind in data if kind != "version"}
    assert all(len(set(found)) == len(found) for found in ids.values())
    assert {build["checkout_id"] for build in data["builds"]} == set(ids["checkouts"])
    assert {test["build_id"] for test in data["tests"]} == set(ids["builds"])
    assert {incident["issue_id"] for incident in data["incidents"]} == set(ids["issues"])
    assert {incident["test_id"] for incident in data["incidents"]} <= set(ids["tests"])
    assert len(ids["builds"]) == 2


def test_statuses_and_known_issues(tmp_path: Path) -> None:
    """XFAIL is FAIL with the issue present, XPASS is PASS with it absent; all others keep their name."""
    data = _document(everything(), placed(tmp_path, everything()))
    statuses = {test["misc"]["snapproof_status"]: test["status"] for test in data["tests"]}
    same = {status.value: status.value for status in Status}
    assert statuses == {**same, "XFAIL": "FAIL", "XPASS": "PASS"}
    names = {test["id"]: test["misc"]["snapproof_status"] for test in data["tests"]}
    present = {names[incident["test_id"]]: incident["present"] for incident in data["incidents"]}
    assert present == {"XFAIL": True, "XPASS": False, "FAIL": True}
    (issue,) = data["issues"]
    assert issue["comment"].startswith("F2: background-snapshot with mapped-ram")


def test_every_known_issue(tmp_path: Path) -> None:
    """KCIDB accepts an issue's upstream from the baseline, whether it is a link or a commit."""
    issues = load_known_issues()
    checks = [check(f"c/{issue.id}", "XFAIL", known_issue=issue.id) for issue in issues]
    made = result(outcome("a.b", Status.XFAIL, checks=[*checks, check("c", "XFAIL", known_issue="F99")]))
    data = _document(made, placed(tmp_path, made))
    assert len(data["issues"]) == len(issues) + 1
    assert {issue["misc"]["upstream"] for issue in data["issues"]} >= {issue.upstream for issue in issues}


def test_path_has_no_label(tmp_path: Path) -> None:
    """The same test on another QEMU has the same path and another build."""
    data = _document(everything(), placed(tmp_path, everything()))
    assert [test["path"] for test in data["tests"]] == [f"snapproof.a.{status.value}" for status in Status]


def test_ids_stay_the_same(tmp_path: Path) -> None:
    """The same results give the same document; another run has other ids for its tests."""
    context = placed(tmp_path, everything())
    assert kcidb_json(everything(), context) == kcidb_json(everything(), context)
    other = json.loads(kcidb_json(replace(everything(), started="2026-01-03T00:00:00+00:00"), context))
    mine = json.loads(kcidb_json(everything(), context))
    assert not {test["id"] for test in mine["tests"]} & {test["id"] for test in other["tests"]}
    assert [issue["id"] for issue in mine["issues"]] == [issue["id"] for issue in other["issues"]]


def test_build_of_the_ci_system(tmp_path: Path) -> None:
    """Tests belong to the build of --build-id, which is not described again."""
    stack = {"qemu": "10.0", "host_kernel": "6.1", "host_architecture": "x86_64"}
    made = result(*(replace(one, environment=stack) for one in everything().outcomes))
    context = replace(placed(tmp_path, made), origin="lab_1", build_id="lab_1:4711")
    data = _document(made, context)
    assert "builds" not in data
    assert "checkouts" not in data
    assert {test["build_id"] for test in data["tests"]} == {"lab_1:4711"}
    assert all(test["id"].startswith("lab_1:") for test in data["tests"])


def test_build_of_several_stacks(tmp_path: Path) -> None:
    """Tests of two QEMUs cannot belong to one build: they would contradict each other in KCIDB."""
    context = replace(placed(tmp_path, everything()), build_id="lab_1:4711")
    with pytest.raises(UsageError, match="are of 2 stacks of QEMU and kernel"):
        kcidb_json(everything(), context)


@pytest.mark.parametrize(
    ("statuses", "status", "present"),
    [
        (("XFAIL", "XPASS"), "FAIL", {"F1": True, "F2": False}),
        (("XPASS", "XPASS"), "PASS", {"F1": False, "F2": False}),
    ],
)
def test_one_issue_shows_and_another_does_not(
    statuses: tuple[str, str], status: str, present: dict[str, bool], tmp_path: Path
) -> None:
    """Each issue has an incident of its own, and the test did not pass if one of them showed."""
    checks = [
        check(f"c/{number}", said, known_issue=f"F{number}") for number, said in enumerate(statuses, start=1)
    ]
    made = result(outcome("a.b", Status.XPASS, checks=checks))
    data = _document(made, placed(tmp_path, made))
    assert data["tests"][0]["status"] == status
    names = {issue["id"]: issue["misc"]["snapproof_issue"] for issue in data["issues"]}
    assert {names[one["issue_id"]]: one["present"] for one in data["incidents"]} == present


def test_ids_of_a_merge_do_not_depend_on_where_it_went(tmp_path: Path) -> None:
    """The command, which differs for each merge, does not change the ids."""
    made = result(outcome("a.b", Status.PASS))
    context = placed(tmp_path, made)
    again = replace(made, command=["snapproof", "report", "merge", "--output", "/elsewhere"])
    assert _document(made, context) == _document(again, context)


def test_version_in_a_name_is_one_part(tmp_path: Path) -> None:
    """The dots of versions such as 6.1 and 6.12 do not split a path."""
    made = result(outcome("guests.linux-5.10", Status.PASS))
    (test,) = _document(made, placed(tmp_path, made))["tests"]
    assert test["path"] == "snapproof.guests.linux-5_10"


def test_logs(tmp_path: Path) -> None:
    """There is always a tail of the log, and links only if others can read the folder."""
    made = result(outcome("a.b c", Status.FAIL, checks=[check("golden", "FAIL")]))
    context = placed(tmp_path, made)
    (test,) = _document(made, context)["tests"]
    assert test["log_excerpt"] == "10:00:00 Booting.\n10:00:09 It is so."
    assert "log_url" not in test
    (test,) = _document(made, replace(context, url="https://ci.example/1/"))["tests"]
    assert test["log_url"] == "https://ci.example/1/tests/a.b%20c/test.log"
    assert [file["name"] for file in test["output_files"]] == ["qemu.log"]


_UNFIT = ({"origin": "My CI"}, {"origin": ""}, {"build_id": "a build"}, {"build_id": "7"})


@pytest.mark.parametrize("changes", _UNFIT)
def test_unfit_names_are_refused(changes: dict[str, str]) -> None:
    """Names that KCIDB's schema refuses are one sentence."""
    with pytest.raises(UsageError, match=r"^--(origin|build-id) '.* KCIDB.*\.$"):
        kcidb_json(result(), replace(Context(Path("results")), **changes))  # type: ignore[arg-type]
