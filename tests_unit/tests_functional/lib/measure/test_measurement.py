"""Contract: the figures of a benchmark are those of the save, and a save that failed has none."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from guest_images.agent.counters import AgentCounters
from harness.deadline import Deadline
from harness.errors import NotApplicable, SetupBroken, SnapproofError, SubjectFailed
from harness.qemu.machine import Machine
from harness.qemu.qmp import CommandRefused
from harness.status import Status
from tests_functional.lib.measure import sample
from tests_functional.lib.measure import write_rate as write_rate_module
from tests_functional.lib.measure.cases import Sink, Way, Writer, throttled
from tests_functional.lib.measure.memory_use import MemoryUse, kib, memory_use
from tests_functional.lib.measure.sample import Sample, measure
from tests_functional.lib.measure.saves import Saved
from tests_functional.lib.measure.write_rate import WriteRate, WriteRecorder, write_rate
from tests_unit.support.synthetic_stream import PAGE, Guest
from tests_unit.support.synthetic_stream import Writer as StreamWriter

_NAMED = (512, "background-exec", "all", "unlimited", 3)


@pytest.mark.parametrize(
    ("from_ms", "to_ms", "mean"),
    [
        (0, 100, 10.0),
        (0, 99, None),
        (1, 100, None),
        (0, 200, 15.0),
        (0, 199, 10.0),
        (1, 300, 25.0),
        (-1000, 1000, 20.0),
        (300, 1000, None),
    ],
)
def test_mean_of_whole_intervals(from_ms: float, to_ms: float, mean: float | None) -> None:
    """One that begins before or ends after the time does not count."""
    assert WriteRate(100, (0, 100, 200), (10, 20, 30)).mean(from_ms, to_ms) == mean


@pytest.mark.parametrize(
    ("times", "pages", "t_ms", "rate"),
    [
        ([], [], (), ()),
        ([10.0], [5], (), ()),
        ([10.0, 10.125], [0, 125], (0,), (100,)),
        ([9.75, 10.125], [0, 375], (-200, -100, 0), (100, 100, 100)),
        ([9.75, 9.85], [0, 100], (), ()),
    ],
)
def test_intervals_lie_between_the_readings(
    times: Sequence[float], pages: Sequence[int], t_ms: tuple[int, ...], rate: tuple[int, ...]
) -> None:
    """Two readings are enough, and none is told of a time before the first or after the last."""
    assert write_rate(times, pages, 10.0) == WriteRate(100, t_ms, rate)


def test_intervals_of_a_second() -> None:
    """Times are in milliseconds for any interval."""
    assert write_rate([9.0, 12.0], [0, 300], 10.0, 1.0) == WriteRate(1000, (-1000, 0, 1000), (100, 100, 100))
    assert WriteRate().interval_ms == 100


def test_rate_of_which_a_part_is_missing() -> None:
    """Each interval has a begin and a number."""
    with pytest.raises(ValueError, match="shorter"):
        WriteRate(100, (0, 100), (10,)).mean(0, 200)


def test_json_of_a_write_rate() -> None:
    """Lists by these names."""
    assert WriteRate(100, (0,), (10,)).to_json() == {"interval_ms": 100, "t_ms": [0], "pages": [10]}


def test_recorder_ends_with_qemu() -> None:
    """The thread that drives QEMU finds out why; what was read before is kept."""
    answers: list[tuple[int, int]] = [(1, 2)]

    def steps() -> tuple[int, int]:
        if not answers:
            raise SubjectFailed("QEMU ended.")
        return answers.pop()

    with WriteRecorder(steps) as recorder:
        recorder._thread.join(5)
    assert (recorder.pages, len(recorder.times)) == ([3], 1)


def test_recorder_has_ended_when_it_is_left() -> None:
    """Also in the middle of a reading, so that QEMU may be ended next; and no thread outlives the program."""
    reading = threading.Event()

    def steps() -> tuple[int]:
        reading.set()
        time.sleep(0.05)
        return (1,)

    with WriteRecorder(steps) as recorder:
        reading.wait(5)
        assert recorder._thread.daemon
    assert not recorder._thread.is_alive()
    assert recorder.pages == [1]


@pytest.mark.parametrize(
    ("takes", "early", "times"),
    [
        ([0.0, 0.0, 0.0, 0.0], 0.0, [0.0, 0.1, 0.2, 0.3]),
        ([0.03, 0.03, 0.03], 0.0, [0.03, 0.13, 0.23]),
        # Two readings are left out, and the next one is on time.
        ([0.0, 0.25, 0.0], 0.0, [0.0, 0.35, 0.4]),
        # One that begins before its time stands for its time.
        ([0.0, 0.0, 0.0], 0.001, [0.0, 0.099, 0.199]),
    ],
)
def test_readings_are_at_multiples_of_the_interval(
    monkeypatch: pytest.MonkeyPatch, takes: list[float], early: float, times: list[float]
) -> None:
    """However long a reading takes, and a little before its time too."""
    clock = SimpleNamespace(now=50.0)

    def steps() -> tuple[int]:
        clock.now += left.pop(0)
        return (1,)

    def wait(seconds: float) -> bool:
        clock.now += seconds - early
        return not left

    left = list(takes)
    recorder = WriteRecorder(steps)
    monkeypatch.setattr(recorder, "_stop", SimpleNamespace(wait=wait))
    monkeypatch.setattr(write_rate_module, "time", SimpleNamespace(monotonic=lambda: clock.now))
    recorder._record()
    assert [at - 50 for at in recorder.times] == pytest.approx(times)


def test_recorder_reads_at_once() -> None:
    """The first reading is at the begin, and the next one when it is due: within a save of 50 ms is one."""
    with WriteRecorder(lambda: (1,)) as recorder:
        time.sleep(0.05)
    assert len(recorder.pages) == 1


def test_memory_of_this_process() -> None:
    """As /proc has it."""
    found = memory_use(os.getpid())
    assert found.resident > 1000 and found.page_tables > 0
    with pytest.raises(SetupBroken, match="memory use of QEMU cannot be read"):
        memory_use(2**22 + 1)


def test_memory_of_a_process_with_an_odd_name() -> None:
    """A name is any bytes, and is of no interest."""
    comm = Path("/proc/self/comm")
    before = comm.read_bytes()
    comm.write_bytes(b"qemu\xff\xfe")
    try:
        assert memory_use(os.getpid()).resident > 1000
    finally:
        comm.write_bytes(before.rstrip())


def test_memory_of_a_process_that_has_ended() -> None:
    """Until it is waited for, the kernel lists it without any memory."""
    with subprocess.Popen(["true"]) as ended:
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
        assert memory_use(ended.pid) == MemoryUse(0, 0, None)


@pytest.mark.parametrize(
    ("line", "value"),
    [("A: 0 kB", 0), ("A:7", 7), ("A:", None), ("A: -1 kB", None), ("B: 3", None), (" A : 3", 3)],
)
def test_one_field(line: str, value: int | None) -> None:
    """A number is read, also 0; nothing else is."""
    assert kib(f"X: 9\n{line}\nY: 8", "A") == value


_RATE = WriteRate(100, tuple(range(-300, 700, 100)), (90, 91, 92, 10, 11, 12, 13, 70, 71, 72))


@pytest.mark.parametrize(("when", "mean"), [("before", 90.5), ("during", 11.5), ("after", 71.0)])
def test_pages_around_a_save(when: str, mean: float) -> None:
    """From -20 ms to 400 ms: an interval in which the save began or ended counts to none."""
    found = Sample(*_NAMED, asked_ms=-20.0, total_ms=420.0, write_rate=_RATE)
    assert found.pages(when) == mean


@pytest.mark.parametrize("known", [{"asked_ms": -20.0}, {"total_ms": 420.0}, {}])
def test_pages_around_a_save_that_failed(known: dict[str, float]) -> None:
    """There is no time before or after it."""
    assert Sample(*_NAMED, write_rate=_RATE, **cast(Any, known)).pages("before") is None


@pytest.mark.parametrize(
    ("judged", "status", "measured", "wrong"),
    [
        ("", Status.DONE, True, False),
        ("structure and write order are right", Status.DONE, True, False),
        ("Page 7 is newer.", Status.FAIL, False, True),
        ("", Status.ERROR, False, False),
    ],
)
def test_samples_that_count(judged: str, status: Status, measured: bool, wrong: bool) -> None:
    """A wrong file is no measurement, and neither is a save that failed."""
    found = Sample(*_NAMED, judged=judged, status=status)
    assert (found.measured, found.wrong) == (measured, wrong)


def test_json_of_a_sample() -> None:
    """Figures are rounded to three digits; growth and huge pages stand for the memory."""
    memory = MemoryUse(100, 10, 4), MemoryUse(150, 30, None)
    found = Sample(
        *_NAMED, stun_ms=1.23456, size_bytes=7, stall_us={"p50": 1.23456, "max": None},
        stall_histogram=[(1.0, 2.0, 3)], memory_before=memory[0], memory_after=memory[1],
    ).to_json()  # fmt: skip
    assert (found["ram_mib"], found["repeat"], found["stun_ms"], found["size_bytes"]) == (512, 3, 1.235, 7)
    assert (found["stall_us"], found["stall_histogram"]) == ({"p50": 1.235, "max": None}, [[1.0, 2.0, 3]])
    assert (found["rss_growth_kib"], found["page_tables_growth_kib"]) == (50, 20)
    assert (found["huge_before_kib"], found["huge_after_kib"]) == (4, None)
    assert (found["error"], found["status"], found["given_up"]) == (None, "DONE", False)
    assert not [name for name in found if name.startswith("memory")]
    empty = Sample(*_NAMED, error="It failed.").to_json()
    assert (empty["huge_before_kib"], empty["huge_after_kib"], empty["error"]) == (None, None, "It failed.")
    assert empty["stall_us"] == {"p50": None, "p99": None, "p99.9": None, "max": None}


@pytest.mark.parametrize(
    ("rate", "seconds"),
    [(0.0, 30 + 512 / 12.5), (40.0, 30 + 512 / 20), (50.0, 30 + 512 / 25), (400.0, 30 + 512 / 25)],
)
def test_limit_of_a_save(rate: float, seconds: float) -> None:
    """Twice the time that the sink needs, of which 25 MiB/s is a slow one; not less than at that rate."""
    warm = cast(Any, SimpleNamespace(stack=SimpleNamespace(total_mib=512)))
    assert sample._save_seconds(warm, Sink("x", rate)) == pytest.approx(seconds)


class _Counters:
    """Gives step counts in turn, the last for ever."""

    def __init__(self, *steps: tuple[int, ...]) -> None:
        self.left = list(steps)

    def steps(self) -> tuple[int, ...]:
        return self.left.pop(0) if len(self.left) > 1 else self.left[0]


class _Machine:
    def __init__(self) -> None:
        self.pauses = 0

    def pause(self, limit: Deadline, seconds: float) -> None:
        self.pauses += 1
        limit.nap(seconds)

    def failure(self, sentence: str) -> SubjectFailed:
        return SubjectFailed(f"{sentence}.")


@pytest.mark.parametrize(
    ("steps", "pauses"),
    [
        ([(5, 7), (7, 9)], 0),
        ([(5, 7), (6, 9), (7, 9)], 1),
        ([(5, 7), (9, 8), (9, 9)], 1),
        ([(5, 7), (5, 7), (6, 8), (7, 9)], 2),
    ],
)
def test_each_writer_is_waited_for_two_steps(steps: list[tuple[int, ...]], pauses: int) -> None:
    """The write that ends a stall is counted by then."""
    machine = _Machine()
    sample._goes_on(cast(Machine, machine), cast(AgentCounters, _Counters(*steps)))
    assert machine.pauses == pauses


def test_writer_that_does_not_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The save has hung it: its figures would leave out the longest stall."""
    monkeypatch.setattr(sample, "_GO_ON_SECONDS", 0.02)
    with pytest.raises(SubjectFailed, match="a writer of the guest does not go on"):
        sample._goes_on(cast(Machine, _Machine()), cast(AgentCounters, _Counters((5, 7), (99, 8))))


