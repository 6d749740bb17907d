"""Contract: what QEMU has open and what it started are compared by number, name and count."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.codes import Code
from harness.linux.kernel_log import Ours, Splat
from harness.qemu.machine import Machine
from tests_unit.support.scenario_values import HOST, codes
from validators.oracles.o6_host import host_state
from validators.oracles.o6_host.host import check_host
from validators.oracles.o6_host.host_state import HostState, Started, capture_host_state, open_files

_EVENTFD = "anon_inode:[eventfd]"
_DISK, _FLASH = "/t/disk.qcow2", "/t/uefi-variables.fd"
_Files = tuple[tuple[int, str], ...]


def _host(**changes: Any) -> HostState:
    return replace(HOST, **changes)


@pytest.mark.parametrize(
    ("then", "now", "found"),
    [
        ((), (), []),
        (((3, "a"),), ((3, "a"),), []),
        (((3, "a"),), ((3, "a"), (4, "a")), [Code.HOST_FILE_LEFT_OPEN]),
        (((3, "a"),), ((3, "a"), (4, "b"), (5, "c")), [Code.HOST_FILE_LEFT_OPEN] * 2),
        (((3, "a"), (4, "a")), ((3, "a"),), [Code.HOST_FILE_CLOSED]),
        (((3, "a"),), ((4, "a"),), [Code.HOST_FILE_CLOSED]),
        (((3, "a"),), ((3, "b"),), [Code.HOST_FILE_LEFT_OPEN, Code.HOST_FILE_CLOSED]),
        (((3, "pipe:[7]"),), ((3, "pipe:[7]"), (4, "pipe:[8]")), [Code.HOST_FILE_LEFT_OPEN]),
        (((3, "pipe:[7]"),), ((3, "pipe:[8]"),), [Code.HOST_FILE_CLOSED]),
        (((3, _EVENTFD),), ((4, _EVENTFD),), []),
        (((3, _EVENTFD),), (), []),
        (((3, _EVENTFD),), ((3, _EVENTFD), (4, _EVENTFD)), [Code.HOST_FILE_LEFT_OPEN]),
        (((0, "a"),), (), [Code.HOST_FILE_CLOSED]),
        (((3, _DISK), (4, _FLASH)), ((3, _FLASH), (4, _EVENTFD), (5, _DISK)), [Code.HOST_FILE_LEFT_OPEN]),
        (((3, _DISK), (4, _FLASH)), ((3, _FLASH), (5, _DISK)), []),
        (((3, _DISK), (4, _DISK)), ((5, _DISK),), [Code.HOST_FILE_CLOSED]),
        (((3, _DISK), (4, _FLASH)), ((3, _FLASH),), [Code.HOST_FILE_CLOSED]),
        (((3, "/t/disk.qcow2.old"),), ((4, "/t/disk.qcow2.old"),), [Code.HOST_FILE_CLOSED]),
    ],
)
def test_files_of_qemu(then: _Files, now: _Files, found: list[Code]) -> None:
    """One more of a name is left open; a number of another file, or none, was closed; some may move."""
    assert codes(check_host(_host(descriptors=then), _host(descriptors=now))) == found


@pytest.mark.parametrize(
    ("then", "now", "pids"),
    [
        ((), (Started(71, "cat"),), [71]),
        ((Started(71, "cat"),), (Started(71, "cat"),), []),
        ((Started(71, "cat"),), (Started(72, "cat"),), [72]),
        ((Started(71, "cat"),), (), []),
        ((), (Started(71, "cat"), Started(72, "sh", reads_from_qemu=True)), [71, 72]),
    ],
)
def test_processes_that_qemu_started(
    then: tuple[Started, ...], now: tuple[Started, ...], pids: list[int]
) -> None:
    """Only new ones are left over; known issues tell them apart by program and input."""
    found = check_host(_host(processes=then), _host(processes=now)).violations
    assert [violation.code for violation in found] == [Code.HOST_PROCESS_LEFT] * len(pids)
    by_pid = {process.pid: process for process in now}
    assert [violation.fields for violation in found] == [
        {"program": by_pid[pid].program, "reads": "qemu" if by_pid[pid].reads_from_qemu else ""}
        for pid in pids
    ]


_OURS = Splat(9, "BUG: x", 60, "qemu-system-x86")
_OTHERS = Splat(9, "BUG: x", 90, "cc1")


@pytest.mark.parametrize(
    ("then", "now", "found"),
    [
        ((), (_OURS,), [Code.HOST_SPLAT]),
        ((_OURS,), (_OURS,), []),
        ((_OURS,), (_OURS, replace(_OURS, number=10)), [Code.HOST_SPLAT]),
        ((), (_OTHERS,), []),
        (None, (_OURS,), []),
        ((), None, []),
    ],
)
def test_kernel_log(then: Any, now: Any, found: list[Code]) -> None:
    """A new splat of ours counts, by its number; a log that could not be read before has no new ones."""
    assert codes(check_host(_host(splats=then), _host(splats=now))) == found


def test_threads_of_before_and_after_are_ours() -> None:
    """A thread that has ended since, and one that was started since."""
    none = Ours(frozenset(), frozenset())
    for before, after in ((HOST.ours, none), (none, HOST.ours)):
        assert codes(
            check_host(_host(ours=before), _host(ours=after, splats=(*(HOST.splats or ()), _OURS)))
        ) == [Code.HOST_SPLAT]


@pytest.mark.parametrize(
    ("then", "now", "own", "found", "fact"),
    [
        (0, 128, True, [Code.HOST_SPLAT, Code.HOST_TAINTED], None),
        (0, 128, False, [], "from 0 to 128"),
        (128, 128, True, [Code.HOST_SPLAT], None),
        (0, 4096, True, [Code.HOST_SPLAT], "from 0 to 4096"),
    ],
)
def test_taint_of_the_kernel(then: int, now: int, own: bool, found: list[Code], fact: str | None) -> None:
    """Ours only beside a splat of ours that sets such a bit; else it is told as a fact."""
    splats = (*(HOST.splats or ()), _OURS) if own else HOST.splats
    result = check_host(_host(tainted=then), _host(tainted=now, splats=splats))
    assert codes(result) == found
    assert result.facts.get("taint changed, not told by whom") == fact


@pytest.mark.parametrize(("count", "more"), [(5, ""), (6, " and 1 more"), (7, " and 2 more")])
def test_messages_about_others(count: int, more: str) -> None:
    """Five are told, and the number of the rest."""
    splats = tuple(replace(_OTHERS, number=number) for number in range(10, 10 + count))
    fact = check_host(_host(splats=()), _host(splats=splats)).facts["kernel messages about others"]
    assert fact == "; ".join(splat.words for splat in splats[:5]) + more


def test_open_files_are_in_order(tmp_path: Any) -> None:
    """Each by number and name, so that two states of one process can be compared."""
    with (tmp_path / "b").open("w") as first, (tmp_path / "a").open("w") as second:
        found = open_files(os.getpid())
        assert list(found) == sorted(found)
        assert {(file.fileno(), file.name) for file in (first, second)} <= set(found)


def test_vanished_descriptor_is_left_out() -> None:
    """Reading the folder opens it for a moment; its number is none of those that stay, and hides none."""
    lower, higher = sorted(os.pipe())
    os.close(lower)
    found = dict(open_files(os.getpid()))
    assert higher in found
    assert {number: str(Path(f"/proc/self/fd/{number}").readlink()) for number in found} == found
    os.close(higher)


_LEADER = """
import subprocess, sys
reads = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
other = subprocess.Popen(["sleep", "60"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
print(reads.pid, other.pid, flush=True)
sys.stdin.read()
reads.kill(), other.kill()
"""


def test_state_of_a_session(tmp_path: Path) -> None:
    """What QEMU started is listed with what it reads from; only names of QEMU's programs are ours."""
    # The kernel takes any bytes for a name.
    program = tmp_path / os.fsdecode(b"qemu-\xff")
    program.symlink_to(sys.executable)
    with subprocess.Popen(
        [program, "-c", _LEADER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as leader:
        assert leader.stdout is not None
        reads, other = map(int, leader.stdout.readline().split())
        state = capture_host_state(cast(Machine, SimpleNamespace(pid=leader.pid)))
        ended = subprocess.Popen(["true"])
        ended.wait()
        children = host_state._children(
            leader.pid, [ended.pid, reads, ended.pid, leader.pid], state.descriptors
        )
        leader.communicate(b"")
    assert state.processes == tuple(
        sorted([Started(reads, "cat", reads_from_qemu=True), Started(other, "sleep")])
    )
    assert children == (Started(reads, "cat", reads_from_qemu=True),)
    assert state.ours.programs == {"qemu-\ufffd"}
