"""Contract: JUnit and KTAP documents are valid whatever a test says, and lose no verdict or reason."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from ci.junit import junit_xml
from ci.ktap import ktap_text
from harness.status import Status
from tests_functional.scenarios.outcome import Outcome
from tests_unit.scenario_values import outcome

# KTAP's two kinds of result line with an optional directive, and its plan (ktap.rst).
_RESULT = re.compile(r" *(not ok|ok) (\d+) ([^#\n]*?)(?: # (SKIP|XFAIL|ERROR|TODO|TIMEOUT)(?: ([^#\n]*))?)?")
_PLAN = re.compile(r" *1\.\.(\d+)")

_NASTY = "It's <bad> & #1 \x00\x1b[31m\udcff\nok 9 forged\r\x0bnot ok 8 \u2028end ü"


def _junit(*outcomes: Outcome) -> ET.Element:
    # As bytes, since that is what CI systems read: it must be encodable too.
    return ET.fromstring(junit_xml(outcomes, "2026-01-02T03:04:05+00:00").encode())


def _cases(root: ET.Element) -> dict[str, ET.Element]:
    return {case.attrib["name"]: case for case in root.iter("testcase")}


def _one_of_each() -> list[Outcome]:
    return [outcome(f"a.{status.value}", status, f"Reason {status.value}.") for status in Status]


def test_junit_counts_every_status_once() -> None:
    """FAIL and XPASS fail, ERROR and MISS err, SKIP and XFAIL skip, and the suite's counts agree."""
    root = _junit(*_one_of_each())
    suite = root.find("testsuite")
    assert suite is not None
    counted = {key: suite.attrib[key] for key in ("tests", "failures", "errors", "skipped")}
    assert counted == {"tests": "8", "failures": "2", "errors": "2", "skipped": "2"}
    kinds = {
        name.partition(".")[2]: [element.tag for element in case if element.tag not in _PLAIN]
        for name, case in _cases(root).items()
    }
    assert kinds == {
        "FAIL": ["failure"], "XPASS": ["failure"], "ERROR": ["error"], "MISS": ["error"],
        "SKIP": ["skipped"], "XFAIL": ["skipped"], "PASS": [], "DONE": [],
    }  # fmt: skip


_PLAIN = ("properties", "system-out")


def test_junit_keeps_skip_reasons() -> None:
    """A skip says why, where GitLab and Jenkins look for it."""
    skipped = _junit(outcome("a.b", Status.SKIP, "QEMU has no file: transport.")).find(".//skipped")
    assert skipped is not None
    assert skipped.attrib["message"] == "QEMU has no file: transport."


def test_junit_names_are_unique() -> None:
    """No two cases share classname and name, or GitLab would drop one."""
    root = _junit(*_one_of_each(), outcome("b.PASS", Status.PASS), outcome("plain", Status.PASS))
    keys = {(case.attrib["classname"], case.attrib["name"]) for case in root.iter("testcase")}
    assert len(keys) == len(Status) + 2


def test_junit_names_check_and_violation() -> None:
    """A failure lists the checks that failed with their violations, not those that passed."""
    checks = (
        {"name": "header", "status": "PASS", "explanation": "fine", "violations": []},
        {
            "name": "golden",
            "status": "FAIL",
            "explanation": "All equal.",
            "violations": [{"sentence": "Page 7."}],
        },
    )
    failure = _junit(outcome("a.b", Status.FAIL, "Wrong.", checks=checks)).find(".//failure")
    assert failure is not None
    assert failure.text == "FAIL golden: All equal.\n  Page 7."


@pytest.mark.parametrize("status", Status)
def test_junit_survives_any_text(status: Status) -> None:
    """Markup, control characters and undecodable bytes of a message leave the document valid."""
    made = outcome("a.b", status, _NASTY, environment={"qemu": _NASTY, "seed": 7}, figures={"stun_ms": 1.5})
    case = _cases(_junit(made))["a.b"]
    properties = {entry.attrib["name"]: entry.attrib["value"] for entry in case.iter("property")}
    assert properties["seed"] == "7"
    assert properties["stun_ms"] == "1.5"
    assert "<bad> & #1 ??[31m?" in properties["qemu"]


def test_junit_of_nothing_is_valid() -> None:
    """A run without tests still gives a document."""
    suite = _junit().find("testsuite")
    assert suite is not None
    assert suite.attrib["tests"] == "0"


def _results(text: str, indent: str = "") -> list[re.Match[str]]:
    """The result lines of one level, after a look at every line of the document."""
    found = []
    for line in text.splitlines():
        match = _RESULT.fullmatch(line)
        known = match or _PLAN.fullmatch(line) or line.strip() == "KTAP version 1" or line.startswith("# ")
        assert known, f"not KTAP: {line!r}"
        if match and re.match(" *", line)[0] == indent:  # type: ignore[index]  # it always matches
            found.append(match)
    return found


def test_ktap_tells_every_status() -> None:
    """What is wrong is 'not ok'; what is not a plain verdict has its directive and reason."""
    found = {match[3]: (match[1], match[4], match[5]) for match in _results(ktap_text(_one_of_each()))}
    assert found == {
        "a.FAIL": ("not ok", None, None),
        "a.ERROR": ("not ok", "ERROR", "Reason ERROR."),
        "a.MISS": ("not ok", "ERROR", "Reason MISS."),
        "a.XPASS": ("not ok", None, None),
        "a.XFAIL": ("ok", "XFAIL", "Reason XFAIL."),
        "a.PASS": ("ok", None, None),
        "a.DONE": ("ok", None, None),
        "a.SKIP": ("ok", "SKIP", "Reason SKIP."),
    }


def test_ktap_plans_count_their_own_level() -> None:
    """The outer plan counts tests, each nested plan its test's checks, and both number from 1."""
    checks = [{"name": f"01-live/c{n}", "status": "PASS"} for n in range(3)]
    checks.append({"name": "01-live/pagemap", "status": "SKIP", "reason": "It cannot be read."})
    text = ktap_text([outcome("a.b", Status.PASS, checks=checks), outcome("c", Status.FAIL)])
    assert text.splitlines()[:4] == ["KTAP version 1", "1..2", "  KTAP version 1", "  1..4"]
    assert [match[2] for match in _results(text, "  ")] == ["1", "2", "3", "4"]
    assert _results(text, "  ")[3].group(4, 5) == ("SKIP", "It cannot be read.")
    assert [match[2] for match in _results(text)] == ["1", "2"]


@pytest.mark.parametrize("status", Status)
def test_ktap_cannot_be_forged(status: Status) -> None:
    """Line breaks, '#' and control characters in any text make no line, no directive, no escape."""
    checks = [{"name": _NASTY, "status": "SKIP", "reason": _NASTY}]
    text = ktap_text([outcome(f"a # TODO {_NASTY}", status, _NASTY, checks=checks)])
    assert len(_results(text)) == 1
    assert len(_results(text, "  ")) == 1
    assert all(letter.isprintable() or letter == "\n" for letter in text)
    text.encode()
