"""Writes results as JUnit XML with skip reasons, properties and a tail of the log, for GitLab and Jenkins."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

from harness.status import Status
from snapproof.report.context import Context
from snapproof.report.run_result import OutcomeRecord, RunResult, parts_of
from snapproof.report.text import log_tail

# XML 1.0 section 2.2: control characters that no document may hold, even escaped. A carriage return is
# allowed, but readers turn it into a line feed.
_FORBIDDEN = re.compile("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_ELEMENTS = {
    Status.FAIL: "failure",
    Status.ERROR: "error",
    Status.MISS: "error",
    Status.SKIP: "skipped",
    Status.XFAIL: "skipped",
}
_MOST_VIOLATIONS = 10
# GitLab refuses files above 30 MB (docs.gitlab.com, unit test reports).
_MOST_LETTERS = 4 << 10
_CUT = " [cut off here]"


def junit_xml(result: RunResult, context: Context) -> str:
    """Return a JUnit document with one test case per outcome.

    Args:
        result: the results; the names of their outcomes must be unique, because GitLab drops duplicates.
        context: says where the logs are, which are shown and named.
    """
    outcomes = result.outcomes
    root = ET.Element("testsuites")
    counts = [_ELEMENTS.get(outcome.status) for outcome in outcomes]
    suite = ET.SubElement(
        root,
        "testsuite",
        name="snapproof",
        timestamp=_clean(result.started),
        tests=str(len(outcomes)),
        failures=str(counts.count("failure")),
        errors=str(counts.count("error")),
        skipped=str(counts.count("skipped")),
        time=f"{sum(outcome.seconds for outcome in outcomes):.3f}",
    )
    for outcome in outcomes:
        suite.append(_case(outcome, context))
    ET.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _case(outcome: OutcomeRecord, context: Context) -> ET.Element:
    group = ".".join(parts_of(outcome.name)[:-1])
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
    ET.SubElement(case, "system-out").text = _output(outcome, context)
    return case


def _output(outcome: OutcomeRecord, context: Context) -> str:
    lines = [outcome.sentence, f"Files: {outcome.folder}"]
    files: list[Path] = []
    if _ELEMENTS.get(outcome.status) in ("failure", "error"):
        lines += log_tail(context.folder / outcome.folder / "test.log")
        files = context.files(outcome)
    # Jenkins (junit-attachments) and GitLab read these relative to the job's folder. They must not be cut
    # short.
    attachments = [_clean(f"[[ATTACHMENT|{context.from_here(path)}]]") for path in files]
    return "\n".join([_clean("\n".join(map(_no_attachment, lines))), *attachments])


def _no_attachment(line: str) -> str:
    """Break up `[[` in a line, so that a log cannot attach any file of Jenkins or GitLab to the report."""
    return re.sub(r"\[(?=\[)", "[ ", line)


def _check_lines(outcome: OutcomeRecord) -> list[str]:
    lines = []
    for check in outcome.checks:
        if check["status"] != Status.PASS.value:
            lines.append(f"{check['status']} {check['name']}: {check['explanation']}")
            violations = check.get("violations", [])[:_MOST_VIOLATIONS]
            lines += [f"  {violation['sentence']}" for violation in violations]
    return lines


def _clean(text: str) -> str:
    if len(text) > _MOST_LETTERS:
        text = text[: _MOST_LETTERS - len(_CUT)] + _CUT
    return _FORBIDDEN.sub("?", text)
