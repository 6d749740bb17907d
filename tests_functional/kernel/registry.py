"""The feature tests as data: what each is called, runs on, needs, and which known bugs it would catch."""

from __future__ import annotations

import fnmatch
import importlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Callable

from .memory import MemoryType

# The order of suites in a report.
SUITES = (
    "api",
    "events",
    "coverage",
    "preserved",
    "movement",
    "swap",
    "kernel_writers",
    "other_processes",
    "async_scan",
    "lifetime",
    "trackers",
)

NO_MEMORY = "any"
"""Stands for the memory type in the names of tests that need none in particular."""

DEFAULT_SECONDS = 20.0


@dataclass(frozen=True)
class KnownIssue:
    """A defect of kernels that a test is known to see.

    Attributes:
        what: what is wrong, with the commit that fixed it.
        words: of the failure that shows just that.
        fixed_in: version of Linux with the fix, None where there is none yet; from there on the failure
            counts. Kernels before it may have the fix too: then the test passes, which is fine.
        memory: names of the types of memory that it happens on, empty for all.
    """

    what: str
    words: str
    fixed_in: tuple[int, int] | None = None
    memory: tuple[str, ...] = ()

    def explains(self, failure: str, memory: str, release: str) -> bool:
        """Whether a failure on this kernel (`uname -r`) is no more than this."""
        found = re.match(r"(\d+)\.(\d+)", release)
        old = self.fixed_in is None or (found and (int(found[1]), int(found[2])) < self.fixed_in)
        return bool(old) and self.words in failure and (not self.memory or memory in self.memory)


@dataclass(frozen=True)
class FeatureTest:
    """One test on one type of memory.

    Attributes:
        suite: its group, e.g. ``preserved``.
        name: stays the same for ever; what follows a test over time is ``suite.memory.name``.
        memory: what it runs on, None where that is its own choice.
        function: gets a `Trial`, and the variant if it has one.
        variant: which of several similar things to do, empty if there is but one.
        features: bits of userfaultfd that it needs, those of its memory included.
        needs: names from `needs.NEEDS`.
        recipe: what it was written from, e.g. ``R13``; docs/kernel.md lists them.
        bugs: commits of Linux that fixed what it would catch.
        seconds: time limit.
        known_issues: what it sees in kernels known so far.
    """

    suite: str
    name: str
    memory: MemoryType | None
    function: Callable[..., None]
    variant: str
    features: int
    needs: tuple[str, ...]
    recipe: str
    bugs: tuple[str, ...]
    seconds: float
    known_issues: tuple[KnownIssue, ...]

    @property
    def memory_name(self) -> str:
        """The middle part of its slug."""
        return self.memory.name if self.memory else NO_MEMORY

    @property
    def slug(self) -> str:
        """Its whole name."""
        return f"{self.suite}.{self.memory_name}.{self.name}"

    @property
    def contract(self) -> str:
        """What it upholds: the first line of its docstring."""
        return (self.function.__doc__ or "").strip().splitlines()[0]

    def run(self, trial: Any) -> None:
        """Run it in this process."""
        if self.variant:
            self.function(trial, self.variant)
        else:
            self.function(trial)


_TESTS: list[FeatureTest] = []


def feature_test(
    recipe: str,
    *,
    memory: Sequence[MemoryType | None] = (None,),
    variants: Iterable[str] = ("",),
    features: int = 0,
    needs: Iterable[str] = (),
    bugs: Iterable[str] = (),
    seconds: float = DEFAULT_SECONDS,
    known_issues: Iterable[KnownIssue] = (),
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a function a test on each of these types of memory, in each of these variants.

    Its suite is the name of its module, its name that of the function with the variant behind it.
    """
    needed, fixed, issues = tuple(needs), tuple(bugs), tuple(known_issues)

    def register(function: Callable[..., None]) -> Callable[..., None]:
        suite = function.__module__.rpartition(".")[2]
        stem = function.__name__.replace("_", "-")
        _TESTS.extend(
            FeatureTest(
                suite,
                f"{stem}-{variant}" if variant else stem,
                kind,
                function,
                variant,
                features | (kind.features if kind else 0),
                needed + (kind.needs if kind else ()),
                recipe,
                fixed,
                seconds,
                issues,
            )
            for kind in memory
            for variant in variants
        )
        return function

    return register


def all_tests() -> list[FeatureTest]:
    """Every test, by suite, then memory, then as written."""
    for suite in SUITES:
        importlib.import_module(f"{__package__}.checks.{suite}")
    memories = list(dict.fromkeys(test.memory_name for test in _TESTS))
    return sorted(_TESTS, key=lambda test: (SUITES.index(test.suite), memories.index(test.memory_name)))


def chosen(tests: Iterable[FeatureTest], patterns: Sequence[str]) -> list[FeatureTest]:
    """The tests whose slug or recipe matches one of the patterns, as the shell would; all for no pattern."""
    return [
        test
        for test in tests
        if not patterns or any(fnmatch.fnmatch(test.slug, one) or test.recipe == one for one in patterns)
    ]
