"""Makes calls that may wait in the kernel, each on a thread that is used again when its call has returned."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Any, Callable

if TYPE_CHECKING:
    from .trial import Trial


class _Caller:
    """A thread that makes one call after the other.

    Attributes:
        thread_id: its id in the kernel.
        clock: the clock of the processor time that it alone uses, None before it runs.
        done: a lock that is free once the call has returned.
    """

    def __init__(self) -> None:
        self.thread_id = 0
        self.clock: int | None = None
        self.done = threading.Lock()
        self.done.acquire()
        self._given = threading.Lock()
        self._given.acquire()
        self._call: Callable[[], None] = self._nothing
        threading.Thread(target=self._serve, daemon=True).start()

    def make(self, call: Callable[[], None]) -> None:
        """Make a call, which must not raise."""
        self._call = call
        self._given.release()

    def _serve(self) -> None:
        self.thread_id = threading.get_native_id()
        self.clock = time.pthread_getcpuclockid(threading.get_ident())
        while True:
            self._given.acquire()
            self._call()
            # Nothing of the call may live on in this thread.
            self._call = self._nothing
            self.done.release()

    def _nothing(self) -> None:
        raise AssertionError("A thread was woken without a call.")


# Threads whose call has returned. To start and end one costs an emulated host more than to wake one.
_idle: list[_Caller] = []
# A fork copies the calling thread alone.
os.register_at_fork(after_in_child=_idle.clear)


def idle_threads() -> frozenset[int]:
    """Return the ids of threads that are kept for further calls."""
    return frozenset(caller.thread_id for caller in _idle)


class CallThread:
    """A thread that makes one call, which may wait in the kernel; leaving its ``with`` waits for its end.

    Attributes:
        result: what the call returned, None before.
        error: the exception that it raised, None if none.
    """

    def __init__(self, trial: Trial, call: Callable[..., Any], *arguments: Any) -> None:
        self.result: Any = None
        self.error: BaseException | None = None
        self._trial = trial
        self._call = call
        self._arguments = arguments
        self._caller: _Caller | None = None
        self._thread_id = 0
        self._begun: float | None = None

    def __enter__(self) -> CallThread:
        caller = _idle.pop() if _idle else _Caller()
        self._caller = caller
        caller.make(self._run)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.finish()

    @property
    def thread_id(self) -> int:
        """Its thread id in the kernel, 0 before it runs."""
        return self._thread_id

    @property
    def processor_seconds(self) -> float:
        """Processor time that the call has used so far, by itself alone; 0 before it begins."""
        begun, caller = self._begun, self._caller
        if begun is None or caller is None or caller.clock is None:
            return 0.0
        return time.clock_gettime(caller.clock) - begun

    def waits(self, seconds: float = 0.1) -> bool:
        """Return whether the call has not returned within `seconds`."""
        if self._caller is None or not self._caller.done.acquire(timeout=max(0.0, seconds)):
            return self._caller is not None
        _idle.append(self._caller)
        self._caller = None
        return False

    def finish(self) -> Any:
        """Wait for the call's end and return its result.

        Raises:
            CheckFailed: the call did not return in time, or raised OSError.
        """
        self._trial.check(
            not self.waits(self._trial.patience),
            f"A thread still waits {self._trial.patience:.0f} s after it was released.",
        )
        if isinstance(self.error, OSError):
            self._trial.check(False, f"The call of a thread on protected memory failed: {self.error}.")
        if self.error is not None:
            raise self.error
        return self.result

    def _run(self) -> None:
        self._thread_id = threading.get_native_id()
        self._begun = time.thread_time()
        try:
            self.result = self._call(*self._arguments)
        except BaseException as error:  # finish() raises it
            self.error = error
