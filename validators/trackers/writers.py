"""Threads that write to memory in a known order, and can be stopped for an instant as vCPUs are."""

from __future__ import annotations

import threading
import time
from typing import Callable

from harness.userfaultfd import Region

from .order import WriteOrder

Store = Callable[[int, bytes], None]
"""Writes bytes at an address, or raises OSError; must not hold the GIL while it faults."""


class WritersStuck(Exception):
    """Writers do not get on: a fault of theirs is never answered."""


class Writers:
    """The writing threads of one region; leaving their ``with`` ends them.

    Attributes:
        order: what they write.
        steps: how many steps each thread has done.
        errors: what their stores failed with.
        nanoseconds: for each thread, how long each of its steps took since the last `measure`.
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
        """Stop all between two writes; WritersStuck if one does not come to that in `patience` seconds."""
        with self._gate:
            self._closed_gate = True
            if not self._gate.wait_for(lambda: self._parked == self._alive(), patience):
                raise WritersStuck(f"A writer did not stop within {patience:.0f} s.")

    def resume(self) -> None:
        """Let all go on."""
        with self._gate:
            self._closed_gate = False
            self._gate.notify_all()

    def measure(self) -> None:
        """Forget the times of steps so far."""
        self.nanoseconds = [[] for _ in self.steps]

    def total(self) -> int:
        """Steps done by all threads."""
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
