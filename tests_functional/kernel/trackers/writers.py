"""Threads that write memory in a known order and can be paused for an instant, as vCPUs are at T0."""

from __future__ import annotations

import threading
import time
from typing import Callable

from harness.userfaultfd import Region

from .order import WriteOrder

Store = Callable[[int, bytes], None]
"""A function that writes bytes at an address or raises OSError; it must release the GIL while it faults."""


class WritersStuck(Exception):
    """The writers stopped writing: a fault of theirs is never answered."""


class Writers:
    """The threads that write one region; leaving their ``with`` ends them.

    Attributes:
        order: what each step writes.
        steps: number of steps that each thread has done.
        errors: the errors that their stores raised.
        nanoseconds: for each thread, the duration of each of its steps since the last `measure`.
    """

    def __init__(self, region: Region, order: WriteOrder, make_store: Callable[[], Store]) -> None:
        self.order = order
        self.steps = [0] * order.threads
        self.errors: list[OSError] = []
        self.nanoseconds: list[list[int]] = [[] for _ in range(order.threads)]
        self._region = region
        self._stores = [make_store() for _ in range(order.threads)]
        self._gate = threading.Condition()
        self._closed_gate = False
        self._ending = False
        self._parked = 0
        self._threads = [
            threading.Thread(target=self._run, args=(number,), daemon=True) for number in range(order.threads)
        ]

    def __enter__(self) -> Writers:
        for thread in range(self.order.threads):
            for index in range(self.order.pages):
                self._region.store(self.order.place(thread, index), self.order.content(thread, index, 0))
        for one in self._threads:
            one.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending = True
        self.resume()
        for one in self._threads:
            one.join(10)

    def pause(self, patience: float = 5.0) -> None:
        """Stop each thread between two writes; raise WritersStuck if one does not stop in `patience` s."""
        with self._gate:
            self._closed_gate = True
            if not self._gate.wait_for(lambda: self._parked == self._alive(), patience):
                raise WritersStuck(f"A writer did not stop within {patience:.0f} s.")

    def resume(self) -> None:
        """Let all threads continue."""
        with self._gate:
            self._closed_gate = False
            self._gate.notify_all()

    def measure(self) -> None:
        """Start a new measurement: drop the durations of all steps so far."""
        self.nanoseconds = [[] for _ in self.steps]

    def total(self) -> int:
        """Return the number of steps done by all threads together."""
        return sum(self.steps)

    def _alive(self) -> int:
        return sum(one.is_alive() for one in self._threads)

    def _run(self, thread: int) -> None:
        order, base, store = self.order, self._region.address, self._stores[thread]
        while not self._ending:
            if self._closed_gate:
                self._park()
                continue
            step = self.steps[thread] + 1
            index = order.index(thread, step)
            content = order.content(thread, index, step)
            began = time.perf_counter_ns()
            try:
                store(base + order.place(thread, index), content)
            except OSError as error:
                self.errors.append(error)
                return
            self.nanoseconds[thread].append(time.perf_counter_ns() - began)
            self.steps[thread] = step

    def _park(self) -> None:
        with self._gate:
            self._parked += 1
            self._gate.notify_all()
            self._gate.wait_for(lambda: not self._closed_gate)
            self._parked -= 1
