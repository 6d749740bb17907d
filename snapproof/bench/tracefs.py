"""Makes and removes an instance of tracefs: part of the page fault watcher (Python 3.9, standard library).

Other users of tracing are not disturbed. A second process, which ignores signals, removes the instance and
its probes when the first one ends, however it ends. If both were killed, the next run removes them.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import time

from snapproof.bench.page_fault_lines import ENTER, LEAVE

TRACED = "handle_userfault"
POLL_SECONDS = 0.02
_PREFIX = "snapproof-"
_TRACEFS = ("/sys/kernel/tracing", "/sys/kernel/debug/tracing")
_BUFFER_KIB = 4 << 10
# Threads that can be in the function at once: each takes one record of the return probe.
_RETURN_RECORDS = 256
_GONE_TRIES = 100
# Linux include/uapi/linux/sched.h and mount.h.
_CLONE_NEWNS, _MS_REC, _MS_PRIVATE = 0x00020000, 0x4000, 1 << 18


class Unavailable(Exception):
    """This host cannot be traced; the text is a sentence that says why."""


def write(path: str, text: str, append: bool = False) -> None:
    """Write to a file of tracefs. Some of these take one word at a time."""
    descriptor = os.open(path, os.O_WRONLY | (os.O_APPEND if append else os.O_TRUNC))
    rest = text.encode()
    try:
        while rest:
            taken = os.write(descriptor, rest)
            if not taken:
                raise OSError(errno.EIO, "nothing was taken", path)
            rest = rest[taken:]
    finally:
        os.close(descriptor)


def try_write(path: str, text: str, append: bool = False) -> bool:
    """Write to a file of tracefs and return whether that worked."""
    try:
        write(path, text, append)
    except OSError:
        return False
    return True


def find_tracefs() -> str:
    """Return the folder of tracefs. Where it is not mounted, mount it in a mount namespace of our own.

    Raises:
        Unavailable: this process is not root, or the kernel has no tracefs.
    """
    if os.geteuid():
        raise Unavailable("Only root may trace the kernel.")
    for folder in _TRACEFS:
        if os.path.exists(f"{folder}/instances"):
            return folder
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) or libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None):
        raise Unavailable(f"tracefs cannot be mounted: {os.strerror(ctypes.get_errno())}.")
    if libc.mount(b"tracefs", _TRACEFS[0].encode(), b"tracefs", 0, None):
        why = os.strerror(ctypes.get_errno())
        raise Unavailable(f"tracefs cannot be mounted, the kernel may lack CONFIG_TRACING: {why}.")
    return _TRACEFS[0]


class Tracer:
    """A tracing instance that records the faults of one process."""

    def __init__(self, base: str) -> None:
        self.base = base
        self.instance = f"{base}/instances/{_PREFIX}{os.getpid()}"
        self.group = f"{_PREFIX}{os.getpid()}".replace("-", "_")

    def start(self, pid: int) -> None:
        """Start tracing the process and the threads that it will start.

        Raises:
            Unavailable: this kernel has no kprobes, or none for this function.
        """
        probes = f"{self.base}/kprobe_events"
        if not os.path.exists(probes):
            raise Unavailable("This kernel has no kprobes (CONFIG_KPROBES, CONFIG_KPROBE_EVENTS).")
        os.mkdir(self.instance)
        try_write(f"{self.instance}/buffer_size_kb", str(_BUFFER_KIB))
        try_write(f"{self.instance}/trace_clock", "mono")
        try:
            write(probes, f"p:{self.group}/{ENTER} {TRACED}\n", append=True)
            write(probes, f"r{_RETURN_RECORDS}:{self.group}/{LEAVE} {TRACED}\n", append=True)
        except OSError as error:
            raise Unavailable(f"This kernel has no kprobe for {TRACED}(): {error.strerror}.") from error
        write(f"{self.instance}/set_event_pid", " ".join(os.listdir(f"/proc/{pid}/task")))
        try_write(f"{self.instance}/options/event-fork", "1")
        write(f"{self.instance}/events/{self.group}/enable", "1")

    def misses(self) -> int:
        """Return how many returns were missed because all records of the return probe were in use."""
        try:
            with open(f"{self.base}/kprobe_profile") as file:
                rows = [line.split() for line in file]
        except OSError:
            return 0
        mine = [row for row in rows if len(row) == 3 and row[0] == LEAVE]
        return sum(int(row[2]) for row in mine if row[2].isdigit())


def remove(base: str, name: str) -> bool:
    """Remove an instance and its probes, and return whether it is gone."""
    instance, group = f"{base}/instances/{name}", name.replace("-", "_")
    for _ in range(_GONE_TRIES):
        for file in (f"events/{group}/enable", "tracing_on"):
            try_write(f"{instance}/{file}", "0")
        try:
            if os.path.exists(instance):
                os.rmdir(instance)
            with open(f"{base}/kprobe_events") as file_:
                mine = [line.split()[0].partition(":")[2] for line in file_ if f":{group}/" in line]
            for probe in mine:
                write(f"{base}/kprobe_events", f"-:{probe}\n", append=True)
        except FileNotFoundError:
            # A kernel without kprobes.
            pass
        except OSError:
            # Another process still has one of its files open.
            time.sleep(POLL_SECONDS)
            continue
        return not os.path.exists(instance)
    return False


def sweep(base: str) -> None:
    """Remove the instances of earlier runs whose processes are gone."""
    for name in os.listdir(f"{base}/instances"):
        number = name[len(_PREFIX) :]
        if name.startswith(_PREFIX) and number.isdigit() and not os.path.exists(f"/proc/{number}"):
            remove(base, name)


def guard(base: str) -> tuple[int, int]:
    """Start the process that removes our instance once this process has ended.

    Returns:
        Its id, and the descriptor that it waits for: closing it tells the process to remove the instance.
    """
    name, (reader, writer) = f"{_PREFIX}{os.getpid()}", os.pipe()
    child = os.fork()
    if child:
        os.close(reader)
        return child, writer
    code = 1
    try:
        os.close(writer)
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        os.read(reader, 1)
        code = 0 if remove(base, name) else 1
    finally:
        os._exit(code)
