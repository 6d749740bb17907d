"""The profile that has everything."""

from __future__ import annotations

from ci.profiles.entry import Entry
from ci.profiles.premerge import EARLY_HINDRANCE, EARLY_MEMORY_KINDS, PREMERGE
from ci.profiles.subjects import (
    DISTURBANCE_TEST,
    FAILURE_REASONS,
    FINDING_TEST,
    MEMORY_TESTS,
    REFUSAL_TESTS,
    REPETITION_TESTS,
    RUN_STATE_TEST,
    SMALL,
    SNAPSHOT_FLOWS,
    VERSION_TESTS,
    denied,
    failures,
    memories,
    planted,
)
from tests_functional.scenarios.disturbances import DISTURBANCES
from tests_functional.scenarios.hindrances import HINDRANCES
from tests_functional.scenarios.known_issues import load_known_issues
from tests_functional.scenarios.memory.host_pages import HOST_PAGES
from tests_functional.scenarios.memory.kinds import MEMORY_KINDS
from tests_functional.scenarios.memory.plugged import PLUGGED_KINDS
from tests_functional.scenarios.memory.virtio_mem import VIRTIO_MEM_KINDS
from tests_functional.scenarios.planted import LIVE_FAULTS
from tests_functional.scenarios.run_states import RUN_STATES

_GUESTS = {
    "linux-5.10": ("debian-11", "drivers of the time when the feature was merged"),
    "linux-6.1": ("debian-12", "the guest kernel that the other tests' figures come from"),
    "linux-6.12": ("debian-13", "the stable release's kernel lays out and moves its memory differently"),
    "linux-newest": ("debian-13-backports", "what a new kernel does to its memory shows here first"),
    "full-debian": ("debian-13-full", "a guest as users have it: systemd, daemons, a disk, a page cache"),
}

_TCG_THREADS = {
    "single": "one thread for both vCPUs: a write that waits for its page holds up the other vCPU",
    "multi": "a thread for each vCPU: both can wait for pages at once",
}

NIGHTLY = (
    *PREMERGE,
    *(
        Entry(
            f"snapshot.live-{pattern}-{vcpus}-vcpus",
            f"{SNAPSHOT_FLOWS}.test_live",
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
            DISTURBANCE_TEST,
            disturbance.reason,
            {"ram_mib": 256, "coverage": 0.5, "disturbance": name},
        )
        for name, disturbance in DISTURBANCES.items()
    ),
    *memories(
        "test_kind", {name: kind for name, kind in MEMORY_KINDS.items() if name not in EARLY_MEMORY_KINDS}
    ),
    *memories("test_plugged", PLUGGED_KINDS),
    *memories("test_virtio_mem", VIRTIO_MEM_KINDS),
    *memories("test_host_pages", HOST_PAGES, coverage=0.5),
    Entry(
        "memory.never-touched",
        f"{MEMORY_TESTS}.test_never_touched",
        "a page that is in no page table cannot be protected, and may be written (QEMU 6.0-rc lost them)",
    ),
    Entry(
        "memory.above-4-gib",
        f"{SNAPSHOT_FLOWS}.test_seeds",
        "RAM on both sides of the hole below 4 GiB is one RAMBlock in two places",
        {"ram_mib": 4608, "coverage": 0.8},
        seconds=900,
    ),
    Entry(
        "memory.odd-size",
        f"{SNAPSHOT_FLOWS}.test_seeds",
        "RAM that is no multiple of 2 MiB, or of the 64 pages of a bitmap's word",
        {"ram_mib": 257, "coverage": 0.7},
    ),
    Entry(
        "snapshot.stop-and-save",
        f"{SNAPSHOT_FLOWS}.test_stop_and_save",
        "the control on its own: the oracles must agree on an ordinary save as well",
        needs=(),
    ),
    Entry(
        "repetition.twenty",
        f"{SNAPSHOT_FLOWS}.test_seeds",
        "what one snapshot leaves behind adds up over twenty in one process",
        {**SMALL, "repeat": 20},
        seconds=900,
    ),
    Entry(
        "repetition.generations",
        f"{REPETITION_TESTS}.test_generations",
        "what a restore brings back must be able to be snapshotted, five generations deep",
        SMALL,
    ),
    *(planted(fault) for fault in LIVE_FAULTS if fault not in ("drop_protection", "lose_events")),
    *(failures(kind) for kind in FAILURE_REASONS if kind != "cancel"),
    Entry(
        "refusals.capabilities",
        f"{REFUSAL_TESTS}.test_capabilities",
        "what QEMU accepts together it must do right; users find out too late otherwise",
        SMALL,
        seconds=900,
    ),
    Entry(
        "refusals.parameters",
        f"{REFUSAL_TESTS}.test_parameters",
        "parameters are checked for few combinations, and some change how pages are saved",
        SMALL,
        seconds=1800,
    ),
    *(
        Entry(
            f"run-states.{name}",
            RUN_STATE_TEST,
            state.reason,
            {**SMALL, "state": name},
        )
        for name, state in RUN_STATES.items()
    ),
    *(denied(kind) for kind in HINDRANCES if kind != EARLY_HINDRANCE),
    Entry(
        "repetition.with-disk",
        f"{REPETITION_TESTS}.test_with_disk",
        "a snapshot of memory alone is of no use to a guest whose disk has gone on",
        {"ram_mib": 256, "coverage": 0.5},
    ),
    Entry(
        "versions.restored-by-newer",
        f"{VERSION_TESTS}.test_restored_by_newer",
        "snapshots outlive the QEMU that took them",
        SMALL,
        needs=(),
    ),
    *(
        Entry(
            f"findings.{issue.id.lower()}", FINDING_TEST, issue.title, {**SMALL, "issue": issue.id}, needs=()
        )
        for issue in load_known_issues()
    ),
    *(
        Entry(f"guests.{name}", f"{SNAPSHOT_FLOWS}.test_main_job", reason, {"guest": guest}, alone=True)
        for name, (guest, reason) in _GUESTS.items()
    ),
    *(
        Entry(
            f"snapshot.tcg-{threads}-thread",
            f"{SNAPSHOT_FLOWS}.test_tcg_threads",
            reason,
            {"vcpus": 2, "threads": threads},
        )
        for threads, reason in _TCG_THREADS.items()
    ),
)
