"""Contract: the writers' counters are read from a running process's memory, long gaps with their times."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from guest_images.agent import counters as module
from guest_images.agent.counters import AgentCounters, CounterPage
from guest_images.agent.format import LONG_GAPS_KEPT, PAGE_BYTES
from harness.deadline import Deadline
from harness.errors import SetupBroken
from harness.qemu.guest_memory import QemuMemoryGone
from harness.qemu.machine import Machine
from harness.qemu.ram import RamBlock
from tests_functional.lib import stalls
from tests_unit.guest_images.agent.agent_host import HostAgent

pytest_plugins = ["tests_unit.guest_images.agent.agent_fixtures"]

Serve = Callable[..., HostAgent]


@pytest.fixture
def writing(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> tuple[HostAgent, AgentCounters]:
    """A writing agent on this host, and its counters, as if its memory were guest RAM."""
    host = serve(bytes=200 * PAGE_BYTES, threads=2, rate=2000)
    host.ctl("start")
    host.run_until(50)
    monkeypatch.setattr(module, "ramblocks", lambda machine: _memory(machine.pid))
    return host, AgentCounters.find(_machine(host.pid), host.ctl("status")["nonce"])


def _machine(pid: int) -> Machine:
    return cast(Machine, SimpleNamespace(pid=pid))


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


def _wait_for_steps(counters: AgentCounters) -> None:
    """Wait until each writer has gone on."""
    then = counters.steps()
    Deadline(20).wait_for(
        lambda: all(now >= one + 2 for now, one in zip(counters.steps(), then, strict=True)),
        "Two steps",
        0.001,
    )


def test_long_gaps_carry_their_time(writing: tuple[HostAgent, AgentCounters]) -> None:
    """A gap before the guest went on is none of the save's, the same gap after it is.

    A busy host may hold the writers up as well, hence less than the gap, and not nearly nothing.
    """
    host, counters = writing
    host.ctl("reset-stats")
    _stopped(host, 0.4)
    _wait_for_steps(counters)
    assert stalls.end(counters, time.time()).gap_us < 300_000
    resumed = time.time()
    _stopped(host, 0.4)
    assert 300_000 < stalls.end(counters, resumed).gap_us < 2_000_000


def test_more_long_gaps_than_the_agent_keeps(writing: tuple[HostAgent, AgentCounters]) -> None:
    """Seventeen of one writer are said to be too many, and a reset forgets them."""
    host, counters = writing
    host.ctl("reset-stats")
    stops, limit = 0, Deadline(60)
    while counters.long_gaps() is not None and not limit.expired:
        _stopped(host, 0.1)
        _wait_for_steps(counters)
        stops += 1
    # A busy host can make one of its own, and can be late to stop a writer.
    assert 10 < stops < 40
    assert counters.long_gaps() is None
    host.ctl("reset-stats")
    assert len(counters.long_gaps() or ()) <= LONG_GAPS_KEPT


def test_agent_that_is_not_there(writing: tuple[HostAgent, AgentCounters]) -> None:
    """Another nonce is another agent."""
    with pytest.raises(SetupBroken, match="were not found"):
        AgentCounters.find(_machine(writing[0].pid), 12345)


def test_counters_agree_with_the_agent(writing: tuple[HostAgent, AgentCounters]) -> None:
    """The counters read from outside are the agent's, and their addresses alone find them again."""
    host, counters = writing
    host.ctl("pause")
    threads = host.ctl("status")["threads"]
    for found in (counters, AgentCounters(_machine(host.pid), counters.pages)):
        assert list(found.steps()) == [thread["steps"] for thread in threads]
        assert found.longest_write() * 1e6 == pytest.approx(max(thread["max_stall_us"] for thread in threads))
        assert found.longest_gap() * 1e6 == pytest.approx(max(thread["max_gap_us"] for thread in threads))
        assert found.longest_heartbeat_gap() > 0.009
        assert int(found.histogram().sum()) == sum(thread["timed"] for thread in threads)
        assert found.guest_clock() <= host.ctl("status")["monotonic_ns"] / 1e9


def test_pages_in_an_unknown_block(writing: tuple[HostAgent, AgentCounters]) -> None:
    """A RAMBlock that QEMU does not have is no place to read at."""
    host, counters = writing
    pages = replace(counters.pages, control=CounterPage("pc.rom", 0))
    with pytest.raises(SetupBroken, match="does not say"):
        AgentCounters(_machine(host.pid), pages)


def test_process_that_has_ended(writing: tuple[HostAgent, AgentCounters]) -> None:
    """A process that has no memory any more is told from one that cannot be read."""
    host, counters = writing
    os.kill(host.pid, signal.SIGKILL)
    Deadline(20).wait_for(lambda: not host.alive(), "The end of the agent")
    with pytest.raises(QemuMemoryGone):
        counters.steps()
    with pytest.raises(QemuMemoryGone):
        counters.guest_clock()
