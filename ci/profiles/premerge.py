"""The profiles that must be quick: the main job alone, and one of each kind for each change."""

from __future__ import annotations

from ci.profiles.entry import Entry
from ci.profiles.subjects import (
    OFFLINE_TESTS,
    REPETITION_TESTS,
    SMALL,
    SNAPSHOT_FLOWS,
    denied,
    failures,
    memories,
    planted,
)
from harness.migration import MAPPED_RAM
from tests_functional.scenarios.memory.kinds import MEMORY_KINDS

EARLY_MEMORY_KINDS = ("memfd-shared", "numa-refused-last")
EARLY_HINDRANCE = "seccomp-eperm"

MAIN_JOB = Entry(
    "snapshot.main-job",
    f"{SNAPSHOT_FLOWS}.test_main_job",
    "the promise as a whole: live snapshot, golden snapshot, and stop-and-save as the control",
    alone=True,
)

SMOKE = (MAIN_JOB,)

PREMERGE = (
    MAIN_JOB,
    Entry(
        "snapshot.live-2-vcpus",
        f"{SNAPSHOT_FLOWS}.test_live",
        "two writers fault at once, in order, so that the save and both vCPUs meet on one page",
        {"vcpus": 2, "pattern": "sequential"},
    ),
    Entry(
        "snapshot.live-hot-set",
        f"{SNAPSHOT_FLOWS}.test_live",
        "the same few pages are written over and over around T0",
        {"pattern": "hot"},
    ),
    Entry(
        "snapshot.live-zero",
        f"{SNAPSHOT_FLOWS}.test_live",
        "pages turn from content to zero and back while zero pages take their own path in QEMU",
        {"pattern": "zero"},
    ),
    Entry(
        "snapshot.seeds-sparse",
        f"{SNAPSHOT_FLOWS}.test_seeds",
        "pages that are never touched must be zero in the file",
        {"pattern": "sparse"},
    ),
    Entry(
        "snapshot.seeds-file",
        f"{SNAPSHOT_FLOWS}.test_seeds_file",
        "QEMU opens and writes the file itself instead of feeding a command",
    ),
    Entry(
        "offline.extract-plain",
        f"{OFFLINE_TESTS}.test_plain",
        "a reader that misplaced pages would judge the wrong ones; QEMU's own loader is the measure",
    ),
    Entry(
        "offline.extract-mapped-ram",
        f"{OFFLINE_TESTS}.test_mapped_ram",
        "the same for the layout with fixed offsets",
        needs=(MAPPED_RAM,),
    ),
    *memories("test_kind", {name: MEMORY_KINDS[name] for name in EARLY_MEMORY_KINDS}),
    Entry(
        "repetition.at-once",
        f"{REPETITION_TESTS}.test_at_once",
        "tools take the next snapshot as soon as QEMU says 'completed'",
        SMALL,
    ),
    denied(EARLY_HINDRANCE),
    failures("cancel"),
    planted("drop_protection"),
    planted("lose_events"),
)
