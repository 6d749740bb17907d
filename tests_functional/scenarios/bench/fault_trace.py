"""Runs on a host as root (Python 3.9, standard library): times userfaultfd faults of one process by tracefs.

Standard input holds the order, one JSON object:

    pid      process to watch, 0 for the first one that has `marker` among its arguments
    marker   an argument by which the process is known
    seconds  watch for so long at most; waiting for the process counts too

Each line of standard output is a JSON object with "event": "unavailable" with the reason, or "attached" and
then "done". It ends when the process does, after `seconds`, or at SIGTERM.

A fault is timed by a kprobe at the entry into the kernel's handle_userfault() (Linux fs/userfaultfd.c) and
one at its return.

All of it is done in a tracing instance of our own, so that other users of tracing are not disturbed. A second
process, which nothing but its end can stop, removes instance and probes when this one ends, however it ends;
what is left where somebody has killed both the next run removes.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import re
import signal
import sys
import time
from typing import Any

TRACED = "handle_userfault"
_ENTER, _LEAVE = "uffd_in", "uffd_out"
_PREFIX = "snapproof-"
_TRACEFS = ("/sys/kernel/tracing", "/sys/kernel/debug/tracing")
_BUFFER_KIB = 4096
# So many threads can wait in the function at once; each takes a record of the return probe's.
_RETURN_RECORDS = 256
_POLL_SECONDS, _FIND_SECONDS = 0.02, 0.1
_CHUNK = 1 << 20
_MAX_LINE, _MAX_THREADS = 4096, 4096
_GONE_TRIES = 100
# Linux include/uapi/linux/sched.h and mount.h.
_CLONE_NEWNS, _MS_REC, _MS_PRIVATE = 0x00020000, 0x4000, 1 << 18

# Linux kernel/trace/trace_output.c, trace_print_context(). A thread chooses its name, of 15 bytes at most, so
# that is bounded here: nothing that fits into it looks like the rest of a line.
_LINE = re.compile(
    r"\s*(?P<name>.{1,16}?)-(?P<tid>\d{1,10})\s+(?:\(\s*[-\d]+\)\s+)?\[\d{3,6}\]\s+(?:\S{4,6}\s+)?"
    r"(?P<seconds>\d{1,12})\.(?P<us>\d{6}):\s(?P<what>\w+):\s\("
)
_LOST = re.compile(r"CPU:\d+ \[LOST (\d{1,12}) EVENTS\]")


def bucket_of(number: int) -> int:
    """Log-linear: up to 15 one for each, from then on eight for each power of two."""
    if number < 16:
        return max(0, number)
    shift = number.bit_length() - 4
    return 8 * shift + (number >> shift)


class Faults:
    """Pairs entries and returns by thread, line by line of a trace."""

    def __init__(self) -> None:
        self.threads: dict[int, dict[str, Any]] = {}
        """By thread id: name, longest fault in us, and faults by bucket of us."""
        self.lost = 0
        """Events that the kernel dropped because we were too slow."""
        self.unpaired = 0
        """Returns without an entry, and entries without a return."""
        self.unread = 0
        """Lines that are none of ours."""
        self._entered: dict[int, int] = {}

    def line(self, text: str) -> None:
        """Take one line; whatever it holds, it is counted and never an error."""
        lost = _LOST.match(text)
        if lost:
            self.lost += int(lost.group(1))
            return
        match = _LINE.match(text)
        if not match:
            self.unread += bool(text.strip()) and not text.startswith("#")
            return
        tid, what = int(match.group("tid")), match.group("what")
        now = int(match.group("seconds")) * 1000000 + int(match.group("us"))
        if what == _ENTER:
            self.unpaired += tid in self._entered
            if len(self._entered) < _MAX_THREADS:
                self._entered[tid] = now
        elif what == _LEAVE:
            begun = self._entered.pop(tid, None)
            if begun is not None and now >= begun:
                self._count(tid, match.group("name"), now - begun)
            else:
                self.unpaired += 1
        else:
            self.unread += 1

    def end(self) -> None:
        """Count what is still waiting."""
        self.unpaired += len(self._entered)
        self._entered.clear()

    def _count(self, tid: int, name: str, us: int) -> None:
        if tid not in self.threads and len(self.threads) >= _MAX_THREADS:
            return
        thread = self.threads.setdefault(tid, {"name": name, "max_us": 0, "buckets": {}})
        thread["max_us"] = max(thread["max_us"], us)
        bucket = bucket_of(us)
        thread["buckets"][bucket] = thread["buckets"].get(bucket, 0) + 1


class Unavailable(Exception):
    """Why this host cannot be traced, as a sentence."""


def tell(event: str, **facts: Any) -> None:
    """Report one thing."""
    print(json.dumps({"event": event, **facts}), flush=True)


def write(path: str, text: str, append: bool = False) -> None:
    """Write to a file of tracefs, some of which take one word at a time."""
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
    """Write where that works."""
    try:
        write(path, text, append)
    except OSError:
        return False
    return True


def find_tracefs() -> str:
    """Where tracefs is; mounted for ourselves alone where it is not.

    Raises:
        Unavailable: the kernel has none, or we may not.
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
    """An instance of our own that traces the faults of one process."""

    def __init__(self, base: str) -> None:
        self.base = base
        self.instance = f"{base}/instances/{_PREFIX}{os.getpid()}"
        self.group = f"{_PREFIX}{os.getpid()}".replace("-", "_")

    def start(self, pid: int) -> None:
        """Begin to trace the process, and the threads that it will start.

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
            write(probes, f"p:{self.group}/{_ENTER} {TRACED}\n", append=True)
            write(probes, f"r{_RETURN_RECORDS}:{self.group}/{_LEAVE} {TRACED}\n", append=True)
        except OSError as error:
            raise Unavailable(f"This kernel has no kprobe for {TRACED}(): {error.strerror}.") from error
        write(f"{self.instance}/set_event_pid", " ".join(os.listdir(f"/proc/{pid}/task")))
        try_write(f"{self.instance}/options/event-fork", "1")
        write(f"{self.instance}/events/{self.group}/enable", "1")

    def misses(self) -> int:
        """Returns that found no record to be noted in."""
        try:
            with open(f"{self.base}/kprobe_profile") as file:
                rows = [line.split() for line in file]
        except OSError:
            return 0
        mine = [row for row in rows if len(row) == 3 and row[0] == _LEAVE]
        return sum(int(row[2]) for row in mine if row[2].isdigit())


def remove(base: str, name: str) -> bool:
    """Remove an instance and the probes that go with it; whether it is gone."""
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
            # Whoever reads it has not let go yet.
            time.sleep(_POLL_SECONDS)
            continue
        return not os.path.exists(instance)
    return False


def sweep(base: str) -> None:
    """Remove what earlier runs of which nothing is left have left."""
    for name in os.listdir(f"{base}/instances"):
        number = name[len(_PREFIX) :]
        if name.startswith(_PREFIX) and number.isdigit() and not os.path.exists(f"/proc/{number}"):
            remove(base, name)


def guard(base: str) -> tuple[int, int]:
    """Start the process that removes our instance once we have ended; its id, and what to close for it."""
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


def find_process(order: dict[str, Any], end: float) -> int:
    """The process to watch.

    Raises:
        Unavailable: it is not there, or did not come in time.
    """
    pid = int(order["pid"])
    if pid:
        if not os.path.exists(f"/proc/{pid}/task"):
            raise Unavailable(f"There is no process {pid}.")
        return pid
    marker = str(order["marker"]).encode()
    while time.monotonic() < end:
        for name in os.listdir("/proc"):
            try:
                with open(f"/proc/{name}/cmdline", "rb") as file:
                    words = file.read().split(b"\0")
            except OSError:
                continue
            if name.isdigit() and marker in words and int(name) != os.getpid():
                return int(name)
        time.sleep(_FIND_SECONDS)
    raise Unavailable("The process that was to be watched did not come.")


def follow(tracer: Tracer, pid: int, faults: Faults, end: float, stopped: list[int]) -> None:
    """Read the trace until it is to end, and once more then."""
    pipe = os.open(f"{tracer.instance}/trace_pipe", os.O_RDONLY | os.O_NONBLOCK)
    rest = b""
    try:
        while True:
            gone = not os.path.exists(f"/proc/{pid}/task")
            last = bool(stopped) or gone or time.monotonic() > end
            if last:
                try_write(f"{tracer.instance}/tracing_on", "0")
            while True:
                try:
                    data = os.read(pipe, _CHUNK)
                except BlockingIOError:
                    break
                if not data:
                    break
                *lines, rest = (rest + data).split(b"\n")
                rest = rest[-_MAX_LINE:]
                for line in lines:
                    faults.line(line.decode(errors="replace"))
            if last:
                return
            time.sleep(_POLL_SECONDS)
    finally:
        os.close(pipe)


def watch(order: dict[str, Any]) -> None:
    """Do as ordered.

    Raises:
        Unavailable: this host cannot be traced.
    """
    begun = time.monotonic()
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    signal.signal(signal.SIGINT, lambda number, _: stopped.append(number))
    base = find_tracefs()
    sweep(base)
    pid = find_process(order, begun + order["seconds"])
    guardian, line = guard(base)
    faults, tracer = Faults(), Tracer(base)
    try:
        tracer.start(pid)
        tell("attached", pid=pid, kernel=os.uname().release)
        attached = time.monotonic()
        follow(tracer, pid, faults, begun + order["seconds"], stopped)
        seconds, misses = time.monotonic() - attached, tracer.misses()
    finally:
        os.close(line)
        _, status = os.waitpid(guardian, 0)
    faults.end()
    tell(
        "done",
        seconds=round(seconds, 3),
        threads=faults.threads,
        lost=faults.lost,
        missed=misses,
        unpaired=faults.unpaired,
        unread=faults.unread,
        removed=status == 0,
    )


def main() -> int:
    """Read the order and follow it; 0 whenever the report says what became of it."""
    try:
        watch(json.loads(sys.stdin.read()))
    except Unavailable as why:
        tell("unavailable", reason=str(why))
    except OSError as error:
        tell("unavailable", reason=f"Tracing failed: {error}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
