"""Standard streams of the command: safe for a terminal, and usable with closed or full descriptors."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any, TextIO, cast

from harness.status import EXIT_ERROR

_CLEAR_LINE = "\r\033[K"


def shown(text: object) -> str:
    """Return a foreign text, such as a file's name, for a line: all that is not printable is escaped."""
    return "".join(letter if letter.isprintable() else _escape(letter) for letter in str(text))


def _escape(letter: str) -> str:
    return letter.encode("unicode_escape", "surrogatepass").decode()


class _SafeStream:
    """A text stream that escapes control characters, so that no foreign text can steer a terminal."""

    def __init__(self, stream: TextIO, *, loses: bool) -> None:
        """Write to `stream`; if it `loses`, what cannot be written is dropped."""
        self._stream = stream
        self._loses = loses
        self.failed = False
        self.verbatim = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write the text; only our own progress line may clear a line of a terminal."""
        head = _CLEAR_LINE if text.startswith(_CLEAR_LINE) and self._stream.isatty() else ""
        safe = text[len(head) :] if self.verbatim else _without_controls(text[len(head) :])
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        self._tried(
            lambda: self._stream.write(head + safe.encode(encoding, "backslashreplace").decode(encoding))
        )
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        """Write the lines."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Hand on what is buffered."""
        self._tried(self._stream.flush)

    def _tried(self, action: Any) -> None:
        try:
            action()
        except OSError:
            self.failed = True
            _abandon(self._stream)
            if not self._loses:
                raise


def _without_controls(text: str) -> str:
    return "".join(letter if letter.isprintable() or letter in "\n\t" else _escape(letter) for letter in text)


@contextmanager
def verbatim_output() -> Iterator[None]:
    """Let a block print to a file or pipe what a program reads, such as a report; a terminal stays safe."""
    out: Any = sys.stdout
    if not isinstance(out, _SafeStream) or out.isatty():
        yield
        return
    out.verbatim = True
    try:
        yield
    finally:
        out.verbatim = False


@contextmanager
def standard_streams() -> Iterator[None]:
    """Let a block print safely, and end with EXIT_ERROR where a text for standard output cannot be written.

    What cannot be written to standard error is lost, and changes no exit code.
    """
    _open_closed_ones()
    out, err = _SafeStream(sys.stdout, loses=False), _SafeStream(sys.stderr, loses=True)
    with redirect_stdout(cast(TextIO, out)), redirect_stderr(cast(TextIO, err)):
        try:
            yield
        except SystemExit as ended:
            # argparse has printed --help, and ignores a full disk; or it has explained a mistake.
            with suppress(OSError):
                out.flush()
            if out.failed:
                raise SystemExit(ended.code or EXIT_ERROR) from None
            raise
        finally:
            err.flush()


def _open_closed_ones() -> None:
    """Give closed descriptors 0 to 2 to /dev/null, lest a file that is opened next is printed into.

    Standard output is opened for reading: what is printed cannot be written, and that is no success.
    """
    for number, mode in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, mode)
    # The interpreter has none for a descriptor that was closed.
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)


def _abandon(stream: TextIO) -> None:
    """Let nothing that is still buffered fail again at the end of the interpreter, with a code of its own."""
    try:
        number = stream.fileno()
    except (OSError, ValueError):
        return
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, number)
    os.close(null)
