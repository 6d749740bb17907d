"""Start a program on a host and connect to its input and outputs: as a local child, or over SSH."""

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
    """A running program: its standard input, its two outputs, and its end."""

    def write(self, data: bytes) -> None:
        """Write to its standard input; raise OSError if it has ended."""

    def read_output(self) -> bytes:
        """Wait for standard output and return a piece of it; empty at its end."""

    def read_errors(self) -> bytes:
        """Wait for standard error and return a piece of it; empty at its end."""

    def wait(self, seconds: float) -> int | None:
        """Wait for its end and return its exit code, None if it still runs after `seconds`."""

    def close_input(self) -> None:
        """Close its standard input, as the end of a connection does."""

    def close(self) -> None:
        """Close its input and outputs, without waiting for its end."""


class Link(Protocol):
    """A connection to a host, over which programs are started."""

    def start(self, argv: list[str]) -> Stream:
        """Start a program on the host.

        Raises:
            SetupBroken: it cannot be started, or the connection is lost.
        """

    def dial(self, port: int) -> socket.socket | paramiko.Channel:
        """Connect to a TCP port of the host's own loopback address.

        Raises:
            OSError: nothing listens there, or the connection is lost.
        """

    def alive(self) -> bool:
        """Return whether the connection is up."""

    def close(self) -> None:
        """Close the connection; a second call does nothing."""


class LocalLink:
    """The link to this machine: programs are child processes."""

    def start(self, argv: list[str]) -> Stream:
        """Start a child process."""
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
        """Connect to a TCP port of this machine's loopback address."""
        return socket.create_connection(("127.0.0.1", port), timeout=_CHANNEL_SECONDS)

    def alive(self) -> bool:
        """Return True: this machine is always reachable."""
        return True

    def close(self) -> None:
        """Do nothing: there is no connection."""


class SshLink:
    """The link over an SSH connection: each program has a channel of its own."""

    def __init__(self, transport: paramiko.Transport) -> None:
        self._transport = transport

    def start(self, argv: list[str]) -> Stream:
        """Start a program in a new channel."""
        try:
            channel = self._transport.open_session(timeout=_CHANNEL_SECONDS)
            channel.exec_command(shlex.join(argv))
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise SetupBroken(
                f"'{argv[0]}' cannot be started over the SSH connection, which may be lost: {error}."
            ) from error
        return _SshStream(channel)

    def dial(self, port: int) -> paramiko.Channel:
        """Connect to a port through the SSH connection (direct-tcpip, RFC 4254 section 7.2)."""
        try:
            return self._transport.open_channel(
                "direct-tcpip", ("127.0.0.1", port), ("127.0.0.1", 0), timeout=_CHANNEL_SECONDS
            )
        except (EOFError, paramiko.SSHException) as error:
            raise ConnectionRefusedError(f"port {port}: {error}") from error

    def alive(self) -> bool:
        """Return whether the SSH connection is up."""
        return self._transport.is_active()

    def close(self) -> None:
        """Close the SSH connection."""
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

    def close_input(self) -> None:
        assert self._process.stdin
        try:
            self._process.stdin.close()
        except OSError:
            # The program has ended, so its input is closed.
            return

    def close(self) -> None:
        self.close_input()
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

    def close_input(self) -> None:
        try:
            self._channel.shutdown_write()
        except (OSError, EOFError):
            # The connection is lost, so the program's input is closed.
            return

    def close(self) -> None:
        self._channel.close()


def source_of(module_file: str) -> str:
    """Return the source text of a module, to send it to a host."""
    return Path(module_file).read_text(encoding="utf-8")


_PROGRAM = """\
import sys, types
for name, text in {parts!r}.items():
    part = sys.modules[name] = types.ModuleType(name)
    exec(compile(text, name, "exec"), part.__dict__)
exec(compile({main!r}, {name!r}, "exec"))
"""


def script_of(main: ModuleType, *parts: ModuleType) -> str:
    """Combine modules of ours into one program for ``python -c`` on a host that has none of them.

    Args:
        main: the module to run as `__main__`.
        parts: the modules that it imports. A part may import the parts after it.
    """
    sources = {part.__name__: source_of(str(part.__file__)) for part in reversed(parts)}
    return _PROGRAM.format(parts=sources, main=source_of(str(main.__file__)), name=main.__name__)
