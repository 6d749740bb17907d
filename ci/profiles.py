"""Which tests a profile runs and with what: the matrix as data, each entry with its reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch

from harness.errors import UsageError
from tests_functional.scenarios.disturbances import DISTURBANCES
from tests_functional.scenarios.hindrances import HINDRANCES
from tests_functional.scenarios.memory_kinds import MEMORY_KINDS
from tests_functional.scenarios.planted import LIVE_FAULTS
from tests_functional.scenarios.run_states import RUN_STATES

_SNAPSHOT = "snapshot/test_flows.py:SnapshotFlows"
_OFFLINE = "offline/test_extract.py:Extraction"
_REPETITION = "repetition/test_repetition.py:Repetition"
_SMALL: Mapping[str, str | int | float] = {"ram_mib": 256, "coverage": 0.7}
_VERSIONS = "versions/test_versions.py:Versions"
_MEMORY = "memory/test_memory.py:Memory"
_FAILURES = "failures/test_failures.py:Failures"
_REFUSALS = "refusals/test_refusals.py:Refusals"
_RUN_STATES = "run_states/test_run_states.py:RunStates"
_DISTURBANCES = "snapshot/test_disturbances.py:Disturbances"
_PLANTED = "planted/test_planted_faults.py:PlantedFaults"


@dataclass(frozen=True)
class Entry:
    """One test with its parameters.

    Attributes:
        name: unique and stable; what results, `--filter` and `reproduce.sh` call it.
        test: Avocado reference below tests_functional/, as ``folder/file.py:Class.method``.
        reason: why it is in the profile.
        parameters: what differs from the base class's defaults, by name.
        seconds: time-out of the test; a healthy run takes a fifth of it.
        cycle_seconds: what each further cycle of `--repeat` adds to it.
    """

    name: str
    test: str
    reason: str
    parameters: Mapping[str, str | int | float] = field(default_factory=dict)
    seconds: int = 300
    cycle_seconds: int = 60


MAIN_JOB = Entry(
    "snapshot.main-job",
    f"{_SNAPSHOT}.test_main_job",
    "the promise as a whole: live snapshot, golden snapshot, and stop-and-save as the control",
)

SMOKE = (MAIN_JOB,)


def _memory(kind: str) -> Entry:
    """The test of one kind of guest RAM."""
    return Entry(
        f"memory.{kind}", f"{_MEMORY}.test_kind", MEMORY_KINDS[kind].reason, {**_SMALL, "kind": kind}
    )


_FAILURE_REASONS = {
    "sinks": "a sink that closes, fills, stalls or fails is the commonest end of a snapshot",
    "cancel": "cancelling is the first thing a user does when a snapshot takes too long",
    "descriptors": "each step of a save opens files, and each may find none left",
    "calls": "each call to the kernel can fail, and each is another path through QEMU's clean-up",
    "kill": "whoever restarts QEMU must not take half a file for a snapshot",
}


def _failures(kind: str) -> Entry:
    """The test of one kind of failure; every guest that does not survive a case is booted again."""
    reference = f"{_FAILURES}.test_{kind}"
    return Entry(f"failures.{kind}", reference, _FAILURE_REASONS[kind], _SMALL, seconds=1800)


def _planted(fault: str) -> Entry:
    """The test that plants one fault, which a green run of anything else relies on."""
    name = f"planted.{fault.replace('_', '-')}"
    return Entry(name, f"{_PLANTED}.test_fault", LIVE_FAULTS[fault].reason, {"fault": fault})


def _denied(kind: str) -> Entry:
    """The test of one way in which a host keeps userfaultfd from QEMU."""
    return Entry(
        f"refusals.no-userfaultfd-{kind}",
        f"{_REFUSALS}.test_denied",
        HINDRANCES[kind].reason,
        {**_SMALL, "kind": kind},
    )


PREMERGE = (
    MAIN_JOB,
    Entry(
        "snapshot.live-2-vcpus",
        f"{_SNAPSHOT}.test_live",
        "two writers fault at once, in order, so that the save and both vCPUs meet on one page",
        {"vcpus": 2, "pattern": "sequential"},
    ),
    Entry(
        "snapshot.live-hot-set",
        f"{_SNAPSHOT}.test_live",
        "the same few pages are written over and over around T0",
        {"pattern": "hot"},
    ),
    Entry(
        "snapshot.live-zero",
        f"{_SNAPSHOT}.test_live",
        "pages turn from content to zero and back while zero pages take their own path in QEMU",
        {"pattern": "zero"},
    ),
    Entry(
        "snapshot.seeds-sparse",
        f"{_SNAPSHOT}.test_seeds",
        "pages that were never touched must be zero in the file (QEMU 6.0-rc lost them)",
        {"pattern": "sparse"},
    ),
    Entry(
        "snapshot.seeds-file",
        f"{_SNAPSHOT}.test_seeds_file",
        "QEMU opens and writes the file itself instead of feeding a command",
    ),
    Entry(
        "offline.extract-plain",
        f"{_OFFLINE}.test_plain",
        "a reader that misplaced pages would judge the wrong ones; QEMU's own loader is the measure",
    ),
    Entry(
        "offline.extract-mapped-ram",
        f"{_OFFLINE}.test_mapped_ram",
        "the same for the layout with fixed offsets",
    ),
    _memory("memfd-shared"),
    _memory("numa-refused-last"),
    Entry(
        "repetition.at-once",
        f"{_REPETITION}.test_at_once",
        "tools take the next snapshot as soon as QEMU says 'completed'",
        _SMALL,
    ),
    _failures("cancel"),
    _planted("drop_protection"),
    _planted("lose_events"),
    _denied("seccomp-eperm"),
)

NIGHTLY = (
    *PREMERGE,
    *(
        Entry(
            f"snapshot.live-{pattern}-{vcpus}-vcpus",
            f"{_SNAPSHOT}.test_live",
            "every order of writes meets every number of writers",
            {"pattern": pattern, "vcpus": vcpus},
        )
        for pattern in ("sequential", "random", "hot", "sparse", "zero")
        for vcpus in (1, 2, 4)
        if (pattern, vcpus) not in (("sequential", 2), ("random", 1), ("hot", 1), ("zero", 1))
    ),
    *(
        Entry(
            f"snapshot.live-and-{name}",
            f"{_DISTURBANCES}.test_disturbance",
            disturbance.reason,
            {"ram_mib": 256, "coverage": 0.5, "disturbance": name},
        )
        for name, disturbance in DISTURBANCES.items()
    ),
    *(_memory(kind) for kind in MEMORY_KINDS if kind not in ("memfd-shared", "numa-refused-last")),
    Entry(
        "memory.above-4-gib",
        f"{_SNAPSHOT}.test_seeds",
        "RAM on both sides of the hole below 4 GiB is one RAMBlock in two places",
        {"ram_mib": 4608, "coverage": 0.8},
        seconds=900,
    ),
    Entry(
        "memory.odd-size",
        f"{_SNAPSHOT}.test_seeds",
        "RAM that is no multiple of 2 MiB, or of the 64 pages of a bitmap's word",
        {"ram_mib": 257, "coverage": 0.7},
    ),
    Entry(
        "snapshot.stop-and-save",
        f"{_SNAPSHOT}.test_stop_and_save",
        "the control on its own: the oracles must agree on an ordinary save as well",
    ),
    Entry(
        "repetition.twenty",
        f"{_SNAPSHOT}.test_seeds",
        "what one snapshot leaves behind adds up over twenty in one process",
        {**_SMALL, "repeat": 20},
        seconds=900,
    ),
    Entry(
        "repetition.generations",
        f"{_REPETITION}.test_generations",
        "what a restore brings back must be able to be snapshotted, five generations deep",
        _SMALL,
    ),
    *(_planted(fault) for fault in LIVE_FAULTS if fault not in ("drop_protection", "lose_events")),
    *(_failures(kind) for kind in _FAILURE_REASONS if kind != "cancel"),
    Entry(
        "refusals.capabilities",
        f"{_REFUSALS}.test_capabilities",
        "what QEMU accepts together it must do right; users find out too late otherwise",
        _SMALL,
        seconds=900,
    ),
    Entry(
        "refusals.parameters",
        f"{_REFUSALS}.test_parameters",
        "parameters are checked for few combinations, and some change how pages are saved",
        _SMALL,
        seconds=1800,
    ),
    *(
        Entry(
            f"run-states.{name}",
            f"{_RUN_STATES}.test_state",
            state.reason,
            {**_SMALL, "state": name},
        )
        for name, state in RUN_STATES.items()
    ),
    Entry(
        "versions.restored-by-newer",
        f"{_VERSIONS}.test_restored_by_newer",
        "snapshots outlive the QEMU that took them",
        _SMALL,
    ),
    *(_denied(kind) for kind in HINDRANCES if kind != "seccomp-eperm"),
    Entry(
        "repetition.with-disk",
        f"{_REPETITION}.test_with_disk",
        "a snapshot of memory alone is of no use to a guest whose disk has gone on",
        {"ram_mib": 256, "coverage": 0.5},
    ),
)

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
