"""Saves a guest over QMP, in any of the ways that a benchmark compares."""

from __future__ import annotations

import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from harness.deadline import Deadline
from harness.qemu import migration
from harness.qemu.configuration import MIB
from harness.qemu.machine import Machine
from harness.qemu.qmp import CommandRefused, Event
from tests_functional.lib.measure import throttle
from tests_functional.lib.measure.cases import GIVE_UP_FACTOR, Sink, Way

_ENDED = ("completed", "failed", "cancelled")
_SNAPSHOT = "snapproof"
_JOB = "snapproof-save"
# With this capability QEMU sends an event when the save's status changes (since 2.4), so nothing is polled.
_EVENTS = "events"
_THROTTLE = Path(throttle.__file__)

DISK_NODE = "snapproof-vmstate"
"""Node name of the qcow2 disk that `savevm` saves into."""


@dataclass(frozen=True)
class Saved:
    """A completed save.

    Attributes:
        seconds: from the command until QEMU said that the save has completed; where the guest was stopped for
            it, until the guest ran again.
        downtime_ms: QEMU's own downtime, None where it gives none.
        total_ms: QEMU's own total time, None where it gives none.
        given_up: whether the guest was stopped because a pre-copy did not catch up with its writes.
    """

    seconds: float
    downtime_ms: float | None
    total_ms: float | None
    given_up: bool = False


def prepare(machine: Machine, way: Way) -> None:
    """Set the capabilities and parameters of a save, so that only the save itself is timed.

    Raises:
        NotApplicable: this QEMU or host cannot save in this way.
    """
    migration.require_capability(machine, _EVENTS)
    if way.background:
        migration.require_capability(machine, migration.BACKGROUND_SNAPSHOT)
    else:
        migration.lift_bandwidth_limit(machine)


def save(way: Way, machine: Machine, path: Path, sink: Sink, deadline: Deadline) -> Saved:
    """Save a running guest, and return when it runs again.

    Args:
        way: how to save; `prepare` has been called for it.
        machine: the guest's machine.
        path: the vmstate file. With `savevm` everything goes into the disk DISK_NODE instead.
        sink: the sink of the save.
        deadline: for the whole save.

    Raises:
        NotApplicable: this QEMU has no such transport.
        CommandRefused: QEMU does not start the save.
        SubjectFailed: the save failed, QEMU died, or it did not end in time.
    """
    if way is Way.SAVEVM:
        return _savevm(machine, deadline)
    uri = migration.file_uri(path) if way is Way.BACKGROUND_FILE else sink_uri(path, sink)
    begun, mark = time.monotonic(), machine.qmp.mark()
    if way is Way.STOP_AND_SAVE:
        machine.qmp.execute("stop")
    migration.start_save(machine, uri)
    given_up = way is Way.PRECOPY_FILE and _stop_endless(machine, path, mark, deadline)
    machine.qmp.wait_event(_save_over, mark, deadline, "the end of the save")
    ended = time.monotonic()
    figures = migration.wait_completed(machine, deadline)
    if not way.background:
        machine.qmp.execute("cont")
        ended = time.monotonic()
    return Saved(ended - begun, figures.downtime_ms, figures.total_ms, given_up)


def _save_over(event: Event) -> bool:
    return event.name == "MIGRATION" and event.data.get("status") in _ENDED


def _stop_endless(machine: Machine, path: Path, mark: int, deadline: Deadline) -> bool:
    """Wait for the end of a pre-copy, or stop the guest if it writes pages faster than they are sent.

    The file would otherwise grow until the disk is full. Management software stops the guest after some time
    too (virsh migrate --timeout-suspend).

    Returns:
        Whether the guest was stopped.
    """
    most = GIVE_UP_FACTOR * machine.config.ram_mib * MIB
    while not (deadline.expired or any(map(_save_over, machine.qmp.events_since(mark)))):
        # The file's size shows how much was sent, without disturbing QEMU.
        if path.exists() and path.stat().st_size > most:
            machine.qmp.execute("stop")
            return True
        if machine.pause(deadline) is not None:
            break
    # The caller waits for the end of the save and reports it.
    return False


def sink_uri(path: Path, sink: Sink) -> str:
    """Return a migration URI of a command that writes the stream to a file as fast as the sink allows."""
    if not sink.mib_per_second:
        return migration.exec_sink(path)
    program = shlex.join([sys.executable, "-I", "-S", str(_THROTTLE), str(sink.mib_per_second)])
    return f"exec:{program} > {shlex.quote(str(path))}"


def _savevm(machine: Machine, deadline: Deadline) -> Saved:
    """Take an internal snapshot, as a job (QEMU 6.0+) or by the human monitor."""
    begun, mark = time.monotonic(), machine.qmp.mark()
    arguments = {"job-id": _JOB, "tag": _SNAPSHOT, "vmstate": DISK_NODE, "devices": [DISK_NODE]}
    try:
        machine.qmp.execute("snapshot-save", arguments, deadline)
    except CommandRefused as refusal:
        if "not been found" not in refusal.reason:
            raise
        said = str(
            machine.qmp.execute("human-monitor-command", {"command-line": f"savevm {_SNAPSHOT}"}, deadline)
        )
        if said.strip():
            raise machine.failure(f"QEMU refused 'savevm': {said.strip()}") from refusal
        return Saved(time.monotonic() - begun, None, None)
    machine.qmp.wait_event(_job_over, mark, deadline, "the end of the job 'snapshot-save'")
    seconds = time.monotonic() - begun
    (job,) = (job for job in machine.qmp.execute("query-jobs") if job["id"] == _JOB)
    if "error" in job:
        raise machine.failure(f"QEMU could not save the guest into its disk: {job['error']}")
    machine.qmp.execute("job-dismiss", {"id": _JOB})
    return Saved(seconds, None, None)


def _job_over(event: Event) -> bool:
    return (
        event.name == "JOB_STATUS_CHANGE"
        and event.data.get("id") == _JOB
        and event.data["status"] == "concluded"
    )


def snapshot_bytes(machine: Machine) -> int:
    """Return the size of the state that `savevm` has put into the disk, as QEMU lists it.

    Raises:
        SubjectFailed: QEMU does not list the snapshot.
    """
    for node in machine.qmp.execute("query-named-block-nodes"):
        for snapshot in node.get("image", {}).get("snapshots", ()):
            if snapshot["name"] == _SNAPSHOT:
                return int(snapshot["vm-state-size"])
    raise machine.failure("The snapshot that QEMU says it has saved is not in the disk")
