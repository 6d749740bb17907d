"""Makes the view of a run for report.html: verdict, matrix, failures, known issues, skips, all tests."""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from harness.status import Status
from snapproof.report.html.bench import bench_beside
from snapproof.report.html.checked import BLOCK, clean, duration, items, link, mapping, number
from snapproof.report.html.environment import column_of, common_to, legs_of, rows_of, stacks_table
from snapproof.report.html.explored import explored_beside
from snapproof.report.html.pictures import CHARTS, Pictures
from snapproof.report.html.tests import Reading, brief_view, complete, size_words, status_of
from snapproof.report.html.views import Column, FileLink, GroupView, IssueView, Matrix, RunPage, TestView
from tests_functional.lib.known_issues import KnownIssue, load_known_issues

TEST_LIMIT = 2000
"""Most tests in the full list; a nightly run of four QEMUs has about 400."""

FAILURE_LIMIT = 40
"""Most failures with a section of their own; the others are lines."""

_BUT_KNOWN = "All that is not known passed; see the known issues."
_FEW_CHARTS = f"Not every snapshot has a timeline here: a page has {CHARTS} charts of tests at most."
_COLUMN_LIMIT = 24
_ROW_LIMIT = 200
_ROOT = Path(__file__).parents[3]
_FILES = (
    "results.json",
    "junit.xml",
    "results.ktap",
    "events.jsonl",
    "stack.json",
    "bench.json",
    "explore.json",
)
_MEANINGS = {
    "0": "Everything passed.",
    "1": "A snapshot, QEMU or the kernel is wrong.",
    "2": "A test or its set-up broke, or machinery is missing. This says nothing about the snapshot.",
    "3": "Nothing ran.",
    "4": "Everything was skipped, each test with its reason.",
}


def run_page(result: Mapping[str, Any], folder: Path, pictures: Pictures, base: str) -> RunPage:
    """Return everything that the page shows of a run; see `report_html` for the arguments."""
    legs = legs_of(mapping(result.get("environment")))
    common = common_to(list(legs.values()))
    raw = [mapping(test) for test in items(result.get("tests"))]
    command = [str(word) for word in items(result.get("command"), 400)]
    # The seed is an argument of the run, and all tests have it.
    common |= _seed(command)
    legs = {label: {**leg, **_seed(command)} for label, leg in legs.items()}
    tests, columns = _brief(raw, legs)
    shown = _chosen(tests)
    reading = Reading(folder, command, legs, pictures, base)
    # Failures first, so that they get the charts.
    for test in sorted(shown, key=lambda test: not test.bad):
        complete(test, raw[test.number], reading)
    failures = sorted((test for test in shown if test.bad), key=_severity)
    status = clean(result.get("status"), 12) or "NONE"
    exit_code = clean(result.get("exit_code"), 4)
    counts = _counts(tests)
    groups = _groups(shown)
    return RunPage(
        title=f"{status}: snapproof",
        status=status if status in {one.value for one in Status} else "NONE",
        headline=_headline(tests, counts),
        meaning=_BUT_KNOWN if exit_code == "0" and "XFAIL" in dict(counts) else _MEANINGS.get(exit_code, ""),
        exit_code=exit_code,
        started=clean(result.get("started"), 40),
        time=duration(number(result.get("seconds"))),
        command=clean(shlex.join(command), BLOCK),
        counts=counts,
        environment=rows_of(common, minor=False),
        details=rows_of(common, minor=True),
        stacks=stacks_table(legs, common),
        matrix=_matrix(groups, columns),
        failures=failures[:FAILURE_LIMIT],
        more_failures=failures[FAILURE_LIMIT:],
        issues=_issues(shown, raw),
        findings=_findings(folder),
        skips=_skips(tests),
        bench=bench_beside(folder, pictures),
        explored=explored_beside(folder),
        lists=_lists(groups, columns),
        total=len(tests),
        more_tests=len(tests) - len(shown),
        links=_links(folder, base),
        notes=[f"Not every snapshot has a timeline here: a page has {CHARTS} charts of tests at most."]
        if pictures.used_up
        else [],
    )


def _links(folder: Path, base: str) -> list[FileLink]:
    """Return links to the files of a results folder that are there."""
    return [
        FileLink(name, link(folder, folder / name, base), size_words((folder / name).stat().st_size))
        for name in _FILES
        if (folder / name).is_file()
    ]


def _brief(
    raw: Sequence[Mapping[str, Any]], legs: Mapping[str, Mapping[str, Any]]
) -> tuple[list[TestView], list[Column]]:
    """Return all tests in short form, and the columns that they are in."""
    columns: list[Column] = []
    tests = []
    for index, test in enumerate(raw):
        column, leg, name = column_of(test, legs)
        if column not in columns:
            # A test that was never started may not know its whole stack; it goes to the column of its leg.
            near = next((one for one in columns if one.label == column.label and not column.qemu), None)
            if near is None and len(columns) < _COLUMN_LIMIT:
                columns.append(column)
            column = near or (column if column in columns else columns[-1])
        tests.append(brief_view(index, test, columns.index(column), leg, name))
    return tests, columns


