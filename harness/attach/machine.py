"""A QEMU that somebody else runs, reached over QMP or libvirt through a guard; never ended by us."""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from harness.attach.guard import END_COPY, PUT_BACK, QEMU_GONE, RESTORE_COPY, UNPIN, Order
from harness.attach.ledger import Before, by_hand
from harness.attach.monitor import MonitorUnusable
from harness.attach.process import QemuProcess, option_value, read_process
from harness.attach.virsh import Domain
from harness.codes import Code, Fields
from harness.deadline import Deadline
from harness.errors import Evidence, SetupBroken, SnapproofError, SubjectFailed
from harness.linux.listeners import Endpoint
from harness.linux.uffd_waiters import Waiters, find_waiters
from harness.process import log_tail
from harness.qemu.configuration import MIB, MachineConfig
from harness.qemu.disk import KeptDisk
from harness.qemu.messages import said
from harness.qemu.monitored_machine import MonitoredMachine
from harness.qemu.qmp import CommandRefused, QmpSession

GUARD_LOG = "guard.log"
"""What the guard did to the VM, in the results folder."""

_GUARD_SECONDS = 100.0
_GREETING_SECONDS = 30.0
# QEMU 11.1 qapi/run-state.json, ShutdownCause: all others come from a signal, a command or the guest.
_OF_QEMU = "host-error"
_TAKEOVERS = 3
_TAKEOVER_SECONDS = 1.0
# It waits for the end of a save.
_PUT_BACK_SECONDS = 4000.0


@dataclass(frozen=True)
class _Guard:
    process: subprocess.Popen[bytes]
    socket: socket.socket
    pid: int
    before: dict[str, Any]


