"""The part of the program for hosts that moves memory between nodes, with settings in files of the test."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests_functional.hosts import on_host_balance
from tests_functional.hosts.on_host_balance import Balancing, CannotBalance, moved_pages, pin


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put the kernel's switch and its settings, old place and new, into files; there is another node."""
    (tmp_path / "numa_balancing").write_text("0\n")
    (tmp_path / "numa_balancing_scan_delay_ms").write_text("1000\n")
    (tmp_path / "debug").mkdir()
    (tmp_path / "debug/scan_period_max_ms").write_text("60000\n")
    monkeypatch.setattr(on_host_balance, "_BALANCING", str(tmp_path / "numa_balancing"))
    monkeypatch.setattr(on_host_balance, "_PACES", (f"{tmp_path}/numa_balancing_", f"{tmp_path}/debug/"))
    monkeypatch.setattr(on_host_balance, "_OTHER_NODE", str(tmp_path))
    monkeypatch.setattr(on_host_balance, "_STAY_SECONDS", 0.02)
    return tmp_path


def test_memory_is_balanced_meanwhile_alone(settings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The switch is as before afterwards, the settings that exist are set, and moved pages are counted."""
    counts = iter((300, 1700))
    monkeypatch.setattr(on_host_balance, "moved_pages", lambda: next(counts))
    with Balancing(os.getpid()) as balancing:
        assert (settings / "numa_balancing").read_text() == "1"
        assert (settings / "numa_balancing_scan_delay_ms").read_text() == "100"
        assert (settings / "debug/scan_period_max_ms").read_text() == "200"
        assert not (settings / "debug/scan_delay_ms").exists()
    assert balancing.moved == 1400
    assert (settings / "numa_balancing").read_text() == "0"


@pytest.mark.parametrize("missing", ["_BALANCING", "_OTHER_NODE"])
@pytest.mark.usefixtures("settings")
def test_a_host_with_one_node_cannot(missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor one whose kernel has no balancing."""
    monkeypatch.setattr(on_host_balance, missing, str(tmp_path / "none"))
    with pytest.raises(CannotBalance, match="one NUMA node"):
        Balancing(os.getpid())


@pytest.mark.usefixtures("settings")
def test_threads_change_processors_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """All threads of the process go from one to the next, and may run on each of them afterwards."""
    seen: list[set[int]] = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(on_host_balance, "pin", lambda _, processors: seen.append(set(processors)))
    with Balancing(os.getpid()):
        while len(seen) < 4:
            time.sleep(0.01)
    assert seen[:4] == [{0}, {1}, {0}, {1}]
    assert seen[-1] == {0, 1}


def test_a_process_is_pinned() -> None:
    """And one that has ended is no error."""
    first = min(os.sched_getaffinity(0))
    child = subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE)
    pin(child.pid, {first})
    assert os.sched_getaffinity(child.pid) == {first}
    child.communicate()
    pin(child.pid, {first})


def test_moved_pages_are_those_of_this_kernel() -> None:
    """A kernel without balancing has moved none."""
    lines = dict(line.split() for line in Path("/proc/vmstat").read_text().splitlines())
    assert moved_pages() >= int(lines.get("numa_pages_migrated", 0))