def test_times_of_a_save(monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative to T0, which QEMU tells by the wall clock."""
    recorder = SimpleNamespace(times=[99.0, 101.0], pages=[0, 2000])
    stopped = time.time() - (time.monotonic() - 100.0)
    stun = SimpleNamespace(stopped=stopped, seconds=0.25)
    monkeypatch.setattr(sample.migration, "find_stun", lambda *_: stun)  # type: ignore[attr-defined]
    found = sample._times(cast(Any, _Machine()), 0, 99.5, Saved(2.0, 4, 90), cast(Any, recorder))
    assert found["asked_ms"] == pytest.approx(-500, abs=5)
    assert (found["stun_ms"], found["total_ms"]) == (250.0, 2000.0)
    assert (found["downtime_ms"], found["qemu_total_ms"]) == (4, 90)
    assert sum(found["write_rate"].pages) == pytest.approx(1900, abs=101)
    monkeypatch.setattr(sample.migration, "find_stun", lambda *_: None)  # type: ignore[attr-defined]
    with pytest.raises(SubjectFailed, match="did not send STOP and RESUME"):
        sample._times(cast(Any, _Machine()), 0, 99.5, Saved(2.0, 4, 90), cast(Any, recorder))


def _measure(
    monkeypatch: pytest.MonkeyPatch, folder: Path, way: Way = Way.BACKGROUND_EXEC,
    error: SnapproofError | None = None, content: bytes = b"", **more: Any,
) -> tuple[Sample, list[str]]:  # fmt: skip
    """Take a sample whose guest and save are stand-ins; return it and what was done."""
    log: list[str] = []
    stack = SimpleNamespace(total_mib=512)
    warm = SimpleNamespace(stack=stack, writer=Writer.ALL)

    @contextmanager
    def started(*_: object) -> Any:
        log.append("started")
        yield SimpleNamespace(machine=None, guest=None)
        log.append("ended")

    def saved(*_: object) -> dict[str, Any]:
        log.append("saved")
        (folder / "vmstate").write_bytes(content)
        if error:
            raise error
        return {"stun_ms": 3.0}

    monkeypatch.setattr(sample, "started", started)
    monkeypatch.setattr(sample, "prepare", lambda *_: log.append("prepared"))
    monkeypatch.setattr(sample, "_measured_save", saved)
    monkeypatch.setattr(sample, "remove", lambda _: log.append("removed"))
    monkeypatch.setattr(sample, "sample_stun", lambda *_: 1.5)
    return measure(cast(Any, warm), way, folder, **more), log


def test_sample_of_a_save(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It has the names of its case, is not judged unless asked for, and leaves no file behind."""
    found, log = _measure(monkeypatch, tmp_path, sink=throttled(40), repeat=2)
    assert log == ["started", "prepared", "saved", "ended", "removed"]
    assert found == Sample(512, "background-exec", "all", "throttled", 2, stun_ms=3.0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("way", "again", "stun"),
    [
        (Way.BACKGROUND_EXEC, True, 1.5),
        (Way.BACKGROUND_EXEC, False, None),
        (Way.STOP_AND_SAVE, True, None),
    ],
)
def test_second_stun(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, way: Way, again: bool, stun: float | None
) -> None:
    """Only of a background snapshot, and only where it is asked for."""
    assert _measure(monkeypatch, tmp_path, way, again=again)[0].again_stun_ms == stun


def _stream(wrong: bool) -> bytes:
    guest = Guest()
    if wrong:
        guest.ram[guest.places[0, 5], 300] ^= np.uint64(1)
    return StreamWriter(guest).stream()


@pytest.mark.parametrize(
    ("content", "judged", "status"),
    [
        (_stream(wrong=False), "structure and write order are right", Status.DONE),
        (_stream(wrong=True), "Page 5 of agent thread 0", Status.FAIL),
        (b"No stream.", "", Status.FAIL),
    ],
)
def test_sample_that_is_judged(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes, judged: str, status: Status
) -> None:
    """A wrong file fails the sample, with the first violation."""
    found, _ = _measure(monkeypatch, tmp_path, content=content, judge=True)
    assert (found.status, found.stun_ms) == (status, 3.0)
    assert found.judged.startswith(judged) and found.judged
    assert found.error == ("" if status is Status.DONE else f"The snapshot is wrong: {found.judged}")


def test_disk_is_not_judged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The state in it is no vmstate file."""
    found, _ = _measure(monkeypatch, tmp_path, Way.SAVEVM, judge=True)
    assert (found.judged, found.status) == ("", Status.DONE)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (SubjectFailed("It failed."), Status.FAIL),
        (SetupBroken("It failed."), Status.ERROR),
        (CommandRefused("migrate", "No."), Status.FAIL),
    ],
)
def test_sample_of_a_save_that_failed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: SnapproofError, status: Status
) -> None:
    """It says whose fault it is, has no figures, and its logs are kept; the large file is not."""
    found, log = _measure(monkeypatch, tmp_path, error=error)
    assert found == Sample(*_NAMED[:4], 1, error=error.sentence, status=status)
    assert "removed" not in log
    assert list(tmp_path.iterdir()) == []


def test_way_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is no sample, and leaves nothing behind."""
    with pytest.raises(NotApplicable):
        _measure(monkeypatch, tmp_path, error=NotApplicable("No such transport."))
    assert list(tmp_path.iterdir()) == []


def test_page_of_the_stream_is_the_agents() -> None:
    """The files that are judged here have pages as large as the agent's."""
    assert len(_stream(wrong=False)) > 100 * PAGE
