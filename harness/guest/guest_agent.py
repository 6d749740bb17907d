"""Talks to the QEMU guest agent of a VM, by libvirt or over its socket, and runs commands by it.

The answers come from a guest that is not ours: each is bounded in size and time, and checked for its form.
Commands and their members are those of QEMU 11.1 qga/qapi-schema.json; all used here are in QEMU 2.5 too.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import select
import shlex
import socket
import subprocess
from pathlib import Path
from typing import Any, Protocol

from harness.attach.virsh import Domain
from harness.codes import Code
from harness.deadline import Deadline
from harness.errors import MachineryMissing, SetupBroken
from harness.guest.shell import CommandResult, GuestShell, GuestUnreachable

CHANNEL_NAME = "org.qemu.guest_agent.0"
"""Name of the virtio-serial port of the agent (QEMU docs/interop/qemu-ga.rst)."""

PING_SECONDS = 10.0
"""The time in which an agent has to answer that it is there."""

# libvirt 11.3 src/qemu/qemu_agent.c takes 10 MiB; no command of ours prints a tenth of this.
_ANSWER_BYTES = 4 << 20
_ANSWER_SECONDS = 30.0
_COMMAND_SECONDS = 30.0
# Linux include/uapi/linux/binfmts.h MAX_ARG_STRLEN: virsh gets a message as one word of 128 KiB at most.
_PIECE_BYTES = 48 << 10
_MOST_INTERVAL = 0.5
# libvirt 9.0 and 11.3 src/qemu/qemu_agent.c, qemuAgentCheckError(): the agent has answered with an error.
_REFUSAL = "unable to execute QEMU agent command"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SENTINEL = b"\xff"


class AgentRefused(SetupBroken):
    """The guest agent answered with an error."""


class Channel(Protocol):
    """A way to a guest agent."""

    def exchange(self, message: str, deadline: Deadline) -> dict[str, Any]:
        """Send a command in JSON and return the answer.

        Raises:
            AgentRefused: libvirt says that the agent answered with an error.
            GuestUnreachable: there was no answer in time.
            SetupBroken: the answer is too large, or no JSON object.
        """


class VirshChannel:
    """The guest agent of a libvirt domain, which holds its socket."""

    def __init__(self, domain: Domain) -> None:
        """Name the domain."""
        self._domain = domain

    def exchange(self, message: str, deadline: Deadline) -> dict[str, Any]:
        """Send a command in JSON and return the answer."""
        seconds = max(1, int(deadline.remaining()))
        command = self._domain.command("qemu-agent-command", "--timeout", str(seconds), self._domain.name)
        try:
            child = subprocess.Popen(
                [*command, message],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**os.environ, "LC_ALL": "C"},
            )
        except OSError as error:
            raise MachineryMissing(f"'{self._domain.virsh}' cannot be run: {error.strerror}.") from error
        assert child.stdout is not None and child.stderr is not None, "they are pipes"
        try:
            # libvirt needs a moment beyond the time-out that it was given.
            output = read_bounded(child.stdout.fileno(), Deadline(seconds + 10.0))
            errors = read_bounded(child.stderr.fileno(), Deadline(10.0))
            code = child.wait(10.0)
        except subprocess.TimeoutExpired as error:
            raise GuestUnreachable("'virsh qemu-agent-command' did not end.") from error
        finally:
            child.kill()
            child.wait()
            child.stdout.close()
            child.stderr.close()
        if code == 0:
            return parse_answer(output)
        words = " ".join(errors.decode(errors="replace").replace("error:", "").split()).rstrip(".")
        if _REFUSAL in words:
            raise AgentRefused(f"The guest agent refuses: {words}.")
        raise GuestUnreachable(f"The guest agent does not answer: {words}.")


class SocketChannel:
    """A guest agent whose chardev is a socket that nobody else has open."""

    def __init__(self, connected: socket.socket) -> None:
        """Use a socket that is connected to QEMU; `close` closes it."""
        self._socket = connected
        self._pending = b""
        self._number = 0
        self._in_step = False

    @classmethod
    def at(cls, path: Path) -> SocketChannel:
        """Connect to the socket of a chardev.

        Raises:
            SetupBroken: it cannot be connected to.
        """
        found = socket.socket(socket.AF_UNIX)
        try:
            found.connect(str(path))
        except OSError as error:
            found.close()
            raise SetupBroken(
                f"The guest agent's socket '{path}' cannot be connected to: {error.strerror or error}. Name "
                f"that of the chardev of QEMU's virtserialport '{CHANNEL_NAME}'."
            ) from error
        return cls(found)

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def exchange(self, message: str, deadline: Deadline) -> dict[str, Any]:
        """Send a command in JSON and return the answer."""
        if not self._in_step:
            self._get_in_step(deadline)
        self._in_step = False
        self._send(message.encode() + b"\n", deadline)
        answer = parse_answer(self._line(deadline))
        self._in_step = True
        return answer

    def _get_in_step(self, deadline: Deadline) -> None:
        """Have the agent drop what it has read, and drop what it has still to say to others.

        The byte 0xFF ends any half of a command, and stands before the answer (qemu-ga.rst, "guest-sync").
        """
        self._number = int.from_bytes(os.urandom(4), "big")
        self._pending = b""
        wanted = {"execute": "guest-sync-delimited", "arguments": {"id": self._number}}
        self._send(_SENTINEL + json.dumps(wanted).encode() + b"\n", deadline)
        while True:
            line = self._line(deadline).rpartition(_SENTINEL)[2]
            try:
                answer = json.loads(line)
            except ValueError:
                continue
            if isinstance(answer, dict) and answer.get("return") == self._number:
                return

    def _send(self, data: bytes, deadline: Deadline) -> None:
        self._socket.settimeout(max(0.1, deadline.remaining()))
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise GuestUnreachable(f"The guest agent takes no command: {error}.") from error

    def _line(self, deadline: Deadline) -> bytes:
        while b"\n" not in self._pending:
            self._pending += _piece(self._socket.fileno(), deadline)
            if len(self._pending) > _ANSWER_BYTES:
                raise _too_large()
        line, _, self._pending = self._pending.partition(b"\n")
        return line


class GuestAgent:
    """The QEMU guest agent of one guest."""

    def __init__(self, channel: Channel) -> None:
        """Use a way to it."""
        self._channel = channel

    def ask(self, command: str, deadline: Deadline | None = None, **arguments: Any) -> Any:
        """Run a command and return its result.

        Args:
            command: its name.
            deadline: for the answer, 30 s by default.
            arguments: with `_` in place of `-` in their names.

        Raises:
            AgentRefused: the agent answers with an error.
            GuestUnreachable: it does not answer in time.
            SetupBroken: its answer is none.
        """
        given = {name.replace("_", "-"): value for name, value in arguments.items()}
        message = json.dumps({"execute": command, **({"arguments": given} if given else {})})
        answer = self._channel.exchange(message, deadline or Deadline(_ANSWER_SECONDS))
        if "error" in answer:
            error = answer["error"]
            words = str(error.get("desc", "")) if isinstance(error, dict) else ""
            raise AgentRefused(f"The guest agent refuses '{command}': {words.rstrip('.')}.")
        return answer.get("return")

    def answers(self, seconds: float = PING_SECONDS) -> bool:
        """Return whether it answers."""
        try:
            self.ask("guest-ping", Deadline(seconds))
        except (GuestUnreachable, SetupBroken):
            return False
        return True

    def put_file(self, path: str, content: bytes) -> None:
        """Write a file in the guest; raises the errors of `ask`."""
        handle = self._number(self.ask("guest-file-open", path=path, mode="w"), "guest-file-open")
        try:
            for start in range(0, len(content), _PIECE_BYTES):
                piece = content[start : start + _PIECE_BYTES]
                done = self.ask("guest-file-write", handle=handle, buf_b64=base64.b64encode(piece).decode())
                if not isinstance(done, dict) or done.get("count") != len(piece):
                    raise SetupBroken(f"The guest agent did not write all of '{path}'; is its disk full?")
        finally:
            self.ask("guest-file-close", handle=handle)

    def execute(self, words: list[str], deadline: Deadline, stdin: bytes = b"") -> CommandResult:
        """Run a program in the guest and return its exit code and output; raises the errors of `ask`."""
        given: dict[str, Any] = {"path": words[0], "arg": words[1:], "capture_output": True}
        if stdin:
            given["input_data"] = base64.b64encode(stdin).decode()
        started = self.ask("guest-exec", None, **given)
        pid = self._number(started.get("pid") if isinstance(started, dict) else None, "guest-exec")
        interval = 0.02
        while True:
            status = self.ask("guest-exec-status", pid=pid)
            if not isinstance(status, dict):
                raise SetupBroken("The guest agent answered 'guest-exec-status' with something else.")
            if status.get("exited"):
                return _result(status)
            if deadline.expired:
                raise GuestUnreachable(
                    f"The guest did not finish '{shlex.join(words)[:200]}' in time.",
                    code=Code.GUEST_COMMAND_UNFINISHED,
                )
            deadline.nap(interval)
            interval = min(_MOST_INTERVAL, interval * 2)

    @staticmethod
    def _number(value: Any, command: str) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise SetupBroken(f"The guest agent answered '{command}' with something that is no number.")
        return value


class GuestAgentShell(GuestShell):
    """A shell in a guest whose commands the QEMU guest agent runs, as the user that it runs as."""

    def __init__(self, agent: GuestAgent) -> None:
        """Use a guest agent."""
        self.agent = agent

    def run(self, command: str, deadline: Deadline | None = None, stdin: bytes = b"") -> CommandResult:
        """Run a shell command in the guest; raises the errors of `GuestAgent.ask`."""
        deadline = deadline or Deadline(_COMMAND_SECONDS)
        script = f"PATH=$PATH:{_PATH}; export PATH; {command}"
        if len(stdin) <= _PIECE_BYTES:
            return self.agent.execute(["/bin/sh", "-c", script], deadline, stdin)
        file = self.check("mktemp").strip()
        self.agent.put_file(file, stdin)
        name = shlex.quote(file)
        return self.agent.execute(["/bin/sh", "-c", f"exec < {name} && rm -f {name}; {script}"], deadline)


def read_bounded(descriptor: int, deadline: Deadline) -> bytes:
    """Return what a descriptor gives up to its end.

    Raises:
        GuestUnreachable: it has no end in time.
        SetupBroken: there is more than an answer may have.
    """
    found = b""
    while True:
        if not select.select([descriptor], [], [], max(0.0, deadline.remaining()))[0]:
            raise GuestUnreachable("The guest agent did not answer in time.")
        piece = os.read(descriptor, 1 << 16)
        if not piece:
            return found
        found += piece
        if len(found) > _ANSWER_BYTES:
            raise _too_large()


def parse_answer(text: bytes) -> dict[str, Any]:
    """Return the object that an answer is; raises SetupBroken if it is none."""
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise SetupBroken("The guest agent answered with something that is no JSON object.")
    return answer


def _piece(descriptor: int, deadline: Deadline) -> bytes:
    if not select.select([descriptor], [], [], max(0.0, deadline.remaining()))[0]:
        raise GuestUnreachable("The guest agent did not answer in time.")
    try:
        found = os.read(descriptor, 1 << 16)
    except OSError as error:
        raise GuestUnreachable(f"The guest agent's socket failed: {error.strerror}.") from error
    if not found:
        raise GuestUnreachable("QEMU has closed the guest agent's socket.")
    return found


def _too_large() -> SetupBroken:
    return SetupBroken(f"The guest agent answered with more than {_ANSWER_BYTES >> 20} MiB.")


def _result(status: dict[str, Any]) -> CommandResult:
    """Return the result of a program that has ended; one that a signal has ended as shells say it."""
    signal, code = status.get("signal"), status.get("exitcode", 0)
    if isinstance(signal, int):
        code = 128 + signal
    if not isinstance(code, int):
        raise SetupBroken("The guest agent gave an exit code that is no number.")
    return CommandResult(code, _text(status.get("out-data", "")), _text(status.get("err-data", "")))


def _text(data: Any) -> str:
    try:
        return base64.b64decode(data, validate=True).decode(errors="replace")
    except (binascii.Error, TypeError, ValueError) as error:
        raise SetupBroken("The guest agent gave output that is no base64.") from error
