"""Runs lists in a child process, and tells which step hangs, spins, or ends the process."""

from __future__ import annotations

import contextlib
import functools
import gc
import json
import mmap
import os
import select
import signal
import struct
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.userfaultfd.libc import LIBC

from ..isolate import PR_SET_PDEATHSIG, kill, kill_group
from .executor import Record, Setting, run_list
from .session import HANG, KILLED, SPIN
from .steps import MemoryList

MOST_LISTS = 300
"""Lists that one process runs at most."""

_LOOK_SECONDS = 0.25
_TICK = os.sysconf("SC_CLK_TCK")
_WAITS = "handle_userfault"
# What is in `wchan` if the kernel does not tell (proc_pid_wchan()), and what stands for an error here.
_NO_PLACE = {"0", "", "?"}
_STEP = struct.Struct("=q")
# compact_memory is synchronous: with much memory it is long in the kernel (sysctl_compaction_handler()).
_LONG_IN_KERNEL = {"compact"}


@dataclass(frozen=True)
class Patience:
    """How long a step may do nothing, in seconds.

    Attributes:
        waits: a thread waits for a page, no thread runs, and no event is unanswered.
        spins: processor time in the kernel alone.
        most: otherwise; after that there is no verdict.
    """

    waits: float = 3.0
    spins: float = 3.0
    most: float = 180.0


@dataclass(frozen=True)
class _Look:
    """What the threads of a process do.

    Attributes:
        step: the number of the step.
        user, system: time in ticks.
        waits: whether a thread waits for a page.
        busy: whether a thread runs, or waits for something else that ends by itself, such as a disk.
        placed: whether the kernel says of any thread where it sleeps.
    """

    step: int
    user: int
    system: int
    waits: bool
    busy: bool
    placed: bool


