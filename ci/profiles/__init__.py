"""Which tests a profile runs and with what: the matrix as data, each entry with its reason."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatch

from ci.profiles.entry import Entry
from ci.profiles.lasting import LASTING
from ci.profiles.memory import MEMORY
from ci.profiles.snapshot import MAIN_JOB, SNAPSHOT
from ci.profiles.trouble import TROUBLE
from harness.errors import UsageError

_NIGHTLY = (*SNAPSHOT, *MEMORY, *LASTING, *TROUBLE)

# One of each kind, for each change: what breaks most, or is quickest to show that its kind works at all.
_PREMERGE = (
    MAIN_JOB.name,
    "snapshot.live-2-vcpus",
    "snapshot.live-hot-set",
    "snapshot.live-zero",
    "snapshot.seeds-sparse",
    "snapshot.seeds-file",
    "snapshot.live-and-network-receive",
    "memory.memfd-shared",
    "memory.numa-refused-last",
    "memory.plugged-anonymous",
    "memory.virtio-mem",
    "offline.extract-plain",
    "offline.extract-mapped-ram",
    "repetition.at-once",
    "repetition.with-disk",
    "failures.cancel",
    "refusals.no-userfaultfd-seccomp-eperm",
    "run-states.paused",
    "planted.drop-protection",
    "planted.lose-events",
    "findings.f2",
)

PROFILES: Mapping[str, tuple[Entry, ...]] = {
    "smoke": (MAIN_JOB,),
    "premerge": tuple(entry for entry in _NIGHTLY if entry.name in _PREMERGE),
    "nightly": _NIGHTLY,
}


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
