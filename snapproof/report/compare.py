"""Compares two results: what failed newly, what was fixed, what became slower."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from harness.errors import UsageError
from harness.status import EXIT_ERROR, EXIT_FAIL, EXIT_PASS, Status
from snapproof.report.run_result import OutcomeRecord, RunResult
from snapproof.report.text import one_line

COMPARE_SCHEMA = 1
_FAILED = (Status.FAIL,)
_BROKEN = (Status.ERROR, Status.MISS)
_RIGHT = (Status.PASS, Status.DONE, Status.XPASS)
_GOOD = (Status.PASS, Status.DONE, Status.XFAIL, Status.XPASS)
_ENVIRONMENT = ("qemu", "host_kernel", "host_architecture", "host_cpus", "accelerator", "guest_image_digest")
# Times under two accelerators cannot be compared.
_ACCELERATOR = "accelerator"
# Milliseconds in one unit of a figure, by the last word of its name. All other figures are not times.
_MILLISECONDS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "seconds": 1000.0}
_MOST_LETTERS = 300
# For these the sentence adds nothing: it is the old one, or says that the test passed.
_NAME_ONLY = ("fixed", "known issues gone", "no longer skipped", "gone", "new tests")


@dataclass(frozen=True)
class Thresholds:
    """When a time counts as slower: both its factor and its difference must be reached.

    Attributes:
        factor: least ratio of the new time to the old one.
        seconds: least difference of a test's wall time.
        milliseconds: least difference of a figure that is a time.
    """

    factor: float = 1.5
    seconds: float = 5.0
    milliseconds: float = 50.0


@dataclass(frozen=True)
class Change:
    """A test whose status differs.

    Attributes:
        test: its name.
        old: its status before, "" where it did not exist.
        new: its status now, "" where it does not exist.
        sentence: its sentence now; where it does not exist, the old one.
    """

    test: str
    old: str
    new: str
    sentence: str


@dataclass(frozen=True)
class Slower:
    """A time that has grown.

    Attributes:
        test: name of the test.
        figure: name of the figure, "seconds" for the wall time of the test.
        old: before, in the figure's unit.
        new: now.
    """

    test: str
    figure: str
    old: float
    new: float


@dataclass(frozen=True)
class Comparison:
    """The differences between two results; each tuple is in the order of the tests.

    Attributes:
        changes: tests by kind of change; the kinds are the keys of `KINDS`.
        slower: times that have grown.
        environment: old and new value of each part of the environment that differs.
        compared: number of tests that are in both results.
        notes: what was not compared, and why.
    """

    changes: Mapping[str, tuple[Change, ...]]
    slower: tuple[Slower, ...]
    environment: Mapping[str, tuple[str, str]]
    compared: int
    notes: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """Return 1 for new failures, 2 where a test newly ended with ERROR or MISS, else 0."""
        if self.changes["new failures"]:
            return EXIT_FAIL
        return EXIT_ERROR if self.changes["newly broken"] else EXIT_PASS

    def to_json(self) -> dict[str, Any]:
        """Return the comparison for `--json`, in version `COMPARE_SCHEMA` of its format."""
        return {
            "schema": COMPARE_SCHEMA,
            "exit_code": self.exit_code,
            "compared": self.compared,
            **{kind.replace(" ", "_"): [vars(change) for change in self.changes[kind]] for kind in KINDS},
            "slower": [vars(found) for found in self.slower],
            "environment": {name: list(pair) for name, pair in self.environment.items()},
            "notes": list(self.notes),
        }


KINDS: dict[str, Callable[[Status | None, Status | None], bool]] = {
    "new failures": lambda old, new: new in _FAILED and old not in _FAILED,
    "newly broken": lambda old, new: new in _BROKEN and old not in _BROKEN,
    "new known issues": lambda old, new: old not in (Status.XFAIL, None) and new is Status.XFAIL,
    "fixed": lambda old, new: old in (*_FAILED, *_BROKEN) and new in _RIGHT,
    "known issues gone": lambda old, new: old is Status.XFAIL and new in _RIGHT,
    "still failing": lambda old, new: old in _FAILED and new in _FAILED,
    "still broken": lambda old, new: old in _BROKEN and new in _BROKEN,
    "newly skipped": lambda old, new: old not in (Status.SKIP, None) and new is Status.SKIP,
    "no longer skipped": lambda old, new: old is Status.SKIP and new in _GOOD,
    "gone": lambda old, new: old is not None and new is None,
    "new tests": lambda old, new: old is None and new is not None,
}
"""Kinds of changes, each with its condition on a test's old and new status; None means: no such test."""


