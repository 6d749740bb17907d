"""Contract: each figure of a sample is of the save itself, read when the guest and its writers go on."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from guest_images.agent.format import FINE_BUCKETS
from harness.deadline import Deadline
from harness.errors import NotApplicable
from harness.qemu.qmp import Event
from harness.status import Status
from tests_functional.lib.measure import sample
from tests_functional.lib.measure.cases import UNLIMITED, Sink, Way, Writer
from tests_functional.lib.measure.memory_use import MemoryUse
from tests_functional.lib.measure.sample import measure
from tests_functional.lib.measure.saves import Saved

# A fine bucket of 983.04 to 1048.576 us, and one of 3 ns; `fine_bucket_ns` says so.
_SLOW, _FAST = 143, 3
_SLOW_US = (983.04, 1048.576)


class _Guest:
    """A machine and its agent's counters: a writer's stall of 1 ms is counted two steps after the guest runs.

    `done` is what was done with it, in order.
    """

    def __init__(self) -> None:
        self.pid, self.qmp = os.getpid(), self
        self.done: list[str] = []
        self.longest_us, self.gap, self.heartbeat_gap = 2000.0, 0.25, 0.125
        self.slow_writes = 2
        self._asked = 0
        now = time.time()
        self._events = [Event("STOP", {}, now - 9), Event("STOP", {}, now), Event("RESUME", {}, now + 0.25)]

    def mark(self) -> int:
        """The number of events so far: the guest was stopped once before the save."""
        return 1

    def events_since(self, mark: int) -> list[Event]:
        """STOP and RESUME of the save."""
        return self._events[mark:]

    def execute(self, command: str) -> list[dict[str, Any]]:
        """The disk, with the state that `savevm` has put into it."""
        assert command == "query-named-block-nodes"
        return [{"image": {"snapshots": [{"name": "snapproof", "vm-state-size": 99}]}}]

    def wait_status(self, wanted: Callable[[str], bool], deadline: Deadline, _what: str) -> None:
        """Wait for the state "running" alone."""
        assert not deadline.expired
        assert (wanted("paused"), wanted("running")) == (False, True)
        self.done.append("runs")

    def pause(self, deadline: Deadline, seconds: float) -> None:
        """Sleep."""
        assert seconds <= 0.01, "a stall that begins meanwhile would count as one of the save"
        deadline.nap(seconds)

    def steps(self) -> tuple[int, ...]:
        """One more step of the writer at each question of the thread that saves, once the guest runs."""
        if threading.current_thread() is threading.main_thread():
            self._asked += "runs" in self.done
            if self._asked == 3:
                self.done.append("goes on")
        return (5 + self._asked,)

    def histogram(self) -> Any:
        """What the writes lasted until now."""
        counts = np.zeros(FINE_BUCKETS, np.uint64)
        counts[_FAST] = 5
        counts[_SLOW] = self.slow_writes * ("saved" in self.done and "goes on" in self.done)
        return counts

    def longest_write(self) -> float:
        """In seconds."""
        return self.longest_us / 1e6

    def longest_gap(self) -> float:
        """In seconds."""
        return self.gap

    def longest_heartbeat_gap(self) -> float:
        """In seconds."""
        return self.heartbeat_gap


def _figures(
    monkeypatch: pytest.MonkeyPatch, folder: Path, guest: _Guest, way: Way = Way.BACKGROUND_EXEC
) -> dict[str, Any]:
    """Return the figures of a save of `guest` that writes 7 bytes and takes half a second."""
    path = folder / "vmstate"

    def save(*_: object) -> Saved:
        path.write_bytes(bytes(7))
        guest.done.append("saved")
        return Saved(0.5, 4, 90)

    clock = SimpleNamespace(
        time=time.time, monotonic=time.monotonic, sleep=lambda seconds: guest.done.append(f"{seconds} s")
    )
    monkeypatch.setattr(sample, "save", save)
    monkeypatch.setattr(sample, "time", clock)
    monkeypatch.setattr(sample, "memory_use", lambda pid: MemoryUse(pid, len(guest.done), None))
    running = cast(Any, SimpleNamespace(machine=guest, counters=guest))
    return sample._measured_save(running, way, path, UNLIMITED, 1.5, Deadline(5))


def test_figures_are_read_when_the_writers_go_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A stall counts when it ends: the guest runs by then, and so do its writers; the rate is recorded on."""
    guest = _Guest()
    found = _figures(monkeypatch, tmp_path, guest)
    assert guest.done == ["1.5 s", "saved", "runs", "goes on", "1.5 s"]
    assert found["memory_before"] == MemoryUse(os.getpid(), 1, None)
    assert found["memory_after"] == MemoryUse(os.getpid(), 2, None)
    assert (found["stun_ms"], found["total_ms"]) == (pytest.approx(250, abs=0.01), 500.0)
    assert (found["downtime_ms"], found["qemu_total_ms"], found["given_up"]) == (4, 90, False)


