"""Runs `snapproof kernel --bisect-archive`: finds versions between which the result of a test changes."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Any

from guest_images.hosts.archive import ARCHIVE, ArchivedKernel, matching_kernels
from harness.errors import SnapproofError, UsageError
from harness.hosts.spec import LOCAL, parse_host
from harness.status import EXIT_ERROR, EXIT_NOTHING_RAN, EXIT_PASS
from snapproof.runs.archive_history import find_change
from snapproof.runs.host_plan import Sources
from tests_functional.kernel import registry

Event = dict[str, Any]
Runs = Callable[[str, str], Iterator[Event]]
"""Runs the tests that match a name on a host, given as for `--host`, and yields the runner's events."""

_UNTESTED = ("ERROR", "TIMEOUT")


def bisect_archive(arguments: argparse.Namespace, sources: Sources, runs: Runs) -> int:
    """Print the result on each version that was tried, and the two neighbours; return the exit code.

    The code is 0 if they were found, 3 if both ends have the same result, and 2 if fewer than two versions
    could be tested.

    Raises:
        UsageError: the name is not that of one test, or `--host` is not a pattern of archived kernels.
    """
    test = _one_test(arguments.bisect_archive)
    kernels = matching_kernels(_pattern(arguments.host), sources.provisioning)
    if len(kernels) < 2:
        raise UsageError(f"Only the kernel {kernels[0].version} matches; a bisection needs two or more.")
    print(f"{test}, on {len(kernels)} kernels from {kernels[0].version} to {kernels[-1].version}", flush=True)
    seen: dict[str, str] = {}

    def result(kernel: ArchivedKernel) -> str | None:
        status, reason = _status(kernel, test, runs)
        seen[kernel.version] = status
        print(f"{kernel.version:10} {status:8} {reason}".rstrip(), flush=True)
        return None if status in _UNTESTED else status

    found = find_change(kernels, result)
    if found is None:
        return _no_change(seen)
    before, after = found
    print(
        f"The result changes between {before.version} ({seen[before.version]}) and {after.version} "
        f"({seen[after.version]}), {_neighbours(kernels, before, after)}."
    )
    return EXIT_PASS


def _one_test(name: str) -> str:
    found = registry.chosen(registry.all_tests(), [name])
    if len(found) != 1:
        raise UsageError(
            f"'{name}' is the name of {len(found)} tests, and --bisect-archive takes one; --list shows all."
        )
    return found[0].slug


def _pattern(text: str) -> str:
    host = parse_host(f"vm:{ARCHIVE}*" if text == LOCAL else text)
    name = host.vm.name if host.vm else ""
    if not name.startswith(ARCHIVE):
        raise UsageError(
            f"--bisect-archive boots kernels of Debian's archive, and '{text}' is another host; give a "
            f"pattern like 'vm:{ARCHIVE}6.12.*'."
        )
    return name.removeprefix(ARCHIVE)


def _status(kernel: ArchivedKernel, test: str, runs: Runs) -> tuple[str, str]:
    try:
        results = [event for event in runs(f"vm:{kernel.name}", test) if event["event"] == "result"]
    except UsageError:
        raise
    except SnapproofError as error:
        return "ERROR", error.sentence
    return (results[0]["status"], results[0]["reason"]) if results else ("ERROR", "The test did not run.")


def _no_change(seen: dict[str, str]) -> int:
    """Say why there is no change, from the status of each version that was tried; return the exit code."""
    tested = [version for version, status in seen.items() if status not in _UNTESTED]
    if len(tested) < 2:
        only = f"Only {tested[0]}" if tested else "No version"
        print(f"{only} could be tested, so there is nothing to compare.")
        return EXIT_ERROR
    # The first and the last version that could be tested were tried, and none between them.
    print(
        f"The result is {seen[tested[0]]} at both ends, {tested[0]} and {tested[1]}. It may change in "
        "between: narrow the versions with --host."
    )
    return EXIT_NOTHING_RAN


def _neighbours(kernels: tuple[ArchivedKernel, ...], before: ArchivedKernel, after: ArchivedKernel) -> str:
    between = kernels[kernels.index(before) + 1 : kernels.index(after)]
    if not between:
        return "neighbours in the archive"
    versions = ", ".join(kernel.version for kernel in between)
    return f"between which {versions} could not be tested"