def compare(old: RunResult, new: RunResult, thresholds: Thresholds) -> Comparison:
    """Compare two results by the names of their tests.

    Raises:
        UsageError: the results have no test in common.
    """
    before = {outcome.name: outcome for outcome in old.outcomes}
    now = {outcome.name: outcome for outcome in new.outcomes}
    names = list(dict.fromkeys((*now, *before)))
    common = [name for name in names if name in before and name in now]
    if not common:
        raise UsageError(
            "The two results have no test in common, so there is nothing to compare. In a run of several "
            "QEMUs the names of tests begin with a label."
        )
    changes = {
        kind: tuple(
            _change(name, before.get(name), now.get(name))
            for name in names
            if fits(_status(before.get(name)), _status(now.get(name)))
        )
        for kind, fits in KINDS.items()
    }
    environment = _environment(old, new)
    slower: list[Slower] = []
    notes = []
    for name in common:
        slower += _slower(before[name], now[name], thresholds)
    unlike = [name for name in common if not _comparable(before[name], now[name])]
    if unlike:
        notes.append(f"Times of {len(unlike)} tests were not compared: their accelerators differ.")
    return Comparison(changes, tuple(slower), environment, len(common), tuple(notes))


def _status(outcome: OutcomeRecord | None) -> Status | None:
    return outcome.status if outcome else None


def _change(name: str, old: OutcomeRecord | None, new: OutcomeRecord | None) -> Change:
    said = new or old
    return Change(
        name,
        old.status.value if old else "",
        new.status.value if new else "",
        said.sentence if said else "",
    )


def _environment(old: RunResult, new: RunResult) -> dict[str, tuple[str, str]]:
    before, now = old.environments(), new.environments()
    return {
        f"{label}: {name}" if label else name: (str(before[label].get(name)), str(now[label].get(name)))
        for label in before
        if label in now
        for name in _ENVIRONMENT
        if before[label].get(name) != now[label].get(name)
    }


def _comparable(old: OutcomeRecord, new: OutcomeRecord) -> bool:
    return old.environment.get(_ACCELERATOR) == new.environment.get(_ACCELERATOR)


def _slower(old: OutcomeRecord, new: OutcomeRecord, thresholds: Thresholds) -> list[Slower]:
    """Return the times of a test that have grown; none unless it passed both times on one accelerator."""
    if old.status not in _GOOD or new.status not in _GOOD or not _comparable(old, new):
        return []
    found = []
    if _grown(old.seconds, new.seconds, thresholds.factor, thresholds.seconds):
        found.append(Slower(new.name, "seconds", round(old.seconds, 3), round(new.seconds, 3)))
    for figure, value in new.figures.items():
        was, unit = old.figures.get(figure), _MILLISECONDS.get(figure.rpartition("_")[2])
        if unit is None or not isinstance(value, int | float) or not isinstance(was, int | float):
            continue
        if _grown(was * unit, value * unit, thresholds.factor, thresholds.milliseconds):
            found.append(Slower(new.name, figure, was, value))
    return found


def _grown(old: float, new: float, factor: float, least: float) -> bool:
    return new - old >= least and new >= old * factor


def comparison_lines(comparison: Comparison) -> Iterator[str]:
    """Yield the differences as lines for a person, the worst first, and a last line with the counts."""
    for name, (old, new) in comparison.environment.items():
        yield f"{one_line(name)}: {one_line(old)} -> {one_line(new)}"
    for kind in KINDS:
        changes = comparison.changes[kind]
        if changes:
            yield f"{kind}:"
            yield from (f"  {_change_line(kind, change)}" for change in changes)
    if comparison.slower:
        yield "slower:"
    for found in comparison.slower:
        # There is no multiple of zero.
        times = f", {found.new / found.old:.1f} times" if found.old else ""
        yield f"  {one_line(found.test)} {one_line(found.figure)}: {found.old:,} -> {found.new:,}{times}"
    yield from comparison.notes
    counts = [f"{len(comparison.changes[kind])} {kind}" for kind in KINDS if comparison.changes[kind]]
    counts += [f"{len(comparison.slower)} slower"] if comparison.slower else []
    yield f"{comparison.compared} tests compared: {', '.join(counts) or 'no difference'}"


def _change_line(kind: str, change: Change) -> str:
    statuses = " -> ".join(filter(None, (change.old, change.new)))
    line = f"{one_line(change.test)} ({statuses})"
    return line if kind in _NAME_ONLY else f"{line}: {one_line(change.sentence, _MOST_LETTERS)}"
