"""Name the code that is mutated, by area, and the tests that have to notice."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Area:
    """Modules with a common goal.

    Attributes:
        name: for the command line and the table.
        modules: glob patterns from the top of the tree.
        goal_percent: the least share of mutants to be killed; None where there is no goal.
        without: folders or modules that belong to another area, or to none.
    """

    name: str
    modules: tuple[str, ...]
    goal_percent: int | None
    without: tuple[str, ...] = ()

    def paths(self, root: Path) -> list[str]:
        """Return the area's modules, from the top of the tree at `root`."""
        found = {path.relative_to(root).as_posix() for one in self.modules for path in root.glob(one)}
        return sorted(path for path in found if not path.startswith(self.without))


AREAS = (
    Area("validators", ("validators/**/*.py",), 95, ("validators/faults/",)),
    Area(
        "harness",
        (
            "harness/qemu/qmp.py",
            "harness/qemu/ram.py",
            "harness/qemu/migration.py",
            "harness/qemu/messages.py",
            "harness/linux/kernel_log.py",
            "harness/linux/cgroup.py",
            "harness/linux/mappings.py",
            "harness/limits.py",
        ),
        90,
    ),
    # Not those that prepare: guests, their sizes, a run's folders, and the Avocado class.
    Area(
        "scenarios",
        (
            "tests_functional/lib/measure/[cfmstw]*.py",
            "tests_functional/lib/build_outcome.py",
            "tests_functional/lib/host_limits.py",
            "tests_functional/lib/known_issues.py",
            "tests_functional/lib/o*.py",
            "tests_functional/lib/restored_checks.py",
            "tests_functional/lib/s[aoty]*.py",
        ),
        90,
        (
            "tests_functional/lib/measure/warm_guest.py",
            "tests_functional/lib/own_guest.py",
            "tests_functional/lib/stack_file.py",
        ),
    ),
    # They plant, they do not judge; a fault that stays away shows in selftest.
    Area("faults", ("validators/faults/**/*.py",), None),
)

TESTS = (
    "tests_unit/validators",
    "tests_unit/harness/linux",
    "tests_unit/harness/qemu",
    "tests_unit/harness/test_limits.py",
    "tests_unit/harness/test_status.py",
    "tests_unit/tests_functional/failures",
    "tests_unit/tests_functional/lib",
    "tests_unit/tests_functional/memory",
    "tests_unit/tests_functional/offline",
    "tests_unit/tests_functional/planted",
    "tests_unit/tests_functional/refusals",
    "tests_unit/tests_functional/repetition",
    "tests_unit/tests_functional/run_states",
    "tests_unit/tests_functional/snapshot",
    "tests_unit/snapproof/bench/test_downtime.py",
    "tests_unit/snapproof/bench/test_statistics.py",
    "tests_unit/snapproof/cli/test_validator_commands.py",
)
"""The tests that mutants are tried with. Others start commands, browsers, SSH servers and kernel tests."""

NOT_TRIED = (
    # They measure time and memory, so that a busy host or a tracer fails them.
    "test_hostile_files_cost_little",
    "test_cost_is_linear_in_the_records",
    # It reads the source of all folders for words that belong elsewhere, and runs no code of theirs.
    "test_facts_of_an_architecture_are_in_their_place",
)
"""Tests left out, by the beginning of their names."""
