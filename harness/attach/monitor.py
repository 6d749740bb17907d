"""Speaks QMP to a running QEMU for the guard: whole JSON messages in, whole JSON messages out.

Nothing here imports more than the standard library, so that the guard starts soon and stays small.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import struct
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

Message = dict[str, Any]

_PIECE = 1 << 16
_MOST_DESCRIPTORS = 16
# Linux include/linux/socket.h: struct ucred, three 32-bit numbers.
_UCRED = struct.Struct("3i")
_PATH_BYTES = 107


class MonitorUnusable(Exception):
    """The monitor cannot be used; the text is one full sentence for the user."""


class MessageSplitter:
    """Splits a stream of bytes into JSON messages, whether or not there is one a line."""

    def __init__(self) -> None:
        self._text = ""
        self._decoder = json.JSONDecoder()

    def feed(self, data: bytes) -> list[Message]:
        """Take bytes and return the messages that are complete by now."""
        # QMP is ASCII: QEMU escapes everything else.
        self._text += data.decode("utf-8", errors="replace")
        found = []
        while text := self._text.lstrip():
            try:
                message, end = self._decoder.raw_decode(text)
            except ValueError:
                break
            found.append(message)
            self._text = text[end:]
        return found


class Monitor(Protocol):
    """A way to a QEMU's monitor.

    Attributes:
        greeting: what QEMU says first.
        pid: process id of QEMU, 0 where it cannot be known.
    """

    greeting: Message
    pid: int

    def fileno(self) -> int:
        """Return the descriptor that is readable when `receive` has something."""

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Send a command, with copies of descriptors."""

    def receive(self) -> list[Message]:
        """Return the messages that have arrived; raises EOFError if the monitor is gone."""

    def close(self) -> None:
        """Close the connection."""


class SocketMonitor:
    """The QMP socket of a QEMU."""

    def __init__(self, path: Path, seconds: float) -> None:
        """Connect and negotiate.

        Raises:
            MonitorUnusable: the socket is none, is not ours to use, or does not greet in time.
        """
        self._socket = _connected(path)
        self._messages = MessageSplitter()
        self._early: list[Message] = []
        try:
            self.pid = _peer(self._socket)
            self.greeting = self._greeted(path, time.monotonic() + seconds)
        except BaseException:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._socket.fileno()

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Send a command, with copies of descriptors."""
        text = (json.dumps(message) + "\n").encode()
        if descriptors:
            sent = socket.send_fds(self._socket, [text], list(descriptors))
            text = text[sent:]
        self._socket.sendall(text)

    def receive(self) -> list[Message]:
        """Return the messages that have arrived; raises EOFError if QEMU has closed the connection."""
        early, self._early = self._early, []
        if early:
            return early
        try:
            data = self._socket.recv(_PIECE)
        except OSError as error:
            raise EOFError from error
        if not data:
            raise EOFError
        return self._messages.feed(data)

    def close(self) -> None:
        """Close the connection."""
        with contextlib.suppress(OSError):
            self._socket.close()

    def _greeted(self, path: Path, end: float) -> Message:
        """Return QEMU's greeting once it takes commands; keep events that come in between."""
        greeting = self._awaited("QMP", path, end)
        self.send({"execute": "qmp_capabilities"})
        self._awaited("return", path, end)
        return greeting

    def _awaited(self, key: str, path: Path, end: float) -> Message:
        while (left := end - time.monotonic()) > 0:
            if not select.select([self._socket], [], [], left)[0]:
                break
            try:
                data = self._socket.recv(_PIECE)
            except OSError:
                data = b""
            if not data:
                raise MonitorUnusable(
                    f"The program behind '{path}' closed the connection before it greeted over QMP; is "
                    "this the socket of '-qmp', and does QEMU still run?"
                )
            found: Message | None = None
            for message in self._messages.feed(data):
                if found is None and key in message:
                    found = message
                elif "event" in message:
                    self._early.append(message)
                else:
                    raise MonitorUnusable(f"The program behind '{path}' does not speak QMP.")
            if found is not None:
                return found
        raise MonitorUnusable(
            f"QEMU did not greet over '{path}' in time: another client, such as libvirt, holds this monitor, "
            "or QEMU hangs, or the socket is no QMP monitor. End that client, or start QEMU "
            "with a second '-qmp unix:PATH,server=on,wait=off'."
        )


def receive_commands(client: socket.socket, messages: MessageSplitter) -> tuple[list[Message], list[int]]:
    """Return the commands and descriptors that our own process has sent; raises EOFError if it is gone."""
    try:
        data, descriptors, _flags, _address = socket.recv_fds(client, _PIECE, _MOST_DESCRIPTORS)
    except OSError as error:
        raise EOFError from error
    if not data and not descriptors:
        raise EOFError
    return messages.feed(data), list(descriptors)


def close_all(descriptors: Sequence[int]) -> None:
    """Close descriptors, of which some may be closed already."""
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)


def _connected(path: Path) -> socket.socket:
    if path.exists() and not path.is_socket():
        raise MonitorUnusable(
            f"'{path}' is no socket; name the one of QEMU's '-qmp unix:PATH,server=on,wait=off'."
        )
    found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    folder = -1
    try:
        name = str(path)
        if len(os.fsencode(name)) > _PATH_BYTES:
            # A longer name does not fit into struct sockaddr_un.
            folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
            name = f"/proc/self/fd/{folder}/{path.name}"
        found.connect(name)
    except OSError as error:
        found.close()
        raise MonitorUnusable(
            f"'{path}' cannot be connected to: {error.strerror or error}. Name the socket of QEMU's '-qmp "
            "unix:PATH,server=on,wait=off', as a user who may write to it."
        ) from error
    finally:
        if folder >= 0:
            os.close(folder)
    return found


def _peer(connected: socket.socket) -> int:
    """Return the process that listens at the other end (socket(7), SO_PEERCRED), 0 if hidden from us."""
    pid, _uid, _gid = _UCRED.unpack(connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return int(pid)
