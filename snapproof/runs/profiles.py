"""Collects the tests of each profile from the rows in the folders of tests_functional/."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatch

from harness.errors import UsageError
from snapproof.runs.defaults import PROFILE_NAMES
from tests_functional.attach.rows import ROWS as ATTACH
from tests_functional.beside_ram.rows import ROWS as BESIDE_RAM
from tests_functional.devices.rows import ROWS as DEVICES
from tests_functional.during_save.rows import ROWS as DURING_SAVE
from tests_functional.failures.rows import ROWS as FAILURES
from tests_functional.findings.rows import ROWS as FINDINGS
from tests_functional.foreign_writers.rows import ROWS as FOREIGN_WRITERS
from tests_functional.in_flight.rows import ROWS as IN_FLIGHT
from tests_functional.lib.profile_row import ProfileRow
from tests_functional.machines.rows import ROWS as MACHINES
from tests_functional.memory.rows import ROWS as MEMORY
from tests_functional.offline.rows import ROWS as OFFLINE
from tests_functional.planted.rows import ROWS as PLANTED
from tests_functional.ram_blocks.rows import ROWS as RAM_BLOCKS
from tests_functional.refusals.rows import ROWS as REFUSALS
from tests_functional.repetition.rows import ROWS as REPETITION
from tests_functional.repetition.rows import SOAK_ROWS
from tests_functional.run_states.rows import ROWS as RUN_STATES
from tests_functional.snapshot.rows import ROWS as SNAPSHOT
from tests_functional.versions.rows import ROWS as VERSIONS

_NIGHTLY = (
    *SNAPSHOT,
    *MEMORY,
    *RAM_BLOCKS,
    *OFFLINE,
    *REPETITION,
    *VERSIONS,
    *MACHINES,
    *DEVICES,
    *FAILURES,
    *REFUSALS,
    *RUN_STATES,
    *FOREIGN_WRITERS,
    *BESIDE_RAM,
    *IN_FLIGHT,
    *ATTACH,
    *DURING_SAVE,
    *PLANTED,
    *FINDINGS,
)


def _rows_of(profile: str) -> tuple[ProfileRow, ...]:
    if profile == "soak":
        return SOAK_ROWS
    return tuple(row for row in _NIGHTLY if profile == "nightly" or profile in row.profiles)


PROFILES: Mapping[str, tuple[ProfileRow, ...]] = {name: _rows_of(name) for name in PROFILE_NAMES}


def select(profile: str, patterns: Sequence[str]) -> tuple[ProfileRow, ...]:
    """Return the rows of a profile whose name matches one of several shell patterns; all without patterns.

    Raises:
        UsageError: there is no such profile, or nothing matches one of the patterns.
    """
    if profile not in PROFILES:
        raise UsageError(f"There is no profile '{profile}'; choose one of {', '.join(sorted(PROFILES))}.")
    rows = PROFILES[profile]
    for pattern in patterns:
        if not any(fnmatch(row.name, pattern) for row in rows):
            raise UsageError(
                f"No test of profile '{profile}' matches the filter '{pattern}'; {_hint(pattern)}."
            )
    return tuple(row for row in rows if not patterns or any(fnmatch(row.name, one) for one in patterns))


def _hint(pattern: str) -> str:
    """Return where a pattern that matched nothing does match."""
    others = [
        f"'{name}'" for name, rows in PROFILES.items() if any(fnmatch(row.name, pattern) for row in rows)
    ]
    return f"it matches tests of {' and '.join(others)}" if others else "see --list"
