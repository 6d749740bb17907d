"""Contract: a writer that stands still while its RAM is saved is noted, unless the host kept QEMU waiting."""

from __future__ import annotations

from typing import Any, cast

import pytest

from harness.codes import Code
from harness.linux.run_queue import ProcessorTime
from tests_functional.explore import writers
from tests_functional.explore.model import CANCELLED, PAUSED, RUNNING, Model, Writers
from tests_functional.explore.sink import Speed
from tests_functional.explore.writers import STALL_SECONDS, Watch, should_write, watch_slow
from tests_unit.support.explored_session import StandInSession, codes_of, stand_in_session

_SAVING = Model().begun(RUNNING)
_GOES_ON = {"status": "active", "ram": {"remaining": 32 << 20}}


class _Counters:
    """Steps of two writers: the first goes on until it stands still."""

    def __init__(self, stands_at: int) -> None:
        self.looks, self._stands_at = 0, stands_at

    def steps(self) -> tuple[int, ...]:
        self.looks += 1
        return min(self.looks, self._stands_at), self.looks


def _session(stands_at: int, model: Model = _SAVING) -> StandInSession:
    cpus = [{"cpu-index": 1, "thread-id": 12}, {"cpu-index": 0, "thread-id": 11}]
    session = stand_in_session(model, answer=_GOES_ON, answers={"query-cpus-fast": cpus})
    cast(Any, session.source).counters = _Counters(stands_at)
    cast(Any, session.machine).pid = 1
    return session


def _watch(
    session: StandInSession, monkeypatch: pytest.MonkeyPatch, waits: float, thread: int = 10
) -> list[bool]:
    """Look at the writers each half a second, of which a thread of QEMU waits for a processor for a share."""
    now = [0.0]

    def times(_pid: int) -> dict[int, ProcessorTime]:
        waited = ProcessorTime(0, round(now[0] * waits * 1e9))
        return {one: waited if one == thread else ProcessorTime(0, 0) for one in (10, 11, 12)}

    monkeypatch.setattr(writers, "thread_times", times)
    watch, found = Watch(session, lambda: now[0]), []
    for _ in range(12):
        now[0] += 0.5
        found.append(watch.look())
        if found[-1]:
            break
    return found


def test_a_writer_that_stands_still_is_noted_after_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not before it; the other one goes on, which does not count."""
    session = _session(stands_at=3)
    found = _watch(session, monkeypatch, waits=0.0)
    # It goes on until the second look, at 1.0 s.
    assert found == [False] * (2 + round(STALL_SECONDS / 0.5)) + [True]
    assert codes_of(session) == [Code.WRITE_STALL_TOO_LONG]
    assert "Writer 0" in session.checks[0].violations[0].sentence


@pytest.mark.parametrize(
    ("stands_at", "waits", "thread", "stalls"),
    [(1000, 0.0, 10, False), (3, 0.9, 10, False), (3, 0.9, 11, False), (3, 0.9, 12, True)],
)
def test_writers_that_go_on_and_busy_hosts_are_no_stall(
    stands_at: int, waits: float, thread: int, stalls: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the writer's own vCPU or a thread beside vCPUs waited for is taken off; another vCPU's is not."""
    session = _session(stands_at)
    assert any(_watch(session, monkeypatch, waits, thread)) is stalls
    assert session.failed is stalls


@pytest.mark.parametrize(
    ("model", "should"),
    [
        (_SAVING, True),
        (Model(), False),
        (_SAVING.may_end(CANCELLED), False),
        (_SAVING.stopped(), False),
        (_SAVING.ended_writers(), False),
        (Model(run_state=PAUSED).begun(PAUSED), False),
    ],
)
def test_when_writers_go_on(model: Model, should: bool) -> None:
    """After a cancel 7.2 hangs (F9); a guest that stands still does not write."""
    assert should_write(stand_in_session(model)) is should
    assert _SAVING.ended_writers().writers is Writers.GONE


def test_a_slow_save_is_watched_until_all_writers_have_gone_on() -> None:
    """That is a moment; with any other sink there is nothing to wait for."""
    session = _session(stands_at=1000)
    watch_slow(session)
    assert cast(Any, session.counters).looks == 2
    assert session.save is not None
    session.save.sink.set_speed(Speed.FAST)
    watch_slow(session)
    assert cast(Any, session.counters).looks == 2
