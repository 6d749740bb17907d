"""Two results beside each other: what is new, what is fixed, what has become slower."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ci.reports.result import RunResult
from harness.errors import UsageError
from harness.status import EXIT_ERROR, EXIT_FAIL, EXIT_PASS, Status
from tests_functional.scenarios.outcome import Outcome

COMPARE_SCHEMA = 1
_FAILED = (Status.FAIL,)
_BROKEN = (Status.ERROR, Status.MISS)
_RIGHT = (Status.PASS, Status.DONE, Status.XPASS)
_GOOD = (Status.PASS, Status.DONE, Status.XFAIL, Status.XPASS)
_ENVIRONMENT = ("qemu", "host_kernel", "host_architecture", "host_cpus", "accelerator", "guest_image_digest")
# Times of these are not of one kind, so that none is slower than the other.
_ACCELERATOR = "accelerator"
# Milliseconds in one unit of a figure, by the end of its name; figures of other kinds are no times.
_MILLISECONDS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "seconds": 1000.0}


@dataclass(frozen=True)
class Thresholds:
    """What is slower, and no noise: both must be exceeded.

    Attributes:
        factor: new time by old time.
        seconds: least difference of a test's time.
        milliseconds: least difference of a figure that is a time.
    """

    factor: float = 1.5
    seconds: float = 5.0
    milliseconds: float = 50.0


@dataclass(frozen=True)
class Change:
    """A test that differs.

    Attributes:
        test: its name.
        old: its status before, "" where it was not there.
        new: its status now, "" where it is not there.
        sentence: what it says now, or said before.
    """

    test: str
    old: str
    new: str
    sentence: str


@dataclass(frozen=True)
class Slower:
    """A time that has grown.

    Attributes:
        test: its name.
        figure: which time of it, "seconds" for that of the whole test.
        old: before, in the figure's unit.
        new: now.
    """

    test: str
    figure: str
    old: float
    new: float


@dataclass(frozen=True)
class Comparison:
    """What differs between two results; each tuple in the order of the tests.

    Attributes:
        changes: by kind; the kinds are the keys of `KINDS`.
        slower: times that have grown.
        environment: what the runs ran on where that differs: name to old and new.
        compared: how many tests are in both.
        notes: what was not compared, and why.
    """

    changes: Mapping[str, tuple[Change, ...]]
    slower: tuple[Slower, ...]
    environment: Mapping[str, tuple[str, str]]
    compared: int
    notes: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """1 for new failures; 2 where a test broke that had not, so that it says nothing; else 0."""
        if self.changes["new failures"]:
            return EXIT_FAIL
        return EXIT_ERROR if self.changes["newly broken"] else EXIT_PASS

    def to_json(self) -> dict[str, Any]:
        """The comparison, version 1 of its format."""
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
"""The kinds of changes: what makes a test one, by its status before and now, None where it was not there."""


def compare(old: RunResult, new: RunResult, thresholds: Thresholds) -> Comparison:
    """Compare two results by the names of their tests.

    Raises:
        UsageError: they have no test in common.
    """
    before = {outcome.name: outcome for outcome in old.outcomes}
    now = {outcome.name: outcome for outcome in new.outcomes}
    names = list(dict.fromkeys((*now, *before)))
    common = [name for name in names if name in before and name in now]
    if not common:
        raise UsageError(
            "The two results have no test in common, so there is nothing to compare; names begin with a "
            "label where a run has several QEMUs."
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


def _status(outcome: Outcome | None) -> Status | None:
    return outcome.status if outcome else None


def _change(name: str, old: Outcome | None, new: Outcome | None) -> Change:
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


def _comparable(old: Outcome, new: Outcome) -> bool:
    return old.environment.get(_ACCELERATOR) == new.environment.get(_ACCELERATOR)


def _slower(old: Outcome, new: Outcome, thresholds: Thresholds) -> list[Slower]:
    """The times of a test that have grown; of one that did not pass both times, none means anything."""
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
