"""Compares a result over versions, and finds two neighbouring versions between which it changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

_Version = TypeVar("_Version")
Status = str


def find_change(
    versions: Sequence[_Version], result: Callable[[_Version], Status | None]
) -> tuple[_Version, _Version] | None:
    """Return two versions with different results and no tested version between them, by bisection.

    If the result changes several times, one of the changes is found. Versions that cannot be tested are
    passed over, so the two may not be neighbours.

    Args:
        versions: in order, oldest first.
        result: tests a version and returns its result, None if it cannot be tested.

    Returns:
        The last version before the change and the first after it, None if both ends have the same result.
    """
    found: dict[int, Status | None] = {}

    def tested(index: int) -> Status | None:
        if index not in found:
            found[index] = result(versions[index])
        return found[index]

    places = range(len(versions))
    low = next((index for index in places if tested(index) is not None), -1)
    high = next((index for index in reversed(places) if tested(index) is not None), -1)
    if low < 0 or found[low] == found[high]:
        return None
    while untried := [index for index in range(low + 1, high) if index not in found]:
        centre = low + high
        middle = min(untried, key=lambda index: abs(2 * index - centre))
        if tested(middle) is None:
            continue
        if found[middle] == found[low]:
            low = middle
        else:
            high = middle
    return versions[low], versions[high]


def changes(results: Mapping[str, Mapping[str, Status]]) -> list[str]:
    """Return a line for each test whose result is not the same on all versions.

    Args:
        results: for each version, oldest first, the status of each test by name.

    Returns:
        Lines such as ``swap.anon.a-test: FAIL 6.12.43; PASS 6.12.57, 6.12.69``; versions with the same result
        as the one before are in one group.
    """
    tests = dict.fromkeys(test for statuses in results.values() for test in statuses)
    lines = []
    for test in tests:
        groups: list[tuple[Status, list[str]]] = []
        for version, statuses in results.items():
            status = statuses.get(test, "missing")
            if groups and groups[-1][0] == status:
                groups[-1][1].append(version)
            else:
                groups.append((status, [version]))
        if len(groups) > 1:
            lines.append(f"{test}: " + "; ".join(f"{status} {', '.join(group)}" for status, group in groups))
    return lines
