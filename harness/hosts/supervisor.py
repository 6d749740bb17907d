"""Supervisor on a host: runs a command, and kills it and all its descendants when the connection ends.

Its source text is sent over the connection, so nothing is installed on the host; it needs Python 3.9 and the
standard library. Its standard input has one line of JSON, the order, and then frames: four bytes of length,
big-endian, and that much data for the command's standard input. A frame of length 0 ends the command's input.
The end of the supervisor's own standard input is the end of the connection.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from typing import IO, Any

# linux/prctl.h
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_LIBC = ctypes.CDLL(None, use_errno=True)
_END_SECONDS = 20.0
_SLICE = 1 << 16
_LOCK = ".lock"
BROKEN = 97
"""Exit code of a supervisor that failed, or could not end all processes; no command of ours uses it."""


def main() -> int:
    """Read the order, then keep a folder or run a command in one.

    Returns:
        The command's exit code (128 + signal), 0 for a folder that is gone again with all commands in it, or
        BROKEN.
    """
    order = json.loads(sys.stdin.buffer.readline())
    # Orphaned descendants of the command become our children, even if they have left its session.
    _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    return _keep_folder(order["prefix"]) if "prefix" in order else _run_command(order)


def _keep_folder(prefix: str) -> int:
    """Create a private folder, print its path as JSON, and remove it when the connection ends."""
    # Not needed by each command, and slow to import in an emulated host.
    import shutil
    import tempfile

    folder = tempfile.mkdtemp(prefix=prefix)
    with open(os.path.join(folder, _LOCK), "w") as lock:
        sys.stdout.write(json.dumps({"folder": folder}) + "\n")
        sys.stdout.flush()
        while sys.stdin.buffer.read(_SLICE):
            pass
        # The supervisor of each command holds the lock until all processes of the command have ended.
        end = time.monotonic() + _END_SECONDS
        ended = _locked(lock, fcntl.LOCK_EX)
        while not ended and time.monotonic() < end:
            time.sleep(0.02)
            ended = _locked(lock, fcntl.LOCK_EX)
        shutil.rmtree(folder, ignore_errors=True)
    return 0 if ended and not os.path.exists(folder) else BROKEN


def _run_command(order: dict[str, Any]) -> int:
    with open(os.path.join(order["folder"], _LOCK)) as lock:
        if not _locked(lock, fcntl.LOCK_SH):
            return BROKEN
        try:
            code = _start_and_wait(order)
        finally:
            left = _end_descendants()
        if left:
            sys.stderr.write(f"Processes {left} could not be ended.\n")
            return BROKEN
        return code


def _locked(lock: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _start_and_wait(order: dict[str, Any]) -> int:
    parent = os.getpid()

    def die_with_parent() -> None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)
        for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)

    try:
        child = subprocess.Popen(
            order["argv"],
            stdin=subprocess.PIPE,
            cwd=order["folder"],
            env={**os.environ, **order["environment"]},
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
    except OSError as error:
        sys.stderr.write(f"{order['argv'][0]}: {error.strerror}\n")
        return 127
    connected, ended = os.pipe()
    threading.Thread(target=_feed, args=(child.stdin, ended), daemon=True).start()
    end = time.monotonic() + order["seconds"]
    while child.poll() is None and time.monotonic() < end:
        # The feeder closes its end of the pipe when the connection ends.
        if select.select([connected], [], [], 0.05)[0]:
            break
    code = child.poll()
    if code is None:
        return BROKEN
    return code if code >= 0 else 128 - code


def _feed(sink: IO[bytes], ended: int) -> None:
    """Pass the frames to the command's standard input, and close `ended` when the connection ends."""
    source = sys.stdin.buffer
    with contextlib.suppress(OSError, ValueError):
        while True:
            head = source.read(4)
            if len(head) < 4:
                break
            (length,) = struct.unpack(">I", head)
            if not length:
                sink.close()
                continue
            data = source.read(length)
            # A command that has closed its input ignores the rest.
            with contextlib.suppress(OSError, ValueError):
                sink.write(data)
                sink.flush()
    os.close(ended)


def _end_descendants() -> list[int]:
    """Kill all remaining descendants and wait for their end; return the ids of those that do not end."""
    end = time.monotonic() + _END_SECONDS
    while True:
        left = _children()
        for child in left:
            with contextlib.suppress(OSError):
                os.kill(child, signal.SIGKILL)
        if not _reap():
            return []
        if time.monotonic() > end:
            return left
        time.sleep(0.01)


def _reap() -> bool:
    """Collect the children that have ended; return whether any child is left.

    The kernel's answer is exact. The list from /proc is not: it misses a process whose parent ends between
    the reads of the two, which then becomes our child. A subreaper without children has no descendants.
    """
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def _children() -> list[int]:
    """Return the ids of our live children, including orphaned descendants."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid() and fields[0] not in "ZX":
            found.append(int(name))
    return found


def _guarded_main() -> int:
    try:
        return main()
    except BaseException:
        import traceback

        traceback.print_exc()
        return BROKEN


if __name__ == "__main__":
    _code = _guarded_main()
    sys.stderr.flush()
    # The feeder may hold the lock of standard input, for which a normal exit of the interpreter would wait.
    os._exit(_code)
