"""Makes the view of a test for report.html, from results.json and the test's folder."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from harness.status import Status
from snapproof.report.charts.samples import is_number
from snapproof.report.charts.times import SaveTimes
from snapproof.report.html.checked import BLOCK, clean, duration, inside, items, link, mapping, number, tail
from snapproof.report.html.figures import SNAPSHOT_FIGURES, figure_name, figure_text, snapshot_table
from snapproof.report.html.pictures import Pictures
from snapproof.report.html.qmp_log import QmpLog, read_qmp_log
from snapproof.report.html.views import BAD, CheckView, FileLink, TestView, ViolationView

_GOOD_CHECKS = ("PASS", "DONE")
_STATUSES = tuple(status.value for status in Status)
_SHOWN_CHECKS = 12
_SHOWN_VIOLATIONS = 3
_SHOWN_RANGES = 8
_SHOWN_FIGURES = 40
_SHOWN_FILES = 40
_TIMELINES = 6
_SCRIPT_BYTES = 16_384
# Shown once for the whole run, or of no use beside a result.
_QUIET = ("evidence", "ssh_host_key")


@dataclass(frozen=True)
class Reading:
    """The values that all tests of a page share.

    Attributes:
        folder: the results folder.
        command: the command of the whole run.
        legs: the environment of each leg by its label; the page shows it once.
        pictures: draws the charts.
        base: the beginning of links to files of the results folder.
    """

    folder: Path
    command: Sequence[str]
    legs: Mapping[str, Mapping[str, Any]]
    pictures: Pictures
    base: str


def status_of(value: object) -> str:
    """Return a known status, ERROR for any other value."""
    return value if isinstance(value, str) and value in _STATUSES else "ERROR"


def brief_view(index: int, test: Mapping[str, Any], column: int, leg: str, short: str) -> TestView:
    """Return the short view of a test, for lists: name, status and sentence.

    Args:
        index: its number in the run.
        test: its entry in results.json.
        column: index of its host stack.
        leg: label of its leg, "" if there is only one.
        short: its name without the label.
    """
    return TestView(
        number=index,
        name=clean(test.get("name"), 200) or "(without a name)",
        column=column,
        leg=leg,
        short=clean(short, 200) or "(without a name)",
        group=clean(short.partition(".")[0], 60) or "(no group)",
        status=status_of(test.get("status")),
        sentence=clean(test.get("sentence")),
        time=duration(number(test.get("seconds"))),
    )


def complete(view: TestView, test: Mapping[str, Any], reading: Reading) -> None:
    """Add checks, figures, files and pictures to the short view of a test."""
    folder = inside(reading.folder, test.get("folder"))
    folder = folder if folder and folder.is_dir() else None
    checks = [mapping(check) for check in items(test.get("checks"), 20_000)]
    open_checks = [check for check in checks if check.get("status") not in _GOOD_CHECKS]
    open_checks.sort(key=lambda check: _STATUSES.index(status_of(check.get("status"))))
    log = QmpLog()
    if folder and (path := inside(reading.folder, f"{test['folder']}/qmp.jsonl")):
        # The log of a test that passed is read for its pictures only.
        log = read_qmp_log(path) if view.bad or not reading.pictures.used_up else log
    view.passed = len(checks) - len(open_checks)
    view.checks = [check_view(check, log.lengths, reading.pictures) for check in open_checks[:_SHOWN_CHECKS]]
    view.hidden_checks = len(open_checks) - len(view.checks)
    figures = mapping(test.get("figures"))
    view.snapshots = snapshot_table(figures)
    view.figures = [
        (figure_name(name), figure_text(name, value))
        for name, value in list(figures.items())[:_SHOWN_FIGURES]
        if name.rpartition("/")[2] not in SNAPSHOT_FIGURES or "/" not in name
    ]
    view.environment, view.evidence = _environment(test, reading.legs.get(view.leg, {}))
    view.links = _files(reading.folder, folder, reading.base) if folder else []
    view.command = _command(folder, view, reading)
    view.pictures = [
        picture
        for save in _telling(log.saves, view)[:_TIMELINES]
        if (picture := reading.pictures.timeline(save, _stall(figures, save.label)))
    ]


def _telling(saves: Sequence[SaveTimes], view: TestView) -> list[SaveTimes]:
    """Return the saves to draw: those that a bad check names, or else those with a name, or else all.

    In a test whose snapshots have names, a save without one only measures the stun.
    """
    bad = {check.name.partition("/")[0] for check in view.checks if check.status in BAD}
    found = [save for save in saves if save.label in bad]
    return found or [save for save in saves if save.named] or list(saves)


def check_view(check: Mapping[str, Any], lengths: Mapping[str, int], pictures: Pictures) -> CheckView:
    """Return the view of a check that did not pass; a failed one has the map of its bad pages."""
    status = status_of(check.get("status"))
    name = clean(check.get("name"), 120)
    violations = items(check.get("violations"), _SHOWN_VIOLATIONS)
    known = len(items(check.get("violations")))
    ranges = [mapping(one) for one in items(check.get("ranges"), _SHOWN_RANGES)]
    bad = status in BAD
    picture = pictures.page_map(check.get("ranges"), lengths, f"Bad pages of {name}") if bad else Markup()
    return CheckView(
        name=name,
        status=status,
        explanation=clean(check.get("explanation")),
        reason=clean(check.get("reason")),
        total=max(known, int(number(check.get("total")))),
        violations=[violation_view(mapping(one)) for one in violations],
        issue=clean(check.get("known_issue"), 20),
        ranges=[range_text(one) for one in ranges],
        picture=picture,
    )


def violation_view(violation: Mapping[str, Any]) -> ViolationView:
    """Return the view of a violation, with its place in words."""
    sentence = clean(violation.get("sentence"))
    names = [("gpa", "guest-physical"), ("file_offset", "file offset")]
    if "RAMBlock" not in sentence:
        # Most sentences name the page, which is not repeated then.
        names = [("block", "RAMBlock"), ("offset", "offset"), *names]
    places = []
    for name, word in names:
        value = violation.get(name)
        if isinstance(value, int) and not isinstance(value, bool):
            places.append(f"{word} 0x{value:x}" if abs(value) < 1 << 64 else f"{word} beyond 64 bits")
        elif isinstance(value, str) and value:
            places.append(f"{word} {clean(value, 80)}")
    return ViolationView(
        sentence=sentence,
        place=", ".join(places),
        expected=clean(violation.get("expected"), 300),
        found=clean(violation.get("found"), 300),
        hexdump=clean(violation.get("hexdump"), 1200),
    )


def range_text(one: Mapping[str, Any]) -> str:
    """Return a range of bad pages in words."""
    start, end, pages = (int(number(one.get(name))) for name in ("start", "end", "pages"))
    return (
        f"{clean(one.get('block'), 80)} 0x{start:x} to 0x{end:x}, {pages:,} page{'' if pages == 1 else 's'}"
    )


def _stall(figures: Mapping[str, Any], label: str) -> float | None:
    value = number(figures.get(f"{label}/largest_write_stall_us"), -1.0)
    return value if is_number(value) and value >= 0 else None


def _environment(
    test: Mapping[str, Any], common: Mapping[str, Any]
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return the values of a test's environment that differ from its leg's, and the evidence of an error."""
    own = mapping(test.get("environment"))
    shown = [
        (figure_name(name), clean(value, 300) if name == "seed" else figure_text(name, value))
        for name, value in list(own.items())[:60]
        if str(common.get(name)) != str(value) and name not in _QUIET and not isinstance(value, dict | list)
    ]
    evidence = mapping(own.get("evidence"))
    command = items(evidence.get("command"), 400)
    rows = [
        ("command", clean(shlex.join(map(str, command)), BLOCK) if command else ""),
        ("exit code", clean(evidence.get("exit_code"), 20)),
        ("last lines", tail(evidence.get("log_tail"))),
        ("files", "\n".join(clean(path, 300) for path in items(evidence.get("paths"), 20))),
    ]
    return shown, [row for row in rows if row[1]]


