"""Names the files in a results folder, apart from the code that writes them, as reports need them too."""

from __future__ import annotations

from harness.qemu.disk import KEPT_FILE

STACK_FILE = "stack.json"
"""QEMU, guest and its packages; one for each QEMU of the run."""

HEAVY_FILES = ("golden", "golden-*", "vmstate", KEPT_FILE)
"""Snapshots, golden images (folders) and disks in a test's folder, as shell patterns."""

RESULTS_FILE = "results.json"
"""The results of a run, in its results folder."""
