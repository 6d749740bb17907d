"""The watcher: a program that times the userfaultfd page faults of one process, on a host as root.

It needs Python 3.9 and the standard library. Standard input holds the order, one JSON object:

    pid      process to watch, 0 for the first one that has `marker` among its arguments
    marker   an argument by which the process is found
    seconds  longest time to watch; waiting for the process counts too

Each line of standard output is a JSON object with "event": "unavailable" with the reason, or "attached" and
then "done". The program ends when the process does, after `seconds`, or at SIGTERM.

A fault is timed by a kprobe at the entry of the kernel's handle_userfault() (Linux fs/userfaultfd.c) and one
at its return.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from typing import Any

from snapproof.bench.page_fault_lines import Faults
from snapproof.bench.tracefs import (
    POLL_SECONDS,
    Tracer,
    Unavailable,
    find_tracefs,
    guard,
    sweep,
    try_write,
)

_FIND_SECONDS = 0.1
_CHUNK, _MAX_LINE = 1 << 20, 4 << 10


def tell(event: str, **facts: Any) -> None:
    """Print one line of the report."""
    print(json.dumps({"event": event, **facts}), flush=True)


def find_process(order: dict[str, Any], end: float) -> int:
    """Return the id of the process to watch, and wait for it where it is known by its marker.

    Raises:
        Unavailable: it does not exist, or did not start in time.
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
    raise Unavailable("The process that was to be watched did not start in time.")


def follow(tracer: Tracer, pid: int, faults: Faults, end: float, stopped: list[int]) -> None:
    """Read the trace until the process, the time or the program ends, and once more after that."""
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
            time.sleep(POLL_SECONDS)
    finally:
        os.close(pipe)


def watch(order: dict[str, Any]) -> None:
    """Carry out an order.

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
    """Read the order and carry it out. Return 0: the report says whether it could be done."""
    try:
        watch(json.loads(sys.stdin.read()))
    except Unavailable as why:
        tell("unavailable", reason=str(why))
    except OSError as error:
        tell("unavailable", reason=f"Tracing failed: {error}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
