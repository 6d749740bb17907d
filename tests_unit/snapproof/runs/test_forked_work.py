"""Work in processes of its own: order of results, errors, and processes that end without a result."""

from __future__ import annotations

import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from harness.errors import SetupBroken, UsageError
from harness.hosts.local import HostFacts
from harness.process import session_members
from snapproof.runs.forked_work import side_by_side
from snapproof.runs.host_plan import hosts_at_once


def _after(seconds: float, value: int) -> int:
    time.sleep(seconds)
    return value


def _fail() -> int:
    raise UsageError("Nothing can be done with that.")


def test_results_are_in_the_order_of_the_works() -> None:
    """The one that ends last may be the first; there are more works than processes."""
    works = [partial(_after, 0.3, 1), *(partial(_after, 0.0, value) for value in (2, 3, 4))]
    assert side_by_side(works, 2) == [1, 2, 3, 4]
    assert side_by_side([], 2) == []


def test_no_more_than_the_given_number_at_a_time(tmp_path: Path) -> None:
    """Each counts those that are at work beside it."""

    def work(name: str) -> int:
        mark = tmp_path / name
        mark.touch()
        time.sleep(0.2)
        beside = len(list(tmp_path.iterdir()))
        mark.unlink()
        return beside

    assert max(side_by_side([partial(work, name) for name in "abcd"], 2)) == 2


def test_an_error_comes_out_and_ends_the_others(tmp_path: Path) -> None:
    """It has its class and sentence; the other process cleans up, and none is left."""
    cleaned = tmp_path / "cleaned"

    def long() -> int:
        try:
            time.sleep(60)
        finally:
            cleaned.touch()
        return 0

    def fail_later() -> int:
        time.sleep(0.5)
        return _fail()

    def interrupt(_signum: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before, handler = session_members(os.getsid(0)), signal.signal(signal.SIGTERM, interrupt)
    begun = time.monotonic()
    try:
        with pytest.raises(UsageError, match="Nothing can be done"):
            side_by_side([long, fail_later], 2)
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert time.monotonic() - begun < 50
    assert cleaned.exists()
    mine = [pid for pid in session_members(os.getsid(0)) if pid not in before]
    assert not [pid for pid in mine if _parent(pid) == os.getpid()]


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def test_a_process_without_a_result_is_an_error() -> None:
    """It may have been killed."""
    with pytest.raises(SetupBroken, match="ended without a result"):
        side_by_side([lambda: os.kill(os.getpid(), signal.SIGKILL)], 1)


@pytest.mark.parametrize(
    ("cpus", "memory_mib", "jobs", "expected"),
    [(2, 24000, None, 2), (8, 6200, None, 2), (8, 2000, None, 1), (2, 24000, 1, 1), (2, 24000, 5, 5)],
)
def test_hosts_at_once(cpus: int, memory_mib: int, jobs: int | None, expected: int) -> None:
    """One for each processor where the memory is enough, one at least, and as many as asked for."""
    assert hosts_at_once(HostFacts("6.1", "x86_64", cpus, memory_mib, 0), jobs) == expected
