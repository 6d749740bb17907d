"""Migration over QMP: set capabilities, save to a sink, restore from a source, measure the stun."""

from __future__ import annotations

import contextlib
import math
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.codes import Code
from harness.deadline import Deadline, patient
from harness.errors import HostTooBusy, NotApplicable, SetupBroken, SnapproofError
from harness.linux.run_queue import LEAST_GRANTED, ProcessorTime, processor_time
from harness.qemu.architectures import TARGET_PAGE_BYTES
from harness.qemu.machine import Machine
from harness.qemu.messages import said
from harness.qemu.qmp import CommandRefused
from harness.userfaultfd import probe_userfaultfd

_ENDED = {"completed", "failed", "cancelled"}
BACKGROUND_SNAPSHOT = "background-snapshot"
MAPPED_RAM = "mapped-ram"
# At this speed 256 MiB take a minute, enough for what has to happen during the save, even on a busy host.
_SLOW_MIB_PER_SECOND, _PIECES_PER_SECOND = 4, 20
SLOW_PIECE_BYTES = (_SLOW_MIB_PER_SECOND << 20) // _PIECES_PER_SECOND
"""What a slow sink takes at once."""
SLOW_PIECE_SECONDS = 1 / _PIECES_PER_SECOND
"""How long a slow sink waits after that."""
# A save that hangs sends no page at all. One on an emulated host sent 25 to 370 pages a second, and was seen
# to answer QMP only every 2 s.
_PROGRESS_SECONDS = 5.0


@dataclass(frozen=True)
class SaveFigures:
    """What QEMU's `query-migrate` reports about a completed save.

    Attributes:
        downtime_ms: QEMU's downtime, in ms.
        total_ms: QEMU's total time, in ms.
        ram_normal_pages: pages sent with content.
        ram_zero_pages: pages sent as zero pages.
    """

    downtime_ms: int
    total_ms: int
    ram_normal_pages: int
    ram_zero_pages: int


def capabilities(machine: Machine) -> dict[str, bool]:
    """Return the migration capabilities that this QEMU knows, each with whether it is on."""
    answer = machine.qmp.execute("query-migrate-capabilities")
    return {entry["capability"]: bool(entry["state"]) for entry in answer}


def set_capability(machine: Machine, name: str, on: bool) -> None:
    """Switch a migration capability on or off.

    Raises:
        CommandRefused: QEMU refuses it; the error's `reason` is QEMU's text.
    """
    machine.qmp.execute("migrate-set-capabilities", {"capabilities": [{"capability": name, "state": on}]})


def require_known(machine: Machine, name: str) -> None:
    """Check that this QEMU has a migration capability.

    Raises:
        NotApplicable: it does not.
    """
    if name not in capabilities(machine):
        raise NotApplicable(f"This QEMU has no capability '{name}'.")


def require_capability(machine: Machine, name: str) -> None:
    """Switch a migration capability on.

    Raises:
        NotApplicable: this QEMU has no such capability, or refuses it on this host.
    """
    require_known(machine, name)
    try:
        set_capability(machine, name, True)
    except CommandRefused as refusal:
        # QEMU's text is the same for every reason; our own probe of the kernel finds the real one.
        why = probe_userfaultfd().reason if name == BACKGROUND_SNAPSHOT else ""
        sentence = f"QEMU refuses {name} on this host: {refusal.reason.rstrip('.')}. {why}"
        raise NotApplicable(
            sentence.strip(),
            code=Code.CAPABILITY_REFUSED,
            fields={"capability": name, **said(refusal.reason)},
        ) from refusal


def try_set_capability(machine: Machine, name: str, on: bool) -> str:
    """Switch a migration capability on or off; return QEMU's words where it refuses, else ""."""
    try:
        set_capability(machine, name, on)
    except CommandRefused as refusal:
        return _words(refusal)
    return ""


@contextmanager
def capability_on(machine: Machine, name: str) -> Iterator[None]:
    """Have a migration capability on within a `with` block, and switch it off after it.

    An error raised within the block is passed on, whatever QEMU answers to switching it off.

    Raises:
        NotApplicable: this QEMU has no such capability, or refuses it on this host.
    """
    require_capability(machine, name)
    try:
        yield
    except BaseException:
        if machine.alive():
            with contextlib.suppress(SnapproofError):
                set_capability(machine, name, False)
        raise
    if machine.alive():
        set_capability(machine, name, False)


