"""Lists which tests of repeated snapshots each profile runs."""

from __future__ import annotations

from tests_functional.lib.profile_row import ANY_GUEST, PREMERGE, SMALL, ProfileRow

_REPETITION = "repetition/test_repetition.py:Repetition"
_SEEDS = "snapshot/test_flows.py:SnapshotFlows.test_seeds"

_LIVE = "snapshot/test_flows.py:SnapshotFlows.test_live"

ROWS = (
    ProfileRow(
        "repetition.at-once",
        f"{_REPETITION}.test_at_once",
        "tools take the next snapshot as soon as QEMU says 'completed'",
        SMALL,
        profiles=PREMERGE,
        kinds=ANY_GUEST,
    ),
    ProfileRow(
        "repetition.twenty",
        _SEEDS,
        "leftovers of one snapshot add up over twenty snapshots in one process",
        {**SMALL, "repeat": 20},
        seconds=900,
        kinds=ANY_GUEST,
    ),
    ProfileRow(
        "repetition.generations",
        f"{_REPETITION}.test_generations",
        "a restored guest must be as good a source as a booted one, five generations deep",
        SMALL,
        kinds=ANY_GUEST,
    ),
    ProfileRow(
        "repetition.with-disk",
        f"{_REPETITION}.test_with_disk",
        "a snapshot of memory alone is of no use to a guest whose disk has gone on",
        {"ram_mib": 256, "coverage": 0.5},
        profiles=PREMERGE,
        kinds=ANY_GUEST,
    ),
)

SOAK_ROWS = (
    ProfileRow(
        "soak.live",
        _LIVE,
        "a fault that shows in one save of a thousand shows in a night of saves alone",
        SMALL,
        kinds=ANY_GUEST,
    ),
    ProfileRow(
        "soak.live-2-vcpus",
        _LIVE,
        "two writers meet the save on the same page more often than one",
        {**SMALL, "vcpus": 2, "pattern": "sequential"},
        kinds=ANY_GUEST,
    ),
    ProfileRow(
        "soak.golden",
        _SEEDS,
        "every page of RAM is compared, also those that no writer owns",
        SMALL,
        kinds=ANY_GUEST,
    ),
    ProfileRow(
        "soak.golden-2-vcpus",
        _SEEDS,
        "the same with writers on two vCPUs",
        {**SMALL, "vcpus": 2},
        kinds=ANY_GUEST,
    ),
)
"""Rows of the profile `soak` alone: as many cycles each as `--repeat` says, side by side."""