def _chosen(tests: Sequence[TestView]) -> list[TestView]:
    """Return the tests that the page shows, in their order: if there are too many, the worst ones."""
    if len(tests) <= TEST_LIMIT:
        return list(tests)
    worst = sorted(tests, key=_severity)[:TEST_LIMIT]
    return sorted(worst, key=lambda test: test.number)


def _severity(test: TestView) -> int:
    return _ORDER.index(test.status)


_ORDER = [status.value for status in Status]


def _counts(tests: Iterable[TestView]) -> list[tuple[str, int]]:
    found = Counter(test.status for test in tests)
    return [(status, found[status]) for status in _ORDER if found[status]]


def _headline(tests: Sequence[TestView], counts: Sequence[tuple[str, int]]) -> str:
    if not tests:
        return "No test ran"
    if len(tests) == 1:
        return tests[0].sentence
    bad = sum(test.bad for test in tests)
    skipped = dict(counts).get("SKIP", 0)
    said = f"{bad} of {len(tests):,} tests went wrong" if bad else f"None of {len(tests):,} tests went wrong"
    said += f", {skipped:,} skipped" if skipped else ""
    known = dict(counts).get("XFAIL", 0)
    return f"{said}, {known:,} as a known issue says" if known else said


def _seed(command: Sequence[str]) -> dict[str, str]:
    if "--seed" in command[:-1]:
        return {"seed": command[command.index("--seed") + 1]}
    return {}


def _groups(tests: Iterable[TestView]) -> dict[tuple[int, str], GroupView]:
    """Sort tests by column and group. Anchors are numbers, because the name of a group may be any text."""
    found: dict[tuple[int, str], list[TestView]] = {}
    for test in tests:
        found.setdefault((test.column, test.group), []).append(test)
    return {
        place: GroupView(place[1], f"list-{number}", _counts(mine), mine)
        for number, (place, mine) in enumerate(found.items())
    }


def _matrix(groups: Mapping[tuple[int, str], GroupView], columns: Sequence[Column]) -> Matrix | None:
    """Return the matrix of host stacks and test groups, None if it would have one cell."""
    if len(groups) < 2:
        return None
    names = list(dict.fromkeys(name for _, name in groups))[:_ROW_LIMIT]
    rows = [(name, [groups.get((index, name)) for index in range(len(columns))]) for name in names]
    return Matrix(columns, rows, len({column.host_kernel for column in columns}) > 1)


def _lists(
    groups: Mapping[tuple[int, str], GroupView], columns: Sequence[Column]
) -> list[tuple[str, list[GroupView]]]:
    """Return the full list: for each host stack a title and its groups; a single stack has no title."""
    titles = [
        f"{one.label} QEMU {one.qemu or 'unknown'} on Linux {one.host_kernel or 'unknown'}" for one in columns
    ]
    return [
        (
            title if len(columns) > 1 else "",
            [group for (column, _), group in groups.items() if column == index],
        )
        for index, title in enumerate(titles)
    ]


def _issues(tests: Iterable[TestView], raw: Sequence[Mapping[str, Any]]) -> list[IssueView]:
    """Return the known issues that checks name, with the tests in which they showed and did not."""
    baseline = {issue.id: issue for issue in load_known_issues()}
    seen: dict[str, dict[int, TestView]] = {}
    unseen: dict[str, dict[int, TestView]] = {}
    for test in tests:
        for check in map(mapping, items(raw[test.number].get("checks"), 20_000)):
            name = clean(check.get("known_issue"), 20)
            if name:
                found = unseen if status_of(check.get("status")) == Status.XPASS.value else seen
                found.setdefault(name, {})[test.number] = test
    names = sorted({*seen, *unseen}, key=lambda name: (len(name), name))[:100]
    return [
        _issue(name, baseline.get(name), [*seen.get(name, {}).values()], [*unseen.get(name, {}).values()])
        for name in names
    ]


def _issue(name: str, known: KnownIssue | None, seen: list[TestView], unseen: list[TestView]) -> IssueView:
    if known is None:
        return IssueView(name, "", "", "", "", seen, unseen)
    href = known.upstream if known.upstream.startswith("https://") else ""
    return IssueView(name, known.title, known.reproduce, known.upstream, href, seen, unseen)


def _findings(folder: Path) -> str:
    """Return a link to docs/findings.md if the results lie in the project's own folder, else ""."""
    page = _ROOT / "docs" / "findings.md"
    if folder.resolve().is_relative_to(_ROOT) and page.is_file():
        return quote(
            Path(os.path.relpath(page, folder.resolve())).as_posix(), safe="/", errors="surrogateescape"
        )
    return ""


def _skips(tests: Iterable[TestView]) -> list[tuple[str, list[TestView]]]:
    """Return skipped tests by reason, the most frequent reason first."""
    found: dict[str, list[TestView]] = {}
    for test in tests:
        if test.status == Status.SKIP.value:
            found.setdefault(test.sentence, []).append(test)
    return sorted(found.items(), key=lambda pair: -len(pair[1]))[:200]