def lift_bandwidth_limit(machine: Machine) -> None:
    """Raise max-bandwidth so that only the sink limits the speed of a save.

    QEMU limits an ordinary migration to 128 MiB/s by default (migration/options.c, since 5.2), but not a
    background snapshot. A comparison of the two would measure that limit.
    """
    machine.qmp.execute("migrate-set-parameters", {"max-bandwidth": 1 << 40})


def exec_sink(path: Path) -> str:
    """Return a migration URI that writes the stream to a file through `cat`."""
    return f"exec:cat > {shlex.quote(str(path))}"


def slow_sink(path: Path, while_there: Path) -> str:
    """Return a migration URI whose sink is slow while the file `while_there` exists, and fast afterwards.

    It gives a test time to do something during the save; deleting the file then lets the save end soon.
    """
    file, part, sign = (shlex.quote(str(name)) for name in (path, f"{path}.part", while_there))
    # Small pieces, since a write in the guest waits until the sink has taken its page.
    piece = f"head -c {SLOW_PIECE_BYTES} > {part}"
    pass_on = f"cat {part} >> {file}; sleep {SLOW_PIECE_SECONDS}"
    slowly = f"while [ -e {sign} ] && {piece} && [ -s {part} ]; do {pass_on}; done"
    return f"exec:{slowly}; rm {part}; cat >> {file}"


def exec_source(path: Path) -> str:
    """Return a migration URI that reads the stream from a file through `cat`."""
    return f"exec:cat {shlex.quote(str(path))}"


def file_uri(path: Path) -> str:
    """Return a migration URI for a file that QEMU opens itself (QEMU 8.2)."""
    return f"file:{path}"


def start_save(machine: Machine, uri: str) -> None:
    """Start a save with the QMP command `migrate`.

    Raises:
        NotApplicable: this QEMU does not know the transport.
        CommandRefused: QEMU refuses it for another reason.
    """
    try:
        machine.qmp.execute("migrate", {"uri": uri})
    except CommandRefused as refusal:
        # QEMU migration.c qmp_migrate() reports an unknown scheme as an invalid parameter 'uri'.
        if "valid migration protocol" in refusal.reason or "unknown migration protocol" in refusal.reason:
            scheme = uri.partition(":")[0]
            raise NotApplicable(f"This QEMU has no migration transport '{scheme}:'.") from refusal
        raise


def try_start_save(machine: Machine, uri: str) -> str:
    """Start a save; return QEMU's words where it refuses, else "".

    Raises:
        NotApplicable: this QEMU does not know the transport.
    """
    try:
        start_save(machine, uri)
    except CommandRefused as refusal:
        return _words(refusal)
    return ""


def begin_save(machine: Machine, uri: str, deadline: Deadline) -> None:
    """Start a save and wait until QEMU sends RAM, so that T0 is past.

    Raises:
        NotApplicable: this QEMU does not know the transport.
        CommandRefused: QEMU refuses the save for another reason.
        SubjectFailed: the save failed, or sent no page in time.
    """
    start_save(machine, uri)
    wait_ram_moving(machine, deadline)


def complete_save(machine: Machine, uri: str, deadline: Deadline) -> SaveFigures:
    """Save, and wait until QEMU is ready for another save.

    Raises:
        NotApplicable: this QEMU does not know the transport.
        CommandRefused: QEMU refuses the save for another reason.
        SubjectFailed: the save failed, was cancelled, or did not end in time.
    """
    start_save(machine, uri)
    return wait_completed(machine, deadline)


def wait_ram_moving(machine: Machine, deadline: Deadline) -> None:
    """Wait until QEMU has sent the first pages of RAM, so that T0 is past.

    A background snapshot protects RAM before it sends the first page, so the guest's writes from here on are
    not in the snapshot.

    Raises:
        SubjectFailed: the save failed, or sent no page in time.
        HostTooBusy: it sent none, and QEMU got too little processor time for that to be evidence.
    """
    before = processor_time(machine.pid) if machine.pid else None
    while True:
        answer = machine.query_migrate()
        status = answer.get("status")
        ram = answer.get("ram", {})
        if status == "completed" or ram.get("normal", 0) + ram.get("duplicate", 0) > 0:
            return
        _check_not_failed(machine, answer)
        if deadline.expired:
            raise _sent_nothing(machine, str(status), before)
        machine.pause(deadline, 0.002)