def _files(root: Path, folder: Path, base: str) -> list[FileLink]:
    """Return links to the files of a test's folder and of the folders in it, logs first."""
    found: list[Path] = []
    try:
        for path in sorted(folder.iterdir()):
            if path.is_symlink():
                continue
            if path.is_file():
                found.append(path)
            elif path.is_dir():
                found += [one for one in sorted(path.iterdir()) if one.is_file() and not one.is_symlink()]
        found.sort(key=lambda path: (path.parent != folder, path.suffix not in (".log", ".sh", ".jsonl")))
        return [
            FileLink(
                clean(path.relative_to(folder).as_posix(), 120),
                link(root, path, base),
                size_words(path.stat().st_size),
            )
            for path in found[:_SHOWN_FILES]
        ]
    except OSError:
        return []


def size_words(size: float) -> str:
    """Return a number of bytes as text."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 10 else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def _command(folder: Path | None, view: TestView, reading: Reading) -> str:
    """Return the command that repeats the test: from its reproduce.sh, or else the run's with a filter."""
    script = folder / "reproduce.sh" if folder else None
    if script and script.is_file() and not script.is_symlink():
        try:
            with script.open("rb") as file:
                lines = file.read(_SCRIPT_BYTES).decode("utf-8", "replace").splitlines()
        except OSError:
            lines = []
        for line in lines:
            if line.startswith("exec "):
                return clean(line.removeprefix("exec "), BLOCK)
    words = list(map(str, reading.command))
    if words[1:2] != ["run"]:
        # The command of a merge runs no tests.
        return ""
    for option in ("--filter", "--shard"):
        while option in words:
            del words[words.index(option) : words.index(option) + 2]
    return clean(shlex.join([*words, "--filter", view.short]), BLOCK)
