"""Runs `snapproof kernel --list`; apart from cli/kernel.py, whose imports take four times as long."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from harness.errors import UsageError
from harness.status import EXIT_NOTHING_RAN
from tests_functional.kernel import registry
from tests_functional.kernel.registry import FeatureTest


def chosen_tests(arguments: argparse.Namespace) -> list[FeatureTest]:
    """Return the tests that `snapproof kernel` runs with these arguments.

    Raises:
        UsageError: --repeat is less than 1, or one of several patterns matches nothing.
    """
    if arguments.repeat < 1:
        raise UsageError(f"--repeat {arguments.repeat} is too few; give 1 or more.")
    require_matches(arguments.filter)
    return registry.chosen(registry.all_tests(), arguments.filter)


def require_matches(patterns: Sequence[str]) -> None:
    """Check that no pattern of feature tests is without effect beside others; if none matches, nothing runs.

    Raises:
        UsageError: some patterns match tests, and others match none.
    """
    tests = registry.all_tests()
    lost = [pattern for pattern in patterns if not registry.chosen(tests, [pattern])]
    if lost and len(lost) < len(patterns):
        raise UsageError(
            f"No feature test matches the filter {', '.join(map(repr, lost))}; "
            "'snapproof kernel --list' shows all tests."
        )


def list_feature_tests(arguments: argparse.Namespace) -> int:
    """Print name, recipe and contract of each test that would run; return 3 if there is none."""
    tests = chosen_tests(arguments)
    for test in tests:
        print(f"{test.slug}  {test.recipe}  {test.contract}")
    return 0 if tests else EXIT_NOTHING_RAN
