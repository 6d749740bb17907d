"""Snapshots over time: in a row, of one another, with a disk, read by us and by newer QEMUs."""

from __future__ import annotations

from ci.profiles.entry import SMALL, Entry
from harness.migration import MAPPED_RAM

_REPETITION = "repetition/test_repetition.py:Repetition"
_SEEDS = "snapshot/test_flows.py:SnapshotFlows.test_seeds"
_OFFLINE = "offline/test_extract.py:Extraction"
_VERSIONS = "versions/test_versions.py:Versions"

LASTING = (
    Entry(
        "offline.extract-plain",
        f"{_OFFLINE}.test_plain",
        "a reader that misplaced pages would judge the wrong ones; QEMU's own loader is the measure",
    ),
    Entry(
        "offline.extract-mapped-ram",
        f"{_OFFLINE}.test_mapped_ram",
        "the same for the layout with fixed offsets",
        needs=(MAPPED_RAM,),
    ),
    Entry(
        "repetition.at-once",
        f"{_REPETITION}.test_at_once",
        "tools take the next snapshot as soon as QEMU says 'completed'",
        SMALL,
    ),
    Entry(
        "repetition.twenty",
        _SEEDS,
        "what one snapshot leaves behind adds up over twenty in one process",
        {**SMALL, "repeat": 20},
        seconds=900,
    ),
    Entry(
        "repetition.generations",
        f"{_REPETITION}.test_generations",
        "what a restore brings back must be able to be snapshotted, five generations deep",
        SMALL,
    ),
    Entry(
        "repetition.with-disk",
        f"{_REPETITION}.test_with_disk",
        "a snapshot of memory alone is of no use to a guest whose disk has gone on",
        {"ram_mib": 256, "coverage": 0.5},
    ),
    Entry(
        "versions.restored-by-newer",
        f"{_VERSIONS}.test_restored_by_newer",
        "snapshots outlive the QEMU that took them",
        SMALL,
        needs=(),
    ),
)