def _sent_nothing(machine: Machine, status: str, before: ProcessorTime | None) -> SnapproofError:
    """Return the error of a save that sent no page in time: QEMU's, or that of a host that starved it.

    Args:
        machine: QEMU.
        status: of the save.
        before: QEMU's processor time when it was begun to wait, None where it cannot be known.
    """
    sentence = f"The save is still '{status}' without having sent a page"
    # First, since evidence takes time in which QEMU may run.
    granted = processor_time(machine.pid).since(before).granted if machine.pid and before else 1.0
    hung = machine.failure(sentence, Code.SAVE_UNFINISHED, {"status": status})
    if granted >= LEAST_GRANTED:
        return hung
    return HostTooBusy(
        f"{sentence}, and QEMU got {granted:.0%} of the processor time that it wanted, which says nothing "
        "about the save; run less beside it.",
        hung.evidence,
    )


def wait_completed(machine: Machine, deadline: Deadline) -> SaveFigures:
    """Wait until a save has completed and QEMU is ready for another one.

    Raises:
        SubjectFailed: the save failed, was cancelled, or did not end in time.
    """
    figures = wait_reported_completed(machine, deadline)
    wait_cleaned_up(machine, deadline)
    return figures


def wait_reported_completed(machine: Machine, deadline: Deadline) -> SaveFigures:
    """Wait until `query-migrate` reports "completed", which may be before QEMU has cleaned up.

    Raises:
        SubjectFailed: the save failed, was cancelled, or hung until the deadline.
        HostTooBusy: at the deadline it still sent pages, of which it had not sent all.
    """
    progress = _Progress()
    while True:
        answer = machine.query_migrate()
        if answer.get("status") == "completed":
            ram = answer["ram"]
            return SaveFigures(
                int(answer["downtime"]), int(answer["total-time"]), ram["normal"], ram["duplicate"]
            )
        _check_not_failed(machine, answer)
        progress.see(answer)
        if deadline.expired:
            raise _unfinished(machine, answer, progress, deadline)
        machine.pause(deadline)


class _Progress:
    """How many pages a save has sent so far, and when the number grew last."""

    def __init__(self) -> None:
        self.pages = 0
        self._grew, self._seen = -math.inf, 0.0

    def see(self, answer: dict[str, Any]) -> None:
        """Take note of an answer to `query-migrate`."""
        self._seen = time.monotonic()
        ram = answer.get("ram", {})
        pages = ram.get("normal", 0) + ram.get("duplicate", 0)
        if pages > self.pages:
            self.pages, self._grew = pages, self._seen

    def goes_on(self) -> bool:
        """Return whether pages were sent in the last seconds before the last answer.

        What happens after it is not looked at: evidence of an error took 8 s on an emulated host.
        """
        return self._seen - self._grew <= patient(_PROGRESS_SECONDS)


def _unfinished(
    machine: Machine, answer: dict[str, Any], progress: _Progress, deadline: Deadline
) -> SnapproofError:
    """Return the error of a save that did not end in time: QEMU's, or a slow host's where pages still move.

    A save that has sent more pages than there are sends some of them for ever, which is QEMU's.
    """
    status = str(answer.get("status"))
    sentence = f"The save is still '{status}' after {deadline.seconds:.0f} s"
    hung = machine.failure(sentence, Code.SAVE_UNFINISHED, {"status": status})
    ram = answer.get("ram", {})
    most = ram.get("total", 0) // ram.get("page-size", TARGET_PAGE_BYTES)
    if not progress.goes_on() or progress.pages > most:
        return hung
    return HostTooBusy(
        f"{sentence}, with {progress.pages:,} of {most:,} pages sent, and goes on: this host is too slow for "
        "that limit.",
        hung.evidence,
    )


