"""QMP: an answer at the very end of a wait is an answer, and our own limits are not QEMU's fault."""

from __future__ import annotations

import concurrent.futures
import contextlib
import errno
import json
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from harness.codes import Code, Fields
from harness.deadline import Deadline
from harness.errors import SetupBroken, SubjectFailed
from harness.qemu.configuration import MachineConfig
from harness.qemu.qmp import CommandRefused, QmpSession
from harness.qemu.spawned_machine import SpawnedMachine
from tests_unit.support import fake_qemu


@pytest.fixture
def machine(tmp_path: Path) -> SpawnedMachine:
    """A machine on the stand-in QEMU, not yet started."""
    config = MachineConfig(
        Path(fake_qemu.__file__), tmp_path / "kernel", tmp_path / "initrd", "console=ttyS0", accel="tcg"
    )
    return SpawnedMachine(config, tmp_path / "machine")


class _LateAnswer(concurrent.futures.Future[Any]):
    """A future that is completed while a wait for it gives up: after its last look, before its return."""

    def __init__(self) -> None:
        super().__init__()

    def arrive(self) -> None:
        """Complete the future, unless it is."""
        if not self.done():
            self.set_result({"status": "active"})

    def __getattribute__(self, name: str) -> Any:
        if name == "_condition":
            return _GivesUp(self, super().__getattribute__(name))
        return super().__getattribute__(name)


class _GivesUp:
    """The future's condition: a wait on it lets the answer arrive once the time is over."""

    def __init__(self, future: _LateAnswer, real: threading.Condition) -> None:
        self._future, self._real = future, real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def __enter__(self) -> Any:
        return self._real.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._real.__exit__(*error)
        if error[0] is not None and issubclass(error[0], TimeoutError):
            self._future.arrive()


def test_an_answer_at_the_time_out_is_an_answer(
    machine: SpawnedMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A poll that times out while the answer arrives does not take its own TimeoutError for a lost QEMU."""
    late = _LateAnswer()

    def submit(coroutine: Any, _loop: Any) -> _LateAnswer:
        coroutine.close()
        # For the way that does not raise: the answer comes during a later poll.
        threading.Timer(0.5, late.arrive).start()
        return late

    with machine, monkeypatch.context() as patched:
        patched.setattr("harness.qemu.qmp.asyncio.run_coroutine_threadsafe", submit)
        assert machine.qmp.execute("query-migrate", deadline=Deadline(20)) == {"status": "active"}


def test_answers_race_with_polls(machine: SpawnedMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    """No answer is lost and no QEMU is blamed if polls are as short as an answer takes."""
    monkeypatch.setattr("harness.qemu.qmp._POLL_SECONDS", 0.0)
    with machine:
        for _ in range(200):
            assert machine.qmp.execute("query-status") == {"status": "running"}


def test_an_answer_at_the_deadline_is_an_answer(
    machine: SpawnedMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer that comes between the last look and the end of the time is not thrown away."""
    late: concurrent.futures.Future[Any] = concurrent.futures.Future()

    def submit(coroutine: Any, _loop: Any) -> concurrent.futures.Future[Any]:
        coroutine.close()
        return late

    def alive() -> bool:
        if not late.done():
            late.set_result({})
        return True

    with machine, monkeypatch.context() as patched:
        patched.setattr("harness.qemu.qmp.asyncio.run_coroutine_threadsafe", submit)
        patched.setattr(machine.qmp, "_alive", alive)
        assert machine.qmp.execute("query-migrate", deadline=Deadline(0)) == {}


class _FullDisk:
    """A log on a full disk."""

    name = "qmp.jsonl"

    def write(self, _text: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def close(self) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_log_that_cannot_be_written_is_our_fault(machine: SpawnedMachine) -> None:
    """A full disk ends each wait as a limit of the machine, not as QEMU's end."""
    with machine:
        machine.qmp._log = _FullDisk()  # type: ignore[assignment]
        with pytest.raises(SetupBroken, match="No space left on device") as caught:
            machine.qmp.execute("query-status")
        assert caught.value.code is Code.SETUP_LIMIT
        with pytest.raises(SetupBroken, match=r"qmp\.jsonl"):
            machine.qmp.wait_event(lambda _event: True, machine.qmp.mark(), Deadline(0.2), "STOP")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.EMFILE, "Too many open files"), SetupBroken),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), SubjectFailed),
    ],
)
def test_a_lost_connection(
    machine: SpawnedMachine, monkeypatch: pytest.MonkeyPatch, error: OSError, expected: type[Exception]
) -> None:
    """A limit of this process is told from a connection that QEMU closed."""

    def fail(_session: QmpSession, *_: Any) -> None:
        raise error

    with machine:
        monkeypatch.setattr("harness.qemu.qmp._EXIT_GRACE_SECONDS", 0.1)
        monkeypatch.setattr(QmpSession, "_call", fail)
        with pytest.raises(expected):
            machine.qmp.execute("query-status")