def test_stalls_are_those_since_the_save_began(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Five fast writes were before it. None was longer than the end of the bucket of the slowest."""
    found = _figures(monkeypatch, tmp_path, _Guest())
    assert found["stall_histogram"] == [(*_SLOW_US, 2)]
    assert found["stall_us"]["max"] == _SLOW_US[1]


def test_longest_write_is_exact(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """If the longest write of all lies in that bucket it was during the save."""
    guest = _Guest()
    guest.longest_us = 1000.0
    found = _figures(monkeypatch, tmp_path, guest)
    assert found["stall_us"]["max"] == pytest.approx(1000.0, rel=1e-9)


def test_no_write_is_no_stall(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A guest that wrote no page during the save has no figures of its writes."""
    guest = _Guest()
    guest.slow_writes = 0
    found = _figures(monkeypatch, tmp_path, guest)
    assert found["stall_histogram"] == []
    assert set(found["stall_us"].values()) == {None}


@pytest.mark.parametrize(("gap", "heartbeat_gap"), [(0.25, 0.125), (0.25, 0.5)])
def test_gaps_are_in_milliseconds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gap: float, heartbeat_gap: float
) -> None:
    """Of the writes and of the heartbeat; the larger of them stands for both."""
    guest = _Guest()
    guest.gap, guest.heartbeat_gap = gap, heartbeat_gap
    found = _figures(monkeypatch, tmp_path, guest)
    assert (found["guest_write_gap_ms"], found["guest_clock_gap_ms"]) == (gap * 1000, heartbeat_gap * 1000)
    assert found["guest_gap_ms"] == 1000 * max(gap, heartbeat_gap)


@pytest.mark.parametrize(("way", "size"), [(Way.PRECOPY_FILE, 7), (Way.SAVEVM, 99)])
def test_size_is_that_of_the_state(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, way: Way, size: int
) -> None:
    """Of the file, or as QEMU lists it where the state is in the disk."""
    assert _figures(monkeypatch, tmp_path, _Guest(), way)["size_bytes"] == size


@pytest.mark.parametrize(
    ("mib", "start", "save"), [(512, 184.0, 30 + 512 / 12.5), (4096, 632.0, 30 + 4096 / 12.5)]
)
def test_limits_grow_with_the_guest(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mib: int, start: float, save: float
) -> None:
    """Two minutes and a second for each 8 MiB to start it; the time to save it, and that before it."""
    limits: list[float] = []
    done: list[str] = []

    @contextmanager
    def started(_warm: object, _folder: Path, _way: Way, deadline: Deadline) -> Iterator[Any]:
        done.append("started")
        limits.append(deadline.seconds)
        yield SimpleNamespace(machine=None)

    def saved(_running: object, _way: Way, _path: Path, _sink: Sink, around: float, limit: Deadline) -> Any:
        assert around == 1.5
        limits.append(limit.seconds)
        return {}

    monkeypatch.setattr(sample, "started", started)
    monkeypatch.setattr(sample, "prepare", lambda *_: None)
    monkeypatch.setattr(sample, "_measured_save", saved)
    monkeypatch.setattr(sample, "os", SimpleNamespace(sync=lambda: done.append("synced")))
    warm = cast(Any, SimpleNamespace(stack=SimpleNamespace(total_mib=mib), writer=Writer.ALL))
    assert measure(warm, Way.BACKGROUND_EXEC, tmp_path, around_seconds=1.5).status is Status.DONE
    assert limits == pytest.approx([start, save + 1.5])
    assert done == ["synced", "started"], "the host would write back the last sample's file during this one"


def test_folder_of_a_way_that_is_not_there_is_removed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its logs say nothing, and there may be hundreds of samples."""
    folder = tmp_path / "sample"

    @contextmanager
    def started(*_: object) -> Iterator[Any]:
        folder.mkdir()
        (folder / "qemu.log").touch()
        raise NotApplicable("No such transport.")
        yield

    monkeypatch.setattr(sample, "started", started)
    warm = cast(Any, SimpleNamespace(stack=SimpleNamespace(total_mib=64), writer=Writer.ALL))
    with pytest.raises(NotApplicable):
        measure(warm, Way.BACKGROUND_EXEC, folder)
    assert not folder.exists()
