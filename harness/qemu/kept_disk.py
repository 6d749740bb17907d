"""Keep a copy of a guest's disk for its snapshots, and check that the guest has not written to it since."""

from __future__ import annotations

import shutil

from harness.errors import SetupBroken
from harness.qemu.configuration import OVERLAY_FILE
from harness.qemu.disk import KEPT_FILE, Disk, KeptDisk
from harness.qemu.machine import Machine

_COUNTERS = ("wr_operations", "unmap_operations")


def keep_disk(machine: Machine) -> None:
    """Copy the disk of a guest that writes no more to it; do nothing if the guest has no disk.

    A stop makes QEMU complete and flush all requests (QEMU 10.0 system/cpus.c do_vm_stop()), so the file then
    has everything that the guest has written.
    """
    if machine.config.disk is None:
        return
    machine.qmp.execute("stop")
    path = machine.folder / KEPT_FILE
    shutil.copyfile(machine.folder / OVERLAY_FILE, path)
    kept = Disk(path.absolute(), "qcow2", machine.config.disk.size)
    machine.kept_disk = KeptDisk(kept, _writes(machine))
    machine.qmp.execute("cont")


def disk_of_snapshot(machine: Machine) -> Disk | None:
    """Return the disk to restore a new snapshot with, None if the guest has no disk.

    Raises:
        SetupBroken: the guest has written to its disk since the copy was made.
    """
    kept = machine.kept_disk
    if kept is None:
        return None
    written = _writes(machine) - kept.writes
    if written:
        raise SetupBroken(
            f"The guest wrote {written} times to its disk although all of its file systems were made "
            "read-only, so the disk at T0 is unknown. Find out what in the guest writes to the device."
        )
    return kept.disk


def _writes(machine: Machine) -> int:
    for device in machine.qmp.execute("query-blockstats"):
        if device.get("device") == "guest-disk":
            return sum(int(device["stats"].get(name, 0)) for name in _COUNTERS)
    raise machine.failure("QEMU's query-blockstats does not list the guest's disk 'guest-disk'")
