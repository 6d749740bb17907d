"""Contract: a JUnit reader reads junit.xml whatever text a test has, without losing a verdict or a reason."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

import pytest
from junitparser import Error, Failure, JUnitXml, Properties, Skipped, TestCase, TestSuite

from harness.status import Status
from snapproof.report.context import Context
from snapproof.report.junit import junit_xml
from snapproof.report.run_result import OutcomeRecord, RunResult
from tests_unit.support.report_results import NASTY, check, everything, hostile, one_of_each, placed, result
from tests_unit.support.scenario_values import outcome

_ATTACHMENT = re.compile(r"\[\[ATTACHMENT\|(.+?)\]\]")


def _suite(text: str) -> TestSuite:
    (suite,) = JUnitXml.fromstring(text.encode())
    assert isinstance(suite, TestSuite)
    return suite


def _cases(*outcomes: OutcomeRecord, folder: Path = Path("results")) -> dict[str, TestCase]:
    return {str(case.name): case for case in _suite(junit_xml(result(*outcomes), Context(folder)))}


def _properties(case: TestCase) -> dict[str, str]:
    (found,) = cast(Any, case).iterchildren(Properties)
    return {str(entry.name): str(entry.value) for entry in found}


def test_every_status_counts_once() -> None:
    """FAIL is a failure, ERROR and MISS are errors, SKIP and XFAIL are skipped; the counts agree."""
    suite = _suite(junit_xml(result(*one_of_each()), Context(Path("results"))))
    assert (suite.tests, suite.failures, suite.errors, suite.skipped) == (8, 1, 2, 2)
    kinds = {str(case.name).partition(".")[2]: [type(found) for found in case.result] for case in suite}
    assert kinds == {
        "FAIL": [Failure], "XPASS": [], "ERROR": [Error], "MISS": [Error],
        "SKIP": [Skipped], "XFAIL": [Skipped], "PASS": [], "DONE": [],
    }  # fmt: skip
    cast(Any, suite).update_statistics()
    assert (suite.tests, suite.failures, suite.errors, suite.skipped) == (8, 1, 2, 2)


def test_skip_reasons_are_kept() -> None:
    """The reason of a skip is where GitLab and Jenkins look for it."""
    (skipped,) = _cases(outcome("a.b", Status.SKIP, "QEMU has no file: transport."))["a.b"].result
    assert skipped.message == "QEMU has no file: transport."


@pytest.mark.parametrize("made", [result(*one_of_each()), everything(), hostile()])
def test_names_are_unique(made: RunResult) -> None:
    """Each case has its own pair of classname and name, or GitLab would drop one."""
    cases = list(_suite(junit_xml(made, Context(Path("results")))))
    assert len({(case.classname, case.name) for case in cases}) == len(cases) == len(Status)


def test_failure_names_check_and_violation() -> None:
    """A failure lists the checks that failed with their violations, not those that passed."""
    checks = (check("header"), check("golden", "FAIL", violations=[{"sentence": "Page 7."}]))
    (failure,) = _cases(outcome("a.b", Status.FAIL, "Wrong.", checks=checks))["a.b"].result
    assert failure.text == "FAIL golden: It demands.\n  Page 7."


def test_what_is_long_is_cut_but_for_attachments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attachments are never cut; text that was cut says so."""
    monkeypatch.chdir(tmp_path)
    made = outcome("a.b", Status.FAIL, "x" * 9000)
    placed(tmp_path, result(made))
    case = _cases(made, folder=tmp_path)["a.b"]
    assert case.system_out.splitlines()[0].endswith("x [cut off here]")
    assert case.system_out.splitlines()[-1] == "[[ATTACHMENT|tests/a.b/qemu.log]]"


def test_version_in_a_name_is_one_part() -> None:
    """The dot of 'linux-5.10' does not split a class name."""
    name = "d13/guests.linux-5.10"
    assert _cases(outcome(name, Status.PASS))[name].classname == "snapproof.d13/guests"


def test_properties() -> None:
    """Environment and figures are properties of the case."""
    made = outcome("a.b", Status.PASS, environment={"qemu": "10.0", "seed": 7}, figures={"stun_ms": 1.5})
    found = _properties(_cases(made)["a.b"])
    assert found == {"qemu": "10.0", "seed": "7", "stun_ms": "1.5"}


def test_log_tail_and_attachments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure shows its log's last lines, and names its files relative to the job's folder."""
    monkeypatch.chdir(tmp_path)
    log = "".join(f"10:00:{number % 60:02} Step {number} {'x' * 100}.\n" for number in range(2000))
    made = result(outcome("a.b", Status.FAIL), outcome("c.d", Status.PASS))
    context = placed(tmp_path / "run", made, log)
    failed, passed = list(_suite(junit_xml(made, context)))
    output = str(failed.system_out)
    assert len(output) < 5000
    assert "Step 1999" in output
    assert "Step 1900" not in output
    assert _ATTACHMENT.findall(output) == ["run/tests/a.b/test.log", "run/tests/a.b/qemu.log"]
    assert "Step" not in str(passed.system_out)


def test_log_forges_no_attachment(tmp_path: Path) -> None:
    """A line of the log that looks like an attachment does not make Jenkins read a file."""
    made = result(outcome("a.b", Status.FAIL))
    context = placed(tmp_path, made, "[[ATTACHMENT|/etc/shadow]]\n[[[ATTACHMENT|/etc/shadow]]\n")
    (case,) = _suite(junit_xml(made, context))
    assert not [path for path in _ATTACHMENT.findall(str(case.system_out)) if "shadow" in path]


@pytest.mark.parametrize("status", Status)
def test_any_text(status: Status, tmp_path: Path) -> None:
    """Markup, control characters and undecodable bytes of a message leave the document valid."""
    made = outcome("a.b", status, NASTY, environment={"qemu": NASTY}, figures={"stun_ms": 1.5})
    context = placed(
        tmp_path, result(made), NASTY.replace("\udcff", "\udcfe").encode("utf-8", "replace").decode()
    )
    (case,) = _suite(junit_xml(result(made), context))
    properties = _properties(case)
    assert "<bad> & #1" in properties["qemu"]
    assert "]]> -->??[31m?" in properties["qemu"]


def test_huge_text_is_cut() -> None:
    """A message of many megabytes does not make the file larger than GitLab accepts."""
    made = outcome("a.b", Status.FAIL, "x" * 10_000_000, environment={"log_tail": "y" * 10_000_000})
    assert len(junit_xml(result(made), Context(Path("results")))) < 50_000


def test_nothing_ran() -> None:
    """A run without tests still gives a document."""
    assert _suite(junit_xml(result(), Context(Path("results")))).tests == 0