class AttachedMachine(MonitoredMachine):
    """A VM that runs already; leaving the `with` puts back all that was set through it.

    Attributes:
        before: the VM as it was when the `with` was entered.
        process: the QEMU process, None where it cannot be known.
        copy: name of the domain that was restored as a copy of this one, "" for none.
    """

    before: Before
    process: QemuProcess | None

    def __init__(self, way: Path | Domain, folder: Path, max_stop: float) -> None:
        """Name a VM; entering the `with` connects to it.

        Args:
            way: its QMP socket, or the domain of libvirt that it is.
            folder: receives `qmp.jsonl` and the guard's log.
            max_stop: seconds after which the guard continues a guest that we have stopped.
        """
        self.way, self.folder, self.max_stop = way, folder, max_stop
        self.ssh = Endpoint("", 0)
        self.kept_disk: KeptDisk | None = None
        self.process = None
        self.copy = ""
        self._guard: _Guard | None = None
        self._first: dict[str, Any] | None = None
        self._qmp: QmpSession | None = None

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._start(None)
        try:
            self.config = self._configuration()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self.alive():
                self.put_back()
        except SnapproofError as failed:
            if self._first is not None:
                print(
                    f"The VM could not be put back ({failed.sentence.rstrip('.')}); type in its monitor: "
                    f"{self.by_hand()}",
                    file=sys.stderr,
                )
            # What ended the block says more.
            if error is None:
                raise
        finally:
            self._close()

    @property
    def qmp(self) -> QmpSession:
        """Its QMP session; exists only during the `with`."""
        if self._qmp is None:
            raise SetupBroken("The VM is not attached.")
        return self._qmp

    @property
    def pid(self) -> int | None:
        """Process id of QEMU, None where it cannot be known."""
        return self.process.pid if self.process else None

    @property
    def guard_pid(self) -> int:
        """Process id of the guard."""
        if self._guard is None:
            raise SetupBroken("The VM is not attached.")
        return self._guard.process.pid

    def put_back(self, pins: bool = True) -> list[str]:
        """Put the VM back as it was; return a sentence for each thing that was done.

        If the guard is gone, another one takes over its work.

        Args:
            pins: whether its disks are no longer to be pinned.

        Raises:
            SetupBroken: the VM can no longer be reached; the sentence says what to type.
        """
        try:
            return self._put_back(pins)
        except SnapproofError:
            if not self.alive() or self._guard_runs():
                raise
        self._take_over()
        return self._put_back(pins)

    def _put_back(self, pins: bool) -> list[str]:
        return list(self.qmp.execute(PUT_BACK, {"pins": pins}, Deadline(_PUT_BACK_SECONDS)))

    def unpin(self) -> None:
        """Let go of pinned disks; raises CommandRefused if QEMU does not."""
        self.qmp.execute(UNPIN, deadline=Deadline(_PUT_BACK_SECONDS))

    def restore_copy(self, name: str, image: Path, seconds: float) -> None:
        """Have libvirt restore a save image, which has a domain of that name, paused.

        However this process ends, the guard ends that domain.

        Raises:
            CommandRefused: libvirt does not, with its words.
        """
        # The guard answers after it has ended virsh.
        limit = Deadline(seconds + _GUARD_SECONDS)
        arguments = {"name": name, "image": str(image.absolute()), "seconds": seconds}
        self.copy = name
        self.qmp.execute(RESTORE_COPY, arguments, limit)

    def end_copy(self) -> bool:
        """End the domain that `restore_copy` has made; return whether it was there."""
        was_there = bool(self.qmp.execute(END_COPY, deadline=Deadline(_PUT_BACK_SECONDS)))
        self.copy = ""
        return was_there

    def by_hand(self) -> str:
        """Return what to type to put the VM back as it was first found."""
        words = by_hand(self.before)
        return self.way.by_hand(words) if isinstance(self.way, Domain) else words

    def alive(self) -> bool:
        """Return whether QEMU runs, by its guard where QEMU's process is not known."""
        if self.process is not None:
            return self.process.alive
        return self._guard is None or self._guard.process.poll() != QEMU_GONE

    def evidence(self, *paths: Path) -> Evidence:
        """Return QEMU's command line and the guard's log."""
        argv = self.process.argv if self.process else ()
        return Evidence(argv, None, "", (*paths, self.folder / GUARD_LOG))

    def failure(
        self, sentence: str, code: Code = Code.QEMU_FAILED, fields: Fields | None = None
    ) -> SubjectFailed | SetupBroken:
        """Return an error that blames this QEMU, or the guard if that has ended."""
        evidence = self.evidence(self.folder / "qmp.jsonl")
        if ended := self._ended_by_others():
            return SetupBroken(f"{sentence}: {ended}", evidence)
        if self.alive() and not self._guard_runs():
            return SetupBroken(
                f"{sentence}: the guard, which is snapproof's own process between it and QEMU, was ended; "
                "find out what ended it.",
                Evidence(evidence.command, None, log_tail(self.folder / GUARD_LOG), evidence.paths),
            )
        if isinstance(self.way, Domain) and self.alive():
            try:
                self.way.ask("domstate", self.way.name)
            except MonitorUnusable as silent:
                return SetupBroken(f"{sentence}, since libvirt was away: {silent}", evidence)
        held = find_waiters(self.pid) if self.pid and self.alive() else Waiters()
        found = {**said(sentence), **held.fields, **(fields or {})}
        return SubjectFailed(f"{sentence}{held.clause}.", evidence, code=code, fields=found)

    def _ended_by_others(self) -> str:
        """Return how QEMU was ended by others or by its guest, as the end of a sentence; "" if it was not."""
        events = self._qmp.events_since(0) if self._qmp is not None else []
        reasons = [str(one.data.get("reason")) for one in events if one.name == "SHUTDOWN"]
        if self.alive() or not reasons or reasons[-1] == _OF_QEMU:
            return ""
        return f"QEMU has ended meanwhile (SHUTDOWN, '{reasons[-1]}'), which says nothing about the snapshot."

    def pause(self, deadline: Deadline, seconds: float = 0.01) -> int | None:
        """Sleep between two checks of a condition; the exit code of a QEMU of others is never known."""
        deadline.nap(seconds)
        return None

    def quit(self) -> None:
        """Refuse: this QEMU is not ours to end."""
        raise SetupBroken("This QEMU was not started by snapproof, and is not ended by it.")

    def _configuration(self) -> MachineConfig:
        argv = self.process.argv if self.process else ()
        executable = self.process.executable if self.process else None
        memory = self.qmp.execute("query-memory-size-summary")
        return MachineConfig(
            executable or Path(argv[0] if argv else "qemu"),
            accel="kvm" if self.qmp.execute("query-kvm")["enabled"] else "tcg",
            ram_mib=int(memory["base-memory"]) // MIB,
            vcpus=len(self.qmp.execute("query-cpus-fast")),
            machine=option_value(argv, "-machine") or option_value(argv, "-M") or self._machine_type(),
            kernel=None,
            initrd=None,
            cmdline="",
            virtio=False,
        )

    def _machine_type(self) -> str:
        """Return the machine type of a QEMU that was not told one, or whose command line is hidden.

        QEMU 7.2 hw/core/machine.c: the type of the object /machine is its name with "-machine" behind it.
        """
        try:
            found = self.qmp.execute("qom-get", {"path": "/machine", "property": "type"})
        except CommandRefused:
            return "unknown"
        return str(found).removesuffix("-machine")

    def _guard_runs(self) -> bool:
        return self._guard is not None and self._guard.process.poll() is None

    def _start(self, before: dict[str, Any] | None) -> None:
        """Start a guard, and a QMP session with it."""
        self._guard = start_guard(self._order(before), self.folder)
        # What a later guard finds may be our own doing.
        self._first = self._first or self._guard.before
        self.before = Before(**self._first)
        self.process = read_process(self._guard.pid)
        self._qmp = QmpSession(self.folder / "qmp.jsonl", self.failure, self._guard_runs)
        self._qmp.connect(self._guard.socket, Deadline(_GREETING_SECONDS))

    def _order(self, before: dict[str, Any] | None) -> Order:
        if isinstance(self.way, Domain):
            return Order("", self.max_stop, before, asdict(self.way), self.copy)
        return Order(str(self.way.absolute()), self.max_stop, before)

    def _take_over(self) -> None:
        """Put another guard in the place of one that is gone, to put back what that may have been told.

        Raises:
            SetupBroken: the monitor cannot be used.
        """
        for left in reversed(range(_TAKEOVERS)):
            self._close()
            try:
                self._start(self._first)
            except SnapproofError:
                if not left:
                    raise
                time.sleep(_TAKEOVER_SECONDS)
            else:
                return

    def _close(self) -> None:
        """Close the connection to the guard, which then puts back what is left to do and ends."""
        if self._qmp is not None:
            self._qmp.close()
            self._qmp = None
        if self._guard is not None:
            with contextlib.suppress(OSError):
                self._guard.socket.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._guard.process.wait(_GUARD_SECONDS)
            self._guard = None


