"""Contract: the writers' counters are read from a running process's memory, long gaps with their times."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from harness.deadline import Deadline
from harness.errors import SetupBroken
from harness.machine import Machine
from harness.ram import RamBlock
from tests_functional.scenarios import agent, standstill
from tests_functional.scenarios.agent import AgentWindow
from tests_unit.agent_host import HostAgent

pytest_plugins = ["tests_unit.agent_fixtures"]

Serve = Callable[..., HostAgent]
PAGE_BYTES = 4096


@pytest.fixture
def writing(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> tuple[HostAgent, AgentWindow]:
    """A writing agent on this host, and a window on it, as if its memory were guest RAM."""
    host = serve(bytes=200 * PAGE_BYTES, threads=2, rate=2000)
    host.ctl("start")
    host.run_until(50)
    monkeypatch.setattr(agent, "ramblocks", lambda machine: _memory(machine.process.pid))
    return host, AgentWindow(_machine(host.pid), host.ctl("status")["nonce"])


def _machine(pid: int) -> Machine:
    return cast(Machine, SimpleNamespace(process=SimpleNamespace(pid=pid)))


def _memory(pid: int) -> list[RamBlock]:
    """The anonymous mappings of a process that it may write."""
    blocks = []
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        fields = line.split()
        if fields[1].startswith("rw") and len(fields) == 5:
            start, end = (int(number, 16) for number in fields[0].split("-"))
            blocks.append(RamBlock(fields[0], end - start, start))
    return blocks


def _stopped(host: HostAgent, seconds: float) -> None:
    """Hold the agent up as a whole."""
    os.kill(host.pid, signal.SIGSTOP)
    time.sleep(seconds)
    os.kill(host.pid, signal.SIGCONT)


def _wait_for_steps(window: AgentWindow) -> None:
    """Wait until each writer has gone on."""
    then = window.steps()
    Deadline(20).wait_for(
        lambda: all(now >= one + 2 for now, one in zip(window.steps(), then, strict=True)), "Two steps", 0.001
    )


def test_long_gaps_carry_their_time(writing: tuple[HostAgent, AgentWindow]) -> None:
    """A gap before the guest went on is none of the save's, the same gap after it is.

    A busy host may hold the writers up as well, hence less than the gap, and not nearly nothing.
    """
    host, window = writing
    host.ctl("reset-stats")
    _stopped(host, 0.4)
    _wait_for_steps(window)
    assert standstill.end(window, time.time()).gap_us < 300_000
    resumed = time.time()
    _stopped(host, 0.4)
    assert 300_000 < standstill.end(window, resumed).gap_us < 2_000_000


def test_more_long_gaps_than_the_agent_keeps(writing: tuple[HostAgent, AgentWindow]) -> None:
    """Seventeen of one writer are said to be too many, and a reset forgets them."""
    host, window = writing
    host.ctl("reset-stats")
    stops, limit = 0, Deadline(60)
    while window.long_gaps() is not None and not limit.expired:
        _stopped(host, 0.1)
        _wait_for_steps(window)
        stops += 1
    # A busy host can make one of its own, and can be late to stop a writer.
    assert 10 < stops < 40
    assert window.long_gaps() is None
    host.ctl("reset-stats")
    assert len(window.long_gaps() or ()) < 17


def test_agent_that_is_not_there(writing: tuple[HostAgent, AgentWindow]) -> None:
    """Another nonce is another agent."""
    with pytest.raises(SetupBroken, match="were not found"):
        AgentWindow(_machine(writing[0].pid), 12345)