def test_leaving_ends_the_loop_and_closing_again_does_nothing(machine: SpawnedMachine) -> None:
    """No thread is left behind, and a second close is no error."""
    with machine:
        session = machine.qmp
        assert session._thread.is_alive()
    assert not session._thread.is_alive()
    session.close()


def test_waiting_for_an_event_is_no_busy_loop(
    machine: SpawnedMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wait sleeps until something arrives: the CPUs are the guest's."""
    passes: list[None] = []
    monkeypatch.setattr(QmpSession, "_require_log", lambda _session: passes.append(None))
    with machine:
        passes.clear()
        begun = time.monotonic()
        with pytest.raises(SubjectFailed) as caught:
            machine.qmp.wait_event(lambda _event: False, machine.qmp.mark(), Deadline(0.5), "STOP")
        assert len(passes) < 50
        assert time.monotonic() - begun >= 0.5
    assert caught.value.code is Code.QMP_NO_EVENT


def test_an_event_that_a_dead_qemu_did_not_send(machine: SpawnedMachine) -> None:
    """The wait ends with QEMU, long before its deadline, and says what was awaited."""
    limit = Deadline(20)
    with machine:
        threading.Timer(0.2, machine.kill).start()
        with pytest.raises(SubjectFailed, match="QEMU ended before it sent STOP") as caught:
            machine.qmp.wait_event(lambda _event: False, machine.qmp.mark(), Deadline(60), "STOP")
    assert caught.value.code is Code.QEMU_ENDED
    assert limit.remaining() > 10


def _failure(sentence: str, code: Code = Code.QEMU_FAILED, fields: Fields | None = None) -> SubjectFailed:
    return SubjectFailed(f"{sentence}.", code=code, fields=fields or {})


@pytest.mark.parametrize(
    ("alive", "sentence", "code"),
    [
        (True, "QEMU did not greet over QMP within 1 s", Code.QMP_NO_GREETING),
        # Another process has inherited its end of the socket.
        (False, "QEMU ended instead of going on to greet over QMP", Code.QEMU_ENDED),
    ],
)
def test_a_qemu_that_does_not_greet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alive: bool, sentence: str, code: Code
) -> None:
    """It hangs, or has ended although its socket is open."""
    monkeypatch.setattr("harness.qemu.qmp._EXIT_GRACE_SECONDS", 0.1)
    session = QmpSession(tmp_path / "qmp.jsonl", _failure, lambda: alive)
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            with pytest.raises(SubjectFailed, match=sentence) as caught:
                session.connect(ours, Deadline(0.6))
        finally:
            session.close()
    assert caught.value.code is code


def test_a_qemu_that_closes_its_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It lives, and cannot be spoken to any more."""
    monkeypatch.setattr("harness.qemu.qmp._EXIT_GRACE_SECONDS", 0.1)
    session = QmpSession(tmp_path / "qmp.jsonl", _failure, lambda: True)
    ours, theirs = socket.socketpair()
    theirs.close()
    try:
        with pytest.raises(SubjectFailed, match="closed its QMP connection before it greeted") as caught:
            session.connect(ours, Deadline(5))
    finally:
        session.close()
    assert caught.value.code is Code.QMP_CLOSED


def test_a_qemu_that_ends_right_after_its_greeting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library asserts that its session runs; a QEMU that ends then was called snapproof's own fault."""
    session = QmpSession(tmp_path / "qmp.jsonl", _failure, lambda: False)

    async def connect(_sock: socket.socket) -> None:
        assert session is None

    monkeypatch.setattr(session._client, "connect", connect)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        try:
            with pytest.raises(SubjectFailed, match="QEMU ended before it greeted") as caught:
                session.connect(ours, Deadline(5))
        finally:
            session.close()
    assert caught.value.code is Code.QEMU_ENDED


