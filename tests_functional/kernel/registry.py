"""The list of feature tests: the name, memory type, needs, time limit and known issues of each."""

from __future__ import annotations

import fnmatch
import importlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Callable

from .content import Content
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
    "matrix",
    "trackers",
)

# They install signal handlers and change mappings of the whole process.
_ALONE = ("trackers",)

NO_MEMORY = "any"
"""The memory part of the name of a test that chooses its memory itself."""

DEFAULT_SECONDS = 20.0


@dataclass(frozen=True)
class KernelIssue:
    """A kernel defect that a test is known to detect; such a failure is XFAIL.

    Attributes:
        what: what is wrong, with the commit that fixed it.
        code: code of the assertion that fails because of it, see `trial.CheckFailed`.
        fixed_in: first Linux version with the fix, None if there is none yet. The version decides, because
            the defect cannot be probed without running the test. From this version on the failure is a FAIL.
            An older kernel may have the fix as a backport; then the test passes.
        memory: names of the memory types that are affected, empty for all.
        content: names of the contents of pages that are affected (`content.CONTENTS`), empty for all.
    """

    what: str
    code: str
    fixed_in: tuple[int, int] | None = None
    memory: tuple[str, ...] = ()
    content: tuple[str, ...] = ()

    def explains(self, code: str, memory: str, release: str, content: str = "") -> bool:
        """Return whether this defect explains a failed assertion on a kernel (`uname -r`)."""
        found = re.match(r"(\d+)\.(\d+)", release)
        old = self.fixed_in is None or (found and (int(found[1]), int(found[2])) < self.fixed_in)
        affected = (not self.memory or memory in self.memory) and (
            not self.content or content in self.content
        )
        return bool(old) and self.code == code and affected


@dataclass(frozen=True)
class FeatureTest:
    """One test on one type of memory.

    Attributes:
        suite: its group, e.g. ``preserved``.
        name: must never change: results are compared over time by ``suite.memory.name``.
        memory: the memory type that it runs on, None if the test chooses its memory itself.
        function: called with a `Trial`, and the variant if there is one.
        variant: the one of several similar actions to test, empty if there is only one.
        features: userfaultfd features that it needs, including those of its memory type.
        needs: names from `needs.NEEDS`.
        recipe: number of the test idea that it implements, e.g. ``R13``; docs/kernel.md lists them.
        bugs: Linux commits that fixed bugs which it would detect.
        seconds: time limit.
        known_issues: kernel defects that it is known to detect.
        content: what its pages are made of, None for the memory type's usual pages.
        alone: whether it needs a process of its own: it changes that for good, or is a race on several
            processors.
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
    known_issues: tuple[KernelIssue, ...]
    content: Content | None = None
    alone: bool = False

    @property
    def memory_name(self) -> str:
        """Name of its memory type, the middle part of its slug."""
        return self.memory.name if self.memory else NO_MEMORY

    @property
    def slug(self) -> str:
        """Its full name: suite, memory and name."""
        return f"{self.suite}.{self.memory_name}.{self.name}"

    @property
    def contract(self) -> str:
        """The behaviour that it asserts: the first line of its docstring, which `python -OO` removes."""
        return (self.function.__doc__ or "").strip().partition("\n")[0]

    def run(self, trial: Any) -> None:
        """Run the test in this process."""
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
    known_issues: Iterable[KernelIssue] = (),
    alone: bool = False,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function as one test for each of these memory types and variants.

    The suite is the name of the function's module; the test's name is that of the function, followed by the
    variant. See `FeatureTest` for the arguments.
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
                alone=alone or suite in _ALONE,
            )
            for kind in memory
            for variant in variants
        )
        return function

    return register


def add(tests: Iterable[FeatureTest]) -> None:
    """Register tests that are made otherwise than by `feature_test`."""
    _TESTS.extend(tests)


def all_tests() -> list[FeatureTest]:
    """Return all tests, ordered by suite, then memory type, then place in the source."""
    for suite in SUITES:
        importlib.import_module(f"{__package__}.checks.{suite}")
    memories = list(dict.fromkeys(test.memory_name for test in _TESTS))
    return sorted(_TESTS, key=lambda test: (SUITES.index(test.suite), memories.index(test.memory_name)))


def chosen(tests: Iterable[FeatureTest], patterns: Sequence[str]) -> list[FeatureTest]:
    """Return the tests whose slug matches a shell pattern or whose recipe equals it; all without patterns."""
    return [
        test
        for test in tests
        if not patterns or any(fnmatch.fnmatch(test.slug, one) or test.recipe == one for one in patterns)
    ]