def wait_cleaned_up(machine: Machine, deadline: Deadline) -> None:
    """Wait until QEMU's main loop has cleaned up after a migration that has ended.

    The migration thread sets the status, and the main loop cleans up after that. A `migrate` in between is
    refused as a "duplicate yank instance", or aborts QEMU (docs/findings.md, F3).

    Raises:
        SubjectFailed: the clean-up did not end in time.
    """
    while cleans_up(machine, deadline):
        if deadline.expired:
            raise machine.failure(
                "QEMU has ended the migration but does not clean up after it", Code.SAVE_NOT_CLEANED_UP
            )
        machine.pause(deadline, 0.002)


def cleans_up(machine: Machine, deadline: Deadline) -> bool:
    """Tell whether QEMU still cleans up after a migration.

    It shows in `query-yank` (QEMU 6.0 to 11.1 migration/migration.c, migrate_fd_cleanup()); 5.2 has no yank.
    """
    try:
        instances = machine.qmp.execute("query-yank", deadline=deadline)
    except CommandRefused:
        return False
    return any(instance.get("type") == "migration" for instance in instances)


def _words(refusal: CommandRefused) -> str:
    return refusal.reason or "QEMU gives no reason"


def require_under_way(machine: Machine, proves_nothing: str) -> None:
    """Check that a save still goes on, so that what a test has just done was done while RAM was saved.

    Args:
        machine: QEMU.
        proves_nothing: one full sentence about a save that was completed before.

    Raises:
        SubjectFailed: the save has failed or was cancelled, which is QEMU's doing.
        SetupBroken: it is over.
    """
    answer = machine.query_migrate()
    _check_not_failed(machine, answer)
    if answer.get("status") != "active":
        raise SetupBroken(proves_nothing)


def _check_not_failed(machine: Machine, answer: dict[str, Any]) -> None:
    if answer.get("status") in _ENDED - {"completed"}:
        reason = answer.get("error-desc", "QEMU gives no reason")
        raise machine.failure(
            f"The save ended as '{answer['status']}': {reason}",
            Code.SAVE_FAILED,
            {"status": answer["status"], **said(reason)},
        )


def restore(machine: Machine, uri: str, deadline: Deadline) -> str:
    """Load a stream into a machine that was started with `-incoming defer`.

    Returns:
        The guest's run state after the load, which is that at T0: ``running`` or ``paused``.

    Raises:
        SubjectFailed: QEMU refuses the stream, dies, or does not end the load in time.
    """
    try:
        machine.qmp.execute("migrate-incoming", {"uri": uri}, deadline)
    except CommandRefused as refusal:
        raise machine.failure(
            f"QEMU refused to restore: {refusal.reason}", Code.RESTORE_FAILED, said(refusal.reason)
        ) from refusal

    def loaded(status: str) -> bool:
        """Return whether the load has ended; raise SubjectFailed if it failed."""
        answer: dict[str, Any] = {}
        # Some QEMU versions refuse query-migrate on the incoming side.
        with contextlib.suppress(CommandRefused):
            answer = machine.query_migrate()
        if answer.get("status") == "failed":
            reason = answer.get("error-desc", "QEMU gives no reason")
            raise machine.failure(f"The restore failed: {reason}", Code.RESTORE_FAILED, said(reason))
        return status != "inmigrate"

    return machine.wait_status(loaded, deadline, "loaded")


@dataclass(frozen=True)
class Stun:
    """The stun of a save, by the timestamps of QEMU's events.

    Attributes:
        stopped: time of the event STOP, in seconds since the epoch.
        resumed: time of the RESUME that follows it, likewise.
    """

    stopped: float
    resumed: float

    @property
    def seconds(self) -> float:
        """Its duration in seconds."""
        return self.resumed - self.stopped


def find_stun(machine: Machine, mark: int) -> Stun | None:
    """Find the first STOP after `mark` and the RESUME that follows it.

    Returns:
        The stun, None if the guest was not stopped and resumed since.
    """
    stopped: float | None = None
    for event in machine.qmp.events_since(mark):
        if event.name == "STOP" and stopped is None:
            stopped = event.seconds
        elif event.name == "RESUME" and stopped is not None:
            return Stun(stopped, event.seconds)
    return None