def test_no_thread_of_a_session_outlives_the_program(tmp_path: Path) -> None:
    """An error in the program must not leave it hanging."""
    session = QmpSession(tmp_path / "qmp.jsonl", _failure, lambda: True)
    assert session._thread.daemon
    session.close()


def test_closing_closes_the_socket(tmp_path: Path) -> None:
    """QEMU is told, so that it takes another connection."""
    session = QmpSession(tmp_path / "qmp.jsonl", _failure, lambda: True)
    ours, theirs = socket.socketpair()

    def serve() -> None:
        theirs.sendall(json.dumps(fake_qemu.GREETING).encode() + b"\n")
        assert json.loads(theirs.recv(1 << 16))["execute"] == "qmp_capabilities"
        theirs.sendall(b'{"return": {}}\n')

    server = threading.Thread(target=serve)
    server.start()
    with theirs:
        theirs.settimeout(5)
        session.connect(ours, Deadline(5))
        server.join()
        session.close()
        assert theirs.recv(1) == b""


def test_a_command_has_half_a_minute(machine: SpawnedMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where its caller does not say."""
    given: list[float] = []

    class Noted(Deadline):
        def __init__(self, seconds: float) -> None:
            given.append(seconds)
            super().__init__(seconds)

    with machine:
        with monkeypatch.context() as patched:
            patched.setattr("harness.qemu.qmp.Deadline", Noted)
            machine.qmp.execute("query-status")
        assert given == [30]


def test_events_before_a_mark_are_not_since_it(machine: SpawnedMachine) -> None:
    """A mark is a place between two events."""
    with machine:
        machine.qmp.execute("stop")
        mark = machine.qmp.mark()
        assert machine.qmp.events_since(mark) == []
        machine.qmp.execute("stop")
        assert len(machine.qmp.events_since(mark)) == 1


def _take_descriptor(server: socket.socket, answer: dict[str, object], taken: list[int]) -> None:
    """Greet, accept the capabilities, and take one command with its descriptor."""
    greeting = {"QMP": {"version": {"qemu": {"major": 10, "minor": 0, "micro": 0}}, "capabilities": []}}
    server.sendall(json.dumps(greeting).encode() + b"\n")
    words = b""
    for command, reply in (("qmp_capabilities", {"return": {}}), ("getfd", answer)):
        while not words.strip().endswith(b"}"):
            more, descriptors, _, _ = socket.recv_fds(server, 4096, 4)
            words += more
            taken += descriptors
        message = json.loads(words)
        assert message["execute"] == command
        # The client gives its request for capabilities no id.
        identity = {"id": message["id"]} if "id" in message else {}
        server.sendall(json.dumps({**reply, **identity}).encode() + b"\n")
        words = b""
    assert message["arguments"] == {"fdname": "save"}


@pytest.mark.parametrize(
    ("answer", "refused"),
    [({"return": {}}, False), ({"error": {"class": "GenericError", "desc": "No."}}, True)],
)
def test_descriptor_is_passed_with_its_name(tmp_path: Path, answer: dict[str, object], refused: bool) -> None:
    """QEMU gets a copy of it before the command that names it; ours stays open."""
    ours, theirs = socket.socketpair()
    taken: list[int] = []
    server = threading.Thread(target=_take_descriptor, args=(theirs, answer, taken))
    server.start()
    session = QmpSession(tmp_path / "qmp.jsonl", _failure, lambda: True)
    with (tmp_path / "file").open("wb") as file:
        try:
            session.connect(ours, Deadline(10))
            with pytest.raises(CommandRefused, match="No") if refused else contextlib.nullcontext():
                session.pass_descriptor(file.fileno(), "save", Deadline(10))
            assert [os.fstat(number).st_ino for number in taken] == [os.fstat(file.fileno()).st_ino]
        finally:
            server.join()
            session.close()
            theirs.close()
            for number in taken:
                os.close(number)