class Worker:
    """A child process that runs lists one by one; started by the first; `end` ends it.

    Attributes:
        lists: how many it has run.
    """

    def __init__(self, setting: Setting, patience: Patience) -> None:
        self._setting, self._patience = setting, patience
        self._child = self._orders = self._answers = -1
        self._shared = mmap.mmap(-1, mmap.PAGESIZE)
        self.lists = 0

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def run(self, steps: MemoryList) -> Record:
        """Run a list, and say what the kernel did wrong if the process does not come to its end."""
        if self.lists >= MOST_LISTS:
            self.end()
        if self._child < 0:
            self._start()
        self.lists += 1
        self._note(-1)
        data = json.dumps(steps.to_json()).encode() + b"\n"
        with contextlib.suppress(BrokenPipeError):
            _write_all(self._orders, data)
        record = self._answer(steps)
        if record.code or record.error:
            self.end()
        return record

    def end(self) -> None:
        """End the process and all that it has started."""
        if self._child >= 0:
            kill(self._child)
            for descriptor in (self._orders, self._answers):
                os.close(descriptor)
        self._child = self._orders = self._answers = -1
        self.lists = 0

    def _answer(self, steps: MemoryList) -> Record:
        data, begun, calm, spun = b"", time.monotonic(), 0.0, None
        poll = select.poll()
        poll.register(self._answers, select.POLLIN | select.POLLHUP)
        before: _Look | None = None
        while True:
            if poll.poll(_LOOK_SECONDS * 1000):
                chunk = os.read(self._answers, 1 << 16)
                data += chunk
                if data.endswith(b"\n"):
                    return Record(**json.loads(data))
                if not chunk:
                    return self._died()
                continue
            look = self._look()
            same = before is not None and look.step == before.step
            idle = same and before is not None and look.user == before.user and look.system == before.system
            calm = calm + _LOOK_SECONDS if idle and look.waits and not look.busy else 0.0
            if idle and not look.placed:
                _say_no_places()
            if _kind(steps, look.step) in _LONG_IN_KERNEL:
                spun = None
            if not same or spun is None or look.user - spun.user > _TICK // 10:
                spun = look
            before = look
            if calm >= self._patience.waits:
                return self._stuck(HANG, "waits for a page, and its userfaultfd has no event for it")
            if look.system - spun.system >= self._patience.spins * _TICK:
                return self._stuck(
                    SPIN, f"keeps a processor busy in the kernel for {self._patience.spins:.0f} s"
                )
            if time.monotonic() - begun > self._patience.most:
                where = ", ".join(sorted({thread.get("wchan", "?") for thread in self._threads()}))
                return Record(
                    sentence=f"The list did not end in {self._patience.most:.0f} s ({where}).", error=True
                )

    def _stuck(self, code: str, what: str) -> Record:
        step = self._noted()
        return Record(code, f"Step {step + 1} {what}.", {"step": step}, at=step)

    def _died(self) -> Record:
        """Say by what the process ended: SIGSEGV and SIGBUS are of an access that is allowed."""
        step = self._noted()
        child, self._child = self._child, -1
        _, status = os.waitpid(child, 0)
        kill_group(child)
        for descriptor in (self._orders, self._answers):
            os.close(descriptor)
        self.lists = 0
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        if number in (signal.SIGSEGV, signal.SIGBUS) and step >= 0:
            name = signal.Signals(number).name
            return Record(KILLED, f"Step {step + 1} got {name}.", {"step": step, "signal": name}, at=step)
        said = f"signal {number}" if number else f"exit code {status >> 8}"
        return Record(sentence=f"The process of the list ended with {said} in step {step + 1}.", error=True)

    def _look(self) -> _Look:
        threads = self._threads()
        return _Look(
            self._noted(),
            sum(thread["user"] for thread in threads),
            sum(thread["system"] for thread in threads),
            any(thread["wchan"] == _WAITS for thread in threads),
            any(
                # A wait for a page may have the state D too (userfaultfd_get_blocking_state()).
                thread["state"] == "R" or (thread["state"] == "D" and thread["wchan"] != _WAITS)
                for thread in threads
            ),
            any(thread["wchan"] not in _NO_PLACE for thread in threads) or not threads,
        )

    def _threads(self) -> list[dict[str, Any]]:
        found = []
        for task in Path(f"/proc/{self._child}/task").glob("*"):
            with contextlib.suppress(OSError):
                stat = (task / "stat").read_text().rpartition(")")[2].split()
                # proc(5): the third field is the state, utime and stime are the 14th and 15th.
                found.append(
                    {
                        "state": stat[0],
                        "user": int(stat[11]),
                        "system": int(stat[12]),
                        "wchan": _place(task),
                    }
                )
        return found

    def _note(self, step: int) -> None:
        _STEP.pack_into(self._shared, 0, step)

    def _noted(self) -> int:
        return int(_STEP.unpack_from(self._shared, 0)[0])

    def _start(self) -> None:
        orders, self._orders = os.pipe2(os.O_CLOEXEC)
        self._answers, answers = os.pipe2(os.O_CLOEXEC)
        sys.stdout.flush()
        gc.freeze()
        self._child = os.fork()
        if self._child == 0:
            os.close(self._orders)
            os.close(self._answers)
            self._serve(orders, answers)
        os.close(orders)
        os.close(answers)

    def _serve(self, orders: int, answers: int) -> None:
        """Run the lists that come, and exit without running any code of the parent."""
        try:
            os.setpgid(0, 0)
            LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGHUP, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            with open(orders, "rb") as source:
                for line in source:
                    record = run_list(MemoryList.from_json(json.loads(line)), self._setting, self._note)
                    _write_all(answers, json.dumps(record.to_json()).encode() + b"\n")
        except BaseException:
            traceback.print_exc()
        finally:
            # Threads may still wait for pages; the end of the process releases them.
            os._exit(3)


def _kind(steps: MemoryList, number: int) -> str:
    """Return the kind of a step, empty before the first and behind the last."""
    return steps.steps[number].kind if 0 <= number < len(steps.steps) else ""


def _place(task: Path) -> str:
    """Return the function of the kernel in which a thread sleeps."""
    try:
        return (task / "wchan").read_text()
    except OSError:
        return "?"


@functools.cache
def _say_no_places() -> None:
    print(
        "# The kernel does not say where threads sleep (/proc/PID/task/TID/wchan), so a step that hangs has "
        "no verdict; run as root on a kernel with CONFIG_KALLSYMS.",
        file=sys.stderr,
    )


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
