"""Start and end one QEMU process, with a QMP session, a console log and a way to the guest's SSH."""

from __future__ import annotations

import os
import shlex
import signal
import socket
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from harness.codes import Code, Fields
from harness.deadline import Deadline
from harness.errors import DeadlineExpired, Evidence, SetupBroken, SubjectFailed
from harness.limits import ended_by_limit, limit_behind, limit_in
from harness.linux.listeners import Endpoint, free_loopback_address, listeners_at
from harness.linux.uffd_waiters import Waiters, find_waiters
from harness.process import ChildProcess, last_line
from harness.qemu.configuration import OVERLAY_FILE, QEMU_LOG, VARIABLES_FILE, MachineConfig, qemu_argv
from harness.qemu.disk import KeptDisk, make_overlay
from harness.qemu.messages import last_message, said
from harness.qemu.monitored_machine import MonitoredMachine
from harness.qemu.qmp import QmpSession

_QMP_SECONDS = 30.0
_QUIT_SECONDS = 10.0
# Reading the kernel's table can miss a socket while others come and go.
_LISTEN_SECONDS = 2.0


class SpawnedMachine(MonitoredMachine):
    """A QEMU that runs during the `with`; leaving it ends QEMU and checks that no process of it is left.

    The folder receives `qemu.log`, `console.log`, `qmp.jsonl` and `command.txt`.
    """

    def __init__(self, config: MachineConfig, folder: Path, incoming: bool = False) -> None:
        """Describe a machine; entering the `with` starts it.

        Args:
            config: what to run.
            folder: its own folder for logs, created if missing.
            incoming: start it with `-incoming defer`, to wait for `migrate-incoming`.
        """
        self.config = config
        self.folder = folder
        self.incoming = incoming
        self.ssh = Endpoint("", 0)
        self.kept_disk: KeptDisk | None = None
        """The disk to restore this guest's snapshots with; see `keep_disk()`."""
        if incoming and config.disk is not None:
            self.kept_disk = KeptDisk(config.disk, 0)
        self._process: ChildProcess | None = None
        self._qmp: QmpSession | None = None
        self._killed = False

    @property
    def _child(self) -> ChildProcess:
        """The QEMU process; exists once the `with` has been entered."""
        if self._process is None:
            raise SetupBroken("The machine has not been started.")
        return self._process

    @property
    def pid(self) -> int:
        """Process id of what was started, which is also the id of its session."""
        return self._child.pid

    @property
    def qmp(self) -> QmpSession:
        """Its QMP session; exists only during the `with`."""
        if self._qmp is None:
            raise SetupBroken("The machine has no QMP session.")
        return self._qmp

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._launch()
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def alive(self) -> bool:
        """Return whether the QEMU process runs."""
        return self._child.exit_code() is None

    def evidence(self, *paths: Path) -> Evidence:
        """Return the process's command line, exit code and log tail, for an error."""
        return self._child.evidence(*paths)

    def failure(
        self, sentence: str, code: Code = Code.QEMU_FAILED, fields: Fields | None = None
    ) -> SubjectFailed | SetupBroken:
        """Return an error that blames this QEMU, or the limit of the machine that ended it, with evidence.

        Args:
            sentence: what QEMU did wrong, without the full stop.
            code: what happened.
            fields: values that tell cases with the same code apart. Added are a known message in the
                last words of QEMU's log, and what waits in a page fault.
        """
        exit_code = self._child.exit_code()
        ended = "" if exit_code is None else f" (exit code {exit_code})"
        paths = (self.folder / "console.log", self.folder / "qmp.jsonl")
        evidence = self.evidence(*paths)
        if not self._killed and (limit := limit_behind(exit_code)):
            return ended_by_limit(f"{sentence}{ended}", limit, evidence)
        last = last_line(evidence.log_tail)
        words = f"; its last words: {last}" if last else ""
        held = find_waiters(self._child.pid) if exit_code is None else Waiters()
        found = {**said(last_message(evidence.log_tail)), **held.fields, **(fields or {})}
        return SubjectFailed(f"{sentence}{ended}{held.clause}{words}.", evidence, code=code, fields=found)

    def pause(self, deadline: Deadline, seconds: float = 0.01) -> int | None:
        """Sleep between two checks of a condition, less if QEMU ends; return its exit code in that case."""
        try:
            return self._child.wait(deadline.at_most(seconds))
        except DeadlineExpired:
            return None

    def wait_console(self, text: str, deadline: Deadline) -> None:
        """Wait until the console log contains `text`.

        Raises:
            SubjectFailed: QEMU ended before that.
            DeadlineExpired: the text did not appear in time.
        """
        console = self.folder / "console.log"

        def seen() -> bool:
            if not self.alive():
                raise self.failure("QEMU ended while the guest booted", Code.QEMU_ENDED)
            return console.exists() and text in console.read_text(errors="replace")

        deadline.wait_for(seen, f"'{text}' on the guest's console", interval=0.1)

    def quit(self) -> None:
        """Ask QEMU to quit, and wait until it has ended.

        Raises:
            SubjectFailed: it did not end in time.
        """
        self.qmp.execute("quit")
        if self.pause(Deadline(_QUIT_SECONDS), _QUIT_SECONDS) is None:
            raise self.failure(f"QEMU did not quit within {_QUIT_SECONDS:.0f} s")

    def kill(self) -> None:
        """Kill the started process with SIGKILL, and nothing else of its session."""
        self._killed = True
        os.kill(self.pid, signal.SIGKILL)

    def end(self) -> None:
        """End QEMU and all processes that it started; do nothing if it does not run."""
        try:
            if self._process is not None:
                self._process.end()
        finally:
            if self._qmp is not None:
                self._qmp.close()
            self._qmp = None
            for name in (OVERLAY_FILE, VARIABLES_FILE):
                (self.folder / name).unlink(missing_ok=True)

    def arguments(self, qmp_fd: int, ssh_address: str) -> list[str]:
        """Return the command line of QEMU.

        Args:
            qmp_fd: number of our QMP socket in the child.
            ssh_address: loopback address to forward to the guest's SSH server.
        """
        return qemu_argv(self.config, self.folder, qmp_fd, ssh_address, self.incoming)

    def passed_files(self) -> tuple[int, ...]:
        """Return further descriptors that QEMU gets, by their own numbers."""
        return ()

    def _launch(self) -> None:
        if self.config.disk is not None:
            make_overlay(self.config.disk, self.folder / OVERLAY_FILE)
        if self.config.flash is not None:
            # A restored guest's copy is as at first, too: what the guest has written is in the snapshot.
            (self.folder / VARIABLES_FILE).write_bytes(self.config.flash.variables.read_bytes())
        address = free_loopback_address()
        ours, theirs = socket.socketpair()
        with theirs:
            argv = self.arguments(theirs.fileno(), address)
            (self.folder / "command.txt").write_text(shlex.join(argv) + "\n")
            try:
                passed = (theirs.fileno(), *self.passed_files())
                self._process = ChildProcess(argv, self.folder / QEMU_LOG, pass_fds=passed)
            except BaseException:
                ours.close()
                raise
        self._qmp = QmpSession(self.folder / "qmp.jsonl", self.failure, self.alive)
        try:
            self._qmp.connect(ours, Deadline(_QMP_SECONDS))
        except SubjectFailed as error:
            # Later such words may be QEMU's own answer to a call that a test has made fail.
            if error.code is Code.QEMU_ENDED and (words := limit_in(error.evidence.log_tail)):
                raise ended_by_limit(error.sentence.rstrip("."), f"'{words}'", error.evidence) from error
            raise
        if self.config.virtio:
            self.ssh = self._forwarded(address)

    def _forwarded(self, address: str) -> Endpoint:
        """Return the only listening socket at an address that was given to this QEMU alone."""
        limit = Deadline(_LISTEN_SECONDS)
        while len(found := listeners_at(address)) != 1:
            if limit.expired:
                raise self._not_forwarded(address, found)
            self.pause(limit, 0.05)
        return found[0]

    def _not_forwarded(self, address: str, found: Sequence[Endpoint]) -> SetupBroken:
        if found:
            ports = ", ".join(str(endpoint.port) for endpoint in found)
            sentence = (
                f"Several sockets listen at {address} (ports {ports}), which was given to this QEMU alone, "
                "so its port for the guest's SSH is not known; run the test again."
            )
        else:
            sentence = (
                f"QEMU answers, but nothing listens at {address}, where it was told to forward the guest's "
                f"SSH; does '{self.config.executable}' run QEMU in a network namespace of its own?"
            )
        return SetupBroken(sentence, self.evidence(self.folder / "command.txt"))
