"""Results as JUnit XML, with skip reasons and properties, as GitLab and Jenkins read it."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence

from harness.status import Status
from tests_functional.scenarios.outcome import Outcome

# XML 1.0 section 2.2: control characters that no document may hold, however they are escaped.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_ELEMENTS = {
    Status.FAIL: "failure",
    Status.XPASS: "failure",
    Status.ERROR: "error",
    Status.MISS: "error",
    Status.SKIP: "skipped",
    Status.XFAIL: "skipped",
}


def junit_xml(outcomes: Sequence[Outcome], started: str) -> str:
    """A JUnit document with one test case per outcome.

    Args:
        outcomes: their names must be unique, since GitLab drops duplicates.
        started: ISO 8601 time of the run.
    """
    root = ET.Element("testsuites")
    counts = [_ELEMENTS.get(outcome.status) for outcome in outcomes]
    suite = ET.SubElement(
        root,
        "testsuite",
        name="snapproof",
        timestamp=started,
        tests=str(len(outcomes)),
        failures=str(counts.count("failure")),
        errors=str(counts.count("error")),
        skipped=str(counts.count("skipped")),
        time=f"{sum(outcome.seconds for outcome in outcomes):.3f}",
    )
    for outcome in outcomes:
        suite.append(_case(outcome))
    ET.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _case(outcome: Outcome) -> ET.Element:
    group, _, _ = outcome.name.rpartition(".")
    case = ET.Element(
        "testcase",
        classname=_clean(f"snapproof.{group}" if group else "snapproof"),
        name=_clean(outcome.name),
        time=f"{outcome.seconds:.3f}",
    )
    properties = ET.SubElement(case, "properties")
    for name, value in {**outcome.environment, **outcome.figures}.items():
        text = value if isinstance(value, str) else json.dumps(value)
        ET.SubElement(properties, "property", name=_clean(name), value=_clean(text))
    element = _ELEMENTS.get(outcome.status)
    if element:
        detail = ET.SubElement(case, element, message=_clean(outcome.sentence))
        if element != "skipped":
            detail.set("type", outcome.status.value)
        detail.text = _clean("\n".join(_check_lines(outcome)))
    ET.SubElement(case, "system-out").text = _clean(f"{outcome.sentence}\nFiles: {outcome.folder}")
    return case


def _check_lines(outcome: Outcome) -> list[str]:
    lines = []
    for check in outcome.checks:
        if check["status"] != Status.PASS.value:
            lines.append(f"{check['status']} {check['name']}: {check['explanation']}")
            lines += [f"  {violation['sentence']}" for violation in check.get("violations", [])[:10]]
    return lines


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("?", text)
