"""Does independent pieces of work side by side, each in a process of its own that this one has forked."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from typing import Any, TypeVar

from harness.errors import SetupBroken
from snapproof.runs.interruption import EXIT_INTERRUPTED

_T = TypeVar("_T")
# linux/prctl.h
_PR_SET_PDEATHSIG = 1
# A process that ends by a signal ends what it has started: a VM's QEMU has ten seconds to quit.
_END_SECONDS = 60.0
_FORK = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class _Running:
    place: int
    process: ForkProcess


@dataclass(frozen=True)
class _Raised:
    error: Exception


def side_by_side(works: Sequence[Callable[[], _T]], most: int) -> list[_T]:
    """Do each piece of work in a process of its own and return the results, in the order of the works.

    Args:
        works: functions without arguments; what they return or raise can be pickled.
        most: processes at a time.

    Raises:
        SetupBroken: a process ended without a result.
        Exception: what a work raised; the other processes are ended then, as after an interruption.
    """
    waiting = list(enumerate(works))
    running: dict[Connection, _Running] = {}
    results: dict[int, _T] = {}
    try:
        while waiting or running:
            while waiting and len(running) < most:
                place, work = waiting.pop(0)
                ours, its = _FORK.Pipe(duplex=False)
                process = _FORK.Process(target=_do, args=(work, its, os.getpid()))
                running[ours] = _Running(place, process)
                process.start()
                its.close()
            for ready in wait(list(running)):
                assert isinstance(ready, Connection), "only connections are waited for"
                one = running[ready]
                answer = _received(ready)
                one.process.join()
                del running[ready]
                if isinstance(answer, _Raised):
                    raise answer.error
                results[one.place] = answer
    finally:
        _end([one.process for one in running.values()])
    return [results[place] for place in range(len(works))]


def _received(connection: Connection) -> Any:
    with connection:
        try:
            return connection.recv()
        except EOFError:
            raise SetupBroken(
                "A process that did a part of this command ended without a result; its last words are above."
            ) from None


def _do(work: Callable[[], _T], connection: Connection, parent: int) -> None:
    """Do a piece of work in the forked process, and send its result or error."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        # It ended before we could ask to end with it.
        os._exit(EXIT_INTERRUPTED)
    try:
        answer: object = work()
    except KeyboardInterrupt:
        os._exit(EXIT_INTERRUPTED)
    except Exception as error:
        answer = _Raised(error)
    connection.send(answer)


def _end(processes: Sequence[ForkProcess]) -> None:
    """Have processes clean up and end; kill those that do not."""
    for process in processes:
        # One that was not started yet has no process.
        with contextlib.suppress(AttributeError):
            process.terminate()
    for process in processes:
        if process.pid is not None:
            process.join(_END_SECONDS)
            process.kill()
            process.join()
