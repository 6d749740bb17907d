"""Part of the program on_host.py (Python 3.9, standard library): QEMU, its monitor and the sink."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any

CAPABILITY = "background-snapshot"
_CHUNK = 1 << 20
_SLOW_BYTES, _SLOW_SECONDS = 8192, 0.005
_BEGUN = time.monotonic()


class HostFailure(Exception):
    """A failure as a sentence.

    Attributes:
        blames_qemu: whether it is QEMU's fault.
        expired: whether time ran out, which a busy machine can cause as well.
    """

    def __init__(self, sentence: str, blames_qemu: bool = True, expired: bool = False) -> None:
        super().__init__(sentence)
        self.blames_qemu = blames_qemu
        self.expired = expired


class Refused(Exception):
    """QEMU's error message for a command that it refuses."""


def tell(event: str, **facts: Any) -> None:
    """Write one event to standard output."""
    print(json.dumps({"event": event, "seconds": round(time.monotonic() - _BEGUN, 3), **facts}), flush=True)


class Qemu:
    """A QEMU that this program has started, and its monitor."""

    def __init__(self, argv: list[str], environment: dict[str, str], seconds: float) -> None:
        ours, theirs = socket.socketpair()
        self.seconds = seconds
        self.events: list[dict[str, Any]] = []
        self._log = open("qemu.log", "wb")  # noqa: SIM115
        words = [word.replace("@QMP", str(theirs.fileno())) for word in argv]
        try:
            self.process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=subprocess.STDOUT,
                pass_fds=(theirs.fileno(),),
                env={**os.environ, **environment},
            )
        except OSError as error:
            raise HostFailure(
                f"The QEMU '{words[0]}' cannot be started there: {error.strerror}.", False
            ) from error
        theirs.close()
        ours.settimeout(seconds)
        self._file = ours.makefile("rwb")
        self._read()
        self.execute("qmp_capabilities")

    def execute(self, command: str, **arguments: Any) -> Any:
        """Run a QMP command and return its result; keep the events that arrive meanwhile."""
        order = {"execute": command, **({"arguments": arguments} if arguments else {})}
        # A QEMU that has ended gives no answer either, and _read() says how it ended.
        with contextlib.suppress(ConnectionError):
            self._file.write(json.dumps(order).encode() + b"\n")
            self._file.flush()
        while True:
            answer = self._read()
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise Refused(answer["error"]["desc"])

    def log(self) -> list[str]:
        """Return the lines that QEMU has written so far, those of trace points included."""
        with open("qemu.log", errors="replace") as file:
            return file.read().splitlines()

    def trace(self) -> list[str]:
        """Return the lines of QEMU's userfaultfd trace points."""
        return [line for line in self.log() if re.match(r"(\d+@[\d.]+:)?uffd_", line)]

    def capability(self, on: bool) -> None:
        """Switch background snapshots on or off."""
        self.execute("migrate-set-capabilities", capabilities=[{"capability": CAPABILITY, "state": on}])

    def status(self) -> str:
        """Return the guest's run state."""
        return str(self.execute("query-status")["status"])

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until a condition holds."""
        end = time.monotonic() + self.seconds
        while not condition():
            if time.monotonic() > end:
                raise HostFailure(f"{what} did not happen within {self.seconds:.0f} s.", expired=True)
            time.sleep(0.02)

    def end(self) -> int:
        """Have QEMU quit, and return its exit code."""
        try:
            self.execute("quit")
            return self.process.wait(self.seconds)
        finally:
            self.process.kill()

    def _read(self) -> dict[str, Any]:
        while True:
            try:
                line = self._file.readline()
            except ConnectionError:
                # QEMU ended with a command of ours unread.
                line = b""
            except OSError:
                # The time-out has a class of its own before Python 3.10.
                raise HostFailure(
                    f"QEMU does not answer on its monitor within {self.seconds:.0f} s.", expired=True
                ) from None
            if not line:
                code = self.process.wait(10)
                words = (self.log() or ["nothing"])[-1]
                # Linux sends these for limits of the host, which are no fault of QEMU's.
                limits = (-signal.SIGKILL, -signal.SIGXFSZ, -signal.SIGXCPU)
                sentence = f"QEMU ended (exit code {code}); its last words: {words}."
                raise HostFailure(sentence, code not in limits)
            message: dict[str, Any] = json.loads(line)
            if "event" not in message:
                return message
            self.events.append(message)


class Sink:
    """Stores a stream from a socket in a file or on a disk, and counts its bytes.

    A slow sink takes about 1.5 MiB/s until `hurry` is called. It takes small pieces, since a write in the
    guest waits until the sink has taken its page.
    """

    def __init__(self, path: str, slow: bool = False) -> None:
        self.bytes = 0
        self._fast = threading.Event()
        if not slow:
            self._fast.set()
        self.error = ""
        self.address = os.path.abspath(f"sink-{os.getpid()}.socket")
        self._listener = socket.socket(socket.AF_UNIX)
        # A path below our folder may be longer than a socket's address can be.
        self._listener.bind(os.path.relpath(self.address))
        self._listener.listen(1)
        self._thread = threading.Thread(target=self._take, args=(path,), daemon=True)
        self._thread.start()

    @property
    def uri(self) -> str:
        """Return the migration URI for QEMU."""
        return f"unix:{os.path.relpath(self.address)}"

    def hurry(self) -> None:
        """Take the rest of the stream as fast as it comes."""
        self._fast.set()

    def close(self, seconds: float) -> None:
        """Wait until the whole stream is stored."""
        self._thread.join(seconds)
        self._listener.close()
        os.unlink(self.address)
        if self._thread.is_alive():
            raise HostFailure("QEMU calls the save completed and does not close its sink.")
        if self.error:
            raise HostFailure(f"The stream could not be stored: {self.error}.", False)

    def _take(self, path: str) -> None:
        try:
            connection, _ = self._listener.accept()
            with connection, open(path, "r+b" if os.path.exists(path) else "wb", buffering=0) as file:
                buffer = memoryview(bytearray(_CHUNK))
                while True:
                    fast = self._fast.wait(_SLOW_SECONDS) if not self._fast.is_set() else True
                    length = connection.recv_into(buffer, 0 if fast else _SLOW_BYTES)
                    if not length:
                        break
                    position = 0
                    while position < length:
                        position += file.write(buffer[position:length])
                    self.bytes += length
                os.fsync(file.fileno())
        except OSError as error:
            self.error = str(error.strerror)