def start_guard(order: Order, folder: Path) -> _Guard:
    """Start a guard, which outlives us, and wait until it has looked at the VM.

    Raises:
        SetupBroken: the monitor cannot be used; the sentence says why.
    """
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-m", "harness.attach.guard", str(theirs.fileno()), order.to_json()]
    try:
        with theirs, (folder / GUARD_LOG).open("ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                pass_fds=(theirs.fileno(),),
                # Signals for our terminal's programs are not for it.
                start_new_session=True,
                cwd="/",
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        found = _first_line(process, Deadline(_GUARD_SECONDS))
    except BaseException:
        ours.close()
        raise
    if "before" not in found:
        ours.close()
        process.wait()
        why = found.get("unusable") or "The guard, snapproof's own process, did not start."
        raise SetupBroken(str(why), Evidence(command, process.returncode, log_tail(folder / GUARD_LOG)))
    return _Guard(process, ours, int(found["pid"]), dict(found["before"]))


def _first_line(process: subprocess.Popen[bytes], deadline: Deadline) -> dict[str, Any]:
    assert process.stdout is not None, "it is a pipe"
    with process.stdout as output:
        if not select.select([output], [], [], deadline.remaining())[0]:
            process.kill()
            return {}
        try:
            return dict(json.loads(output.readline() or b"{}"))
        except ValueError:
            return {}
