"""A QMP connection to a QEMU, usable from any thread: logs every message, and bounds every wait."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from qemu.qmp import ExecuteError, Message, QMPClient, QMPError

from harness.codes import Code, Fields
from harness.deadline import Deadline
from harness.errors import SnapproofError
from harness.limits import is_limit, limit_error
from harness.qemu.messages import said

# When QEMU ends, the kernel closes its socket before the exit code can be read; at most so long before.
_EXIT_GRACE_SECONDS = 2.0
_POLL_SECONDS = 0.1

T = TypeVar("T")


class CommandRefused(SnapproofError):
    """QEMU answered a QMP command with an error; `reason` is its `error.desc`."""

    code = Code.QMP_REFUSED

    def __init__(self, command: str, reason: str) -> None:
        super().__init__(f"QEMU refused '{command}': {reason}", fields={"command": command, **said(reason)})
        self.reason = reason


@dataclass(frozen=True)
class Event:
    """One QMP event.

    Attributes:
        name: its name in QEMU's QAPI schema, e.g. ``STOP``.
        data: its data, empty if it has none.
        seconds: QEMU's timestamp, in seconds since the epoch.
    """

    name: str
    data: Mapping[str, Any]
    seconds: float


class Blame(Protocol):
    """A function that makes an error which blames a QEMU, e.g. `Machine.failure`."""

    def __call__(self, sentence: str, code: Code = ..., fields: Fields | None = None) -> SnapproofError:
        """Return the error; `fields` tell cases with the same code apart."""


class _LoggingClient(QMPClient):
    """A QMPClient that passes every message, in both directions, to a callback."""

    def __init__(self, on_message: Callable[[str, Message], None]) -> None:
        super().__init__("snapproof")
        self._on_message_logged = on_message

    def _cb_outbound(self, msg: Message) -> Message:
        self._on_message_logged("out", msg)
        return msg

    def _cb_inbound(self, msg: Message) -> Message:
        self._on_message_logged("in", msg)
        return msg


class QmpSession:
    """A QMP connection that can be used from any thread; it runs on an asyncio loop thread of its own.

    Listeners of qemu.qmp are not told when QEMU dies, so every wait here also checks the process.
    """

    def __init__(self, log: Path, failure: Blame, alive: Callable[[], bool]) -> None:
        """Create a session without a connection.

        Args:
            log: file to which each message is appended as a line of JSON, with host time and direction.
            failure: makes the errors that blame QEMU.
            alive: returns whether the QEMU process still runs.
        """
        self._log = log.open("a", encoding="utf-8")
        self._log_error: OSError | None = None
        self._failure = failure
        self._alive = alive
        self._events: list[Event] = []
        self._changed = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="qmp", daemon=True)
        self._thread.start()
        self._client = _LoggingClient(self._on_message)

    def connect(self, sock: socket.socket, deadline: Deadline) -> None:
        """Negotiate QMP over our end of a socket pair.

        Raises:
            SubjectFailed: QEMU died, or did not greet before the deadline.
        """
        try:
            self._call(lambda: self._client.connect(sock), deadline)
        # qemu.qmp 0.0.6 asserts that the session runs: not so if QEMU ends right after its greeting.
        except (QMPError, OSError, EOFError, AssertionError) as error:
            raise self._lost(error, "before it greeted over QMP") from error

    def execute(
        self, command: str, arguments: Mapping[str, Any] | None = None, deadline: Deadline | None = None
    ) -> Any:
        """Run a QMP command and return its `return` value.

        Raises:
            CommandRefused: QEMU answered with an error.
            SubjectFailed: QEMU died, or did not answer within the deadline (default 30 s).
        """
        return self._answered(lambda: self._client.execute(command, dict(arguments or {})), deadline, command)

    def _answered(
        self, start: Callable[[], Coroutine[Any, Any, T]], deadline: Deadline | None, command: str
    ) -> T:
        """Return QEMU's answer to a command; raise the errors of `execute`."""
        try:
            return self._call(start, deadline or Deadline(30), command)
        except ExecuteError as error:
            raise CommandRefused(command, error.error.error.desc) from error
        except (QMPError, OSError, EOFError) as error:
            raise self._lost(error, f"before it answered '{command}'") from error

    def pass_descriptor(self, descriptor: int, name: str, deadline: Deadline | None = None) -> None:
        """Give QEMU a copy of a descriptor by `getfd`, which other commands then know by its name.

        Args:
            descriptor: stays open here.
            name: such as "save" for the migration URI "fd:save".
            deadline: for the answer.

        Raises:
            CommandRefused: QEMU answered with an error.
            SubjectFailed: QEMU died, or did not answer within the deadline (default 30 s).
        """
        self._with_descriptor(descriptor, "getfd", {"fdname": name}, deadline)

    def add_descriptor(self, descriptor: int, name: str, deadline: Deadline | None = None) -> int:
        """Give QEMU a copy of a descriptor by `add-fd`; return the number of the set that it is alone in.

        Args:
            descriptor: stays open here.
            name: by which `query-fdsets` names it, as `opaque`.
            deadline: for the answer.

        Raises:
            CommandRefused, SubjectFailed: as `pass_descriptor`.
        """
        answer = self._with_descriptor(descriptor, "add-fd", {"opaque": name}, deadline)
        return int(answer["fdset-id"])

    def _with_descriptor(
        self, descriptor: int, command: str, arguments: Mapping[str, Any], deadline: Deadline | None
    ) -> Any:
        """Run a command that takes a descriptor; raise the errors of `execute`."""

        async def pass_it() -> Any:
            # The descriptor is for the command that is sent next.
            self._client.send_fd_scm(descriptor)
            return await self._client.execute(command, dict(arguments))

        return self._answered(pass_it, deadline, command)

    def mark(self) -> int:
        """Return the current position in the event history, for `wait_event` or `events_since`."""
        with self._changed:
            return len(self._events)

    def events_since(self, mark: int) -> list[Event]:
        """Return the events since a mark, in order."""
        with self._changed:
            return self._events[mark:]

    def wait_event(self, match: Callable[[Event], bool], mark: int, deadline: Deadline, what: str) -> Event:
        """Wait for the first event after `mark` that `match` accepts, and return it.

        Args:
            match: returns whether an event is the awaited one.
            mark: from `mark()`.
            deadline: for the event.
            what: names the event in the error.

        Raises:
            SubjectFailed: QEMU died, or the event did not come in time.
        """
        while True:
            self._require_log()
            with self._changed:
                for event in self._events[mark:]:
                    if match(event):
                        return event
                mark = len(self._events)
                if not self._alive():
                    break
                if deadline.expired:
                    raise self._failure(
                        f"QEMU did not send {what} within {deadline.seconds:.0f} s", Code.QMP_NO_EVENT
                    )
                self._changed.wait(min(_POLL_SECONDS, deadline.remaining()))
        raise self._gone(f"before it sent {what}")

    def close(self) -> None:
        """Close the connection and end the loop thread; may be called at any time."""
        if self._loop.is_closed():
            return
        with contextlib.suppress(Exception):
            asyncio.run_coroutine_threadsafe(self._client.disconnect(), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()
        # What could not be written has been said by _require_log().
        with contextlib.suppress(OSError):
            self._log.close()

    def _call(self, start: Callable[[], Coroutine[Any, Any, T]], deadline: Deadline, command: str = "") -> T:
        """Wait for QEMU's answer to a command, or for its greeting."""
        what = f"answer '{command}'" if command else "greet over QMP"
        future: Future[T] = asyncio.run_coroutine_threadsafe(start(), self._loop)
        grace: Deadline | None = None
        while True:
            # Not result(timeout): its TimeoutError is an OSError, as a lost connection is, and the answer may
            # arrive before the next line is reached.
            wait([future], min(_POLL_SECONDS, max(0.001, deadline.remaining())))
            self._require_log()
            if future.done():
                return future.result()
            if not self._alive():
                grace = grace or Deadline(_EXIT_GRACE_SECONDS)
                if grace.expired and future.cancel():
                    raise self._gone(f"instead of going on to {what}")
            elif deadline.expired and future.cancel():
                # cancel() returns False for an answer that has arrived after all; the next pass returns it.
                sentence = f"QEMU did not {what} within {deadline.seconds:.0f} s"
                if not command:
                    raise self._failure(sentence, Code.QMP_NO_GREETING)
                raise self._failure(sentence, Code.QMP_NO_ANSWER, {"command": command})

    def _require_log(self) -> None:
        """Check that every message so far is in the log.

        Raises:
            SetupBroken: the disk is full, or a limit of ours is reached.
        """
        if self._log_error is not None:
            raise limit_error(self._log_error, f"writing the log '{self._log.name}'")

    def _lost(self, error: Exception, when: str) -> SnapproofError:
        """Return the error for a connection that ended: a limit of ours, or else QEMU's doing."""
        if isinstance(error, OSError) and is_limit(error):
            return limit_error(error, "talking to QEMU over QMP")
        return self._gone(when)

    def _gone(self, when: str) -> SnapproofError:
        with contextlib.suppress(SnapproofError):
            Deadline(_EXIT_GRACE_SECONDS).wait_for(lambda: not self._alive(), "QEMU's exit")
        if self._alive():
            return self._failure(f"QEMU closed its QMP connection {when}", Code.QMP_CLOSED)
        return self._failure(f"QEMU ended {when}", Code.QEMU_ENDED)

    def _on_message(self, direction: str, message: Message) -> None:
        # Called on the loop thread, in the order in which messages arrive.
        entry = {"time": round(time.time(), 6), "dir": direction, "msg": dict(message)}
        try:
            self._log.write(json.dumps(entry) + "\n")
            self._log.flush()
        except OSError as error:
            # Raised by the next wait: raised here, it would close the connection, for which QEMU is blamed.
            self._log_error = self._log_error or error
        if direction == "in" and "event" in message:
            body: Any = message
            stamp = body["timestamp"]
            seconds = stamp["seconds"] + stamp["microseconds"] / 1e6
            event = Event(str(body["event"]), body.get("data", {}), seconds)
            with self._changed:
                self._events.append(event)
                self._changed.notify_all()
