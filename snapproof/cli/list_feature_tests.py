"""Runs `snapproof kernel --list`; apart from cli/kernel.py, whose imports take four times as long."""

from __future__ import annotations

import argparse

from harness.errors import UsageError
from harness.status import EXIT_NOTHING_RAN
from tests_functional.kernel import registry
from tests_functional.kernel.registry import FeatureTest


def chosen_tests(arguments: argparse.Namespace) -> list[FeatureTest]:
    """Return the tests that `snapproof kernel` runs with these arguments.

    Raises:
        UsageError: --repeat is less than 1.
    """
    if arguments.repeat < 1:
        raise UsageError(f"--repeat {arguments.repeat} is too few; give 1 or more.")
    return registry.chosen(registry.all_tests(), arguments.filter)


def list_feature_tests(arguments: argparse.Namespace) -> int:
    """Print name, recipe and contract of each test that would run; return 3 if there is none."""
    tests = chosen_tests(arguments)
    for test in tests:
        print(f"{test.slug}  {test.recipe}  {test.contract}")
    return 0 if tests else EXIT_NOTHING_RAN
