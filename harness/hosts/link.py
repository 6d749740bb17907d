"""How programs are started on a host and bytes get there: as a child of ours, or over an SSH connection."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Protocol

import paramiko

from harness.errors import SetupBroken

_CHUNK = 1 << 16
_CHANNEL_SECONDS = 20.0


class Stream(Protocol):
    """A program that was started: its input, its two outputs, its end."""

    def write(self, data: bytes) -> None:
        """Send to its standard input; OSError once it is gone."""

    def read_output(self) -> bytes:
        """Wait for more of its standard output; empty at the end."""

    def read_errors(self) -> bytes:
        """Wait for more of its standard error; empty at the end."""

    def wait(self, seconds: float) -> int | None:
        """Its exit code, None while it runs."""

    def cut(self) -> None:
        """End its standard input, as the end of a connection does."""

    def close(self) -> None:
        """Give it up."""


class Link(Protocol):
    """A way to a host."""

    def start(self, argv: list[str]) -> Stream:
        """Start a program there.

        Raises:
            SetupBroken: the way is gone.
        """

    def dial(self, port: int) -> socket.socket | paramiko.Channel:
        """Connect to a TCP port of the host's own loopback address.

        Raises:
            OSError: nothing listens there, or the way is gone.
        """

    def alive(self) -> bool:
        """Whether the way is still there."""

    def close(self) -> None:
        """Give the way up; safe to call twice."""


class LocalLink:
    """To this machine."""

    def start(self, argv: list[str]) -> Stream:
        """Start a child of ours."""
        try:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise SetupBroken(f"Could not start '{argv[0]}': {error.strerror}.") from error
        return _LocalStream(process)

    def dial(self, port: int) -> socket.socket:
        """Connect to a port of this machine."""
        return socket.create_connection(("127.0.0.1", port), timeout=_CHANNEL_SECONDS)

    def alive(self) -> bool:
        """This machine is always there."""
        return True

    def close(self) -> None:
        """Nothing to give up."""


class SshLink:
    """Over an SSH connection that has been made."""

    def __init__(self, transport: paramiko.Transport) -> None:
        self._transport = transport

    def start(self, argv: list[str]) -> Stream:
        """Start a program in a channel of its own."""
        try:
            channel = self._transport.open_session(timeout=_CHANNEL_SECONDS)
            channel.exec_command(shlex.join(argv))
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise SetupBroken(f"The SSH connection does not start programs any more: {error}.") from error
        return _SshStream(channel)

    def dial(self, port: int) -> paramiko.Channel:
        """Connect through the SSH connection (RFC 4254 section 7.2, direct-tcpip)."""
        try:
            return self._transport.open_channel(
                "direct-tcpip", ("127.0.0.1", port), ("127.0.0.1", 0), timeout=_CHANNEL_SECONDS
            )
        except (EOFError, paramiko.SSHException) as error:
            raise ConnectionRefusedError(f"port {port}: {error}") from error

    def alive(self) -> bool:
        """Whether the connection stands."""
        return self._transport.is_active()

    def close(self) -> None:
        """End the connection."""
        self._transport.close()


class _LocalStream:
    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def write(self, data: bytes) -> None:
        assert self._process.stdin
        self._process.stdin.write(data)
        self._process.stdin.flush()

    def read_output(self) -> bytes:
        assert self._process.stdout
        return os.read(self._process.stdout.fileno(), _CHUNK)

    def read_errors(self) -> bytes:
        assert self._process.stderr
        return os.read(self._process.stderr.fileno(), _CHUNK)

    def wait(self, seconds: float) -> int | None:
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def cut(self) -> None:
        assert self._process.stdin
        try:
            self._process.stdin.close()
        except OSError:
            # It has ended, and so has its input.
            return

    def close(self) -> None:
        self.cut()
        for stream in (self._process.stdout, self._process.stderr):
            if stream:
                stream.close()


class _SshStream:
    def __init__(self, channel: paramiko.Channel) -> None:
        self._channel = channel

    def write(self, data: bytes) -> None:
        self._channel.sendall(data)

    def read_output(self) -> bytes:
        return self._channel.recv(_CHUNK)

    def read_errors(self) -> bytes:
        return self._channel.recv_stderr(_CHUNK)

    def wait(self, seconds: float) -> int | None:
        if not self._channel.status_event.wait(seconds):
            return None
        return self._channel.recv_exit_status()

    def cut(self) -> None:
        try:
            self._channel.shutdown_write()
        except (OSError, EOFError):
            # The connection has ended, and so has the program's input.
            return

    def close(self) -> None:
        self._channel.close()


def source_of(module_file: str) -> str:
    """The source text of one of our modules, to be sent to a host."""
    return Path(module_file).read_text(encoding="utf-8")


_PROGRAM = """\
import sys, types
for name, text in {parts!r}.items():
    part = sys.modules[name] = types.ModuleType(name)
    exec(compile(text, name, "exec"), part.__dict__)
exec(compile({main!r}, {name!r}, "exec"))
"""


def script_of(main: ModuleType, *parts: ModuleType) -> str:
    """Modules of ours as one text for ``python -c``, for hosts that have none of them.

    Args:
        main: what is run, as `__main__`.
        parts: what it imports, and each what those behind it import.
    """
    sources = {part.__name__: source_of(str(part.__file__)) for part in reversed(parts)}
    return _PROGRAM.format(parts=sources, main=source_of(str(main.__file__)), name=main.__name__)
