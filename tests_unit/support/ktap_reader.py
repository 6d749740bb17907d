"""A strict reader of KTAP, after Documentation/dev-tools/ktap.rst of Linux 6.12; all else is an error."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_VERSION = "KTAP version 1"
_PLAN = re.compile(r"1\.\.(\d+)")
_RESULT = re.compile(
    r"(?P<ok>ok|not ok) (?P<number>\d+)(?: - )?(?: (?P<name>[^#\n]*?))?"
    r"(?: # (?P<directive>SKIP|TODO|XFAIL|TIMEOUT|ERROR)(?: (?P<reason>[^#\n]*))?)?"
)


@dataclass
class Result:
    """A result line, with the nested document before it."""

    name: str
    ok: bool
    directive: str = ""
    reason: str = ""
    below: list[Result] = field(default_factory=list)
    diagnostics: list[str] = field(default_factory=list)


def read_ktap(text: str) -> list[Result]:
    """The results of a document.

    Raises:
        AssertionError: it is not KTAP; the message names the line.
    """
    assert text.endswith("\n")
    lines = text[:-1].split("\n")
    found, rest = _document(lines, "")
    assert not rest, f"after the end: {rest[0]!r}"
    return found


def _document(lines: list[str], indent: str) -> tuple[list[Result], list[str]]:
    assert lines[0] == indent + _VERSION, f"no version line: {lines[0]!r}"
    plan = _PLAN.fullmatch(lines[1].removeprefix(indent))
    assert plan, f"no plan: {lines[1]!r}"
    found: list[Result] = []
    rest = lines[2:]
    below: list[Result] = []
    said: list[str] = []
    while len(found) < int(plan[1]):
        assert rest, "the document ends before its plan is fulfilled"
        line = rest[0]
        if line == f"{indent}  {_VERSION}":
            assert not below, f"two nested documents before one result: {line!r}"
            below, rest = _document(rest, indent + "  ")
            continue
        rest = rest[1:]
        assert line.startswith(indent), f"too little indentation: {line!r}"
        line = line.removeprefix(indent)
        if line.startswith("# "):
            said.append(line[2:])
            continue
        match = _RESULT.fullmatch(line)
        assert match, f"not KTAP: {line!r}"
        assert int(match["number"]) == len(found) + 1, f"out of order: {line!r}"
        found.append(
            Result(
                match["name"] or "",
                match["ok"] == "ok",
                match["directive"] or "",
                match["reason"] or "",
                below,
                said,
            )
        )
        below, said = [], []
    return found, rest
