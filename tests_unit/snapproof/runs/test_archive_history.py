"""Results over versions: the two neighbours between which one changes, and the tests that differ."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from snapproof.runs.archive_history import changes, find_change

_VERSIONS = tuple(range(20))


def _changing(
    at: int, untested: frozenset[int] = frozenset()
) -> tuple[Callable[[int], str | None], list[int]]:
    tried: list[int] = []

    def result(version: int) -> str | None:
        tried.append(version)
        if version in untested:
            return None
        return "FAIL" if version < at else "PASS"

    return result, tried


@pytest.mark.parametrize("at", range(1, 20))
def test_neighbours_are_found_in_few_steps(at: int) -> None:
    """The two ends, and then as many steps as a bisection takes; none twice."""
    result, tried = _changing(at)
    assert find_change(_VERSIONS, result) == (at - 1, at)
    assert len(tried) == len(set(tried)) <= 2 + 5


def test_versions_that_cannot_be_tested_are_passed_over() -> None:
    """At an end, in the middle and at the change itself."""
    result, tried = _changing(10, frozenset({0, 9, 10, 19}))
    assert find_change(_VERSIONS, result) == (8, 11)
    assert len(tried) == len(set(tried))


def test_equal_ends_have_no_change() -> None:
    """Two versions are tried, and none where nothing can be tested."""
    assert find_change(_VERSIONS, _changing(0)[0]) is None
    assert find_change(_VERSIONS, _changing(5, frozenset(_VERSIONS))[0]) is None
    assert find_change((), _changing(0)[0]) is None


def test_a_third_result_still_gives_a_change() -> None:
    """SKIP in the middle is neither end's result; two neighbours that differ are named."""

    def result(version: int) -> str:
        return "FAIL" if version < 5 else "SKIP" if version < 12 else "PASS"

    found = find_change(_VERSIONS, result)
    assert found is not None
    before, after = found
    assert after == before + 1
    assert result(before) != result(after)


def test_tests_that_differ_are_listed_with_their_versions() -> None:
    """Groups in the order of versions; equal tests are left out."""
    results = {
        "6.12.43": {"a": "FAIL", "b": "PASS"},
        "6.12.57": {"a": "PASS", "b": "PASS"},
        "6.12.69": {"a": "PASS", "b": "PASS"},
        "6.16.12": {"a": "FAIL", "b": "PASS", "c": "PASS"},
    }
    assert changes(results) == [
        "a: FAIL 6.12.43; PASS 6.12.57, 6.12.69; FAIL 6.16.12",
        "c: missing 6.12.43, 6.12.57, 6.12.69; PASS 6.16.12",
    ]
