"""Which tests a profile runs and with what: the matrix as data, each entry with its reason."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatch

from ci.profiles.entry import Entry
from ci.profiles.nightly import NIGHTLY
from ci.profiles.premerge import PREMERGE, SMOKE
from harness.errors import UsageError

PROFILES: Mapping[str, tuple[Entry, ...]] = {"smoke": SMOKE, "premerge": PREMERGE, "nightly": NIGHTLY}


def select(profile: str, pattern: str | None) -> tuple[Entry, ...]:
    """The entries of a profile whose name fits a shell pattern.

    Raises:
        UsageError: there is no such profile, or nothing fits.
    """
    if profile not in PROFILES:
        raise UsageError(f"There is no profile '{profile}'; choose one of {', '.join(sorted(PROFILES))}.")
    chosen = tuple(e for e in PROFILES[profile] if pattern is None or fnmatch(e.name, pattern))
    if not chosen:
        raise UsageError(f"No test of profile '{profile}' fits the filter '{pattern}'; see --list.")
    return chosen
