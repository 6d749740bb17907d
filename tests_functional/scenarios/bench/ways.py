"""The ways of saving a guest as data, where its bytes go, and how each is done over QMP."""

from __future__ import annotations

import enum
import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from harness import migration
from harness.deadline import Deadline
from harness.machine import Machine
from harness.machine_config import MIB
from harness.qmp import CommandRefused, Event
from tests_functional.scenarios.bench import throttle

_ENDED = ("completed", "failed", "cancelled")
_SNAPSHOT = "snapproof"
_JOB = "snapproof-save"
# Has QEMU send an event when the save's status changes, so that nothing has to be polled (since 2.4).
_EVENTS = "events"
_THROTTLE = Path(throttle.__file__)

GIVE_UP_FACTOR = 3
"""A pre-copy that has sent so many times the guest's RAM does not catch up any more."""

DISK_NODE = "snapproof-vmstate"
"""Name of the qcow2 disk that `savevm` saves into."""


class Way(enum.Enum):
    """How a guest is saved."""

    BACKGROUND_EXEC = "background-exec"
    BACKGROUND_FILE = "background-file"
    STOP_AND_SAVE = "stop-and-save"
    SAVEVM = "savevm"
    PRECOPY_FILE = "precopy-file"

    @property
    def background(self) -> bool:
        """Whether it is a background snapshot."""
        return self in (Way.BACKGROUND_EXEC, Way.BACKGROUND_FILE)

    @property
    def makes_stream(self) -> bool:
        """Whether it leaves a vmstate file, which can be judged."""
        return self is not Way.SAVEVM


@dataclass(frozen=True)
class Sink:
    """What takes the bytes of a save.

    Attributes:
        name: `unlimited` or `throttled`.
        mib_per_second: what it takes, steadily; 0 for as much as it can.
    """

    name: str
    mib_per_second: float = 0.0


UNLIMITED = Sink("unlimited")


def throttled(mib_per_second: float) -> Sink:
    """A sink that takes so many MiB each second."""
    return Sink("throttled", mib_per_second)


def why_not(way: Way, sink: Sink) -> str:
    """Why a way cannot be measured with a sink, "" where it can."""
    if not sink.mib_per_second:
        return ""
    if way in (Way.BACKGROUND_FILE, Way.SAVEVM):
        return "QEMU writes the file itself, so nothing of ours can be put in between to slow it down."
    return ""


@dataclass(frozen=True)
class Saved:
    """A save that has completed.

    Attributes:
        seconds: from the command until QEMU said that it has completed, of a guest that was stopped until
            it ran again.
        downtime_ms: by QEMU, None where it gives none.
        total_ms: by QEMU, None where it gives none.
        given_up: whether the guest was stopped since a pre-copy did not catch up with its writes.
    """

    seconds: float
    downtime_ms: float | None
    total_ms: float | None
    given_up: bool = False


def prepare(machine: Machine, way: Way) -> None:
    """Set capabilities and parameters, so that nothing but the save itself is timed.

    Raises:
        NotApplicable: this QEMU or host cannot save so.
    """
    migration.require_capability(machine, _EVENTS)
    if way.background:
        migration.require_capability(machine, migration.BACKGROUND_SNAPSHOT)
    else:
        migration.lift_bandwidth_limit(machine)


def save(way: Way, machine: Machine, path: Path, sink: Sink, deadline: Deadline) -> Saved:
    """Save a running guest; it runs again when this returns.

    Args:
        way: how; `prepare` has been called for it.
        machine: whose guest.
        path: the vmstate file. With `savevm` everything goes into the disk DISK_NODE.
        sink: what takes the bytes.
        deadline: for all of it.

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
    """Wait for the end of a pre-copy, or stop a guest that it does not catch up with; whether that was so.

    Such a guest writes pages faster than they are sent. The file would grow until the disk is full; stopping
    the guest is what management software does after some time (virsh migrate --timeout-suspend).
    """
    most = GIVE_UP_FACTOR * machine.config.ram_mib * MIB
    while not (deadline.expired or any(map(_save_over, machine.qmp.events_since(mark)))):
        # Looked at in the file, so that QEMU is not disturbed.
        if path.exists() and path.stat().st_size > most:
            machine.qmp.execute("stop")
            return True
        if machine.pause(deadline) is not None:
            break
    # Whoever waits for the end of the save says what became of it.
    return False


def sink_uri(path: Path, sink: Sink) -> str:
    """A migration URI through a command that takes the stream as fast as the sink does."""
    if not sink.mib_per_second:
        return migration.exec_sink(path)
    program = shlex.join([sys.executable, "-I", "-S", str(_THROTTLE), str(sink.mib_per_second)])
    return f"exec:{program} > {shlex.quote(str(path))}"


def _savevm(machine: Machine, deadline: Deadline) -> Saved:
    """An internal snapshot, as a job (QEMU 6.0+) or by the human monitor."""
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
    """Size of the state that `savevm` has put into the disk, by QEMU's own list.

    Raises:
        SubjectFailed: it is not there.
    """
    for node in machine.qmp.execute("query-named-block-nodes"):
        for snapshot in node.get("image", {}).get("snapshots", ()):
            if snapshot["name"] == _SNAPSHOT:
                return int(snapshot["vm-state-size"])
    raise machine.failure("The snapshot that QEMU says it has saved is not in the disk")
