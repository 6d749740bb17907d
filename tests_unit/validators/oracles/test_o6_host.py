"""Contract: what a snapshot leaves behind on the host and in QEMU is seen and named."""

from __future__ import annotations

import errno
import os
import socket
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests_unit.support.scenario_values import HOST, SINK, sentences
from validators.oracles.o6_host import host_state
from validators.oracles.o6_host.host import check_host
from validators.oracles.o6_host.host_state import kernel_splats, open_files


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"tainted": 512}, "The host kernel's taint changed from 0 to 512."),
        (
            {"splats": ("#5 WARNING: old", "#9 WARNING: old")},
            "The host kernel logged: #9 WARNING: old",
        ),
        (
            {"descriptors": (*HOST.descriptors, (5, "anon_inode:[userfaultfd]"))},
            "QEMU still has 'anon_inode:[userfaultfd]' open after the snapshot.",
        ),
        (
            {"descriptors": (*HOST.descriptors, (5, "pipe:[8]"))},
            "QEMU still has 'pipe' open after the snapshot.",
        ),
        (
            {"descriptors": HOST.descriptors[1:]},
            "QEMU has closed its descriptor 0, which was '/dev/null'.",
        ),
        (
            {"processes": (*HOST.processes, SINK)},
            "Process 71 that QEMU started is left over: cat, which reads from QEMU.",
        ),
    ],
)
def test_host_keeps_something(changes: dict[str, Any], sentence: str) -> None:
    """Each thing a snapshot may leave behind is named."""
    assert sentences(check_host(HOST, replace(HOST, **changes))) == [sentence]


def test_descriptor_closed_and_given_again() -> None:
    """A descriptor closed by mistake is found even where another file has got its number."""
    host = replace(HOST, descriptors=((0, "pipe:[9]"), *HOST.descriptors[1:]))
    assert sentences(check_host(HOST, host)) == [
        "QEMU still has 'pipe' open after the snapshot.",
        "QEMU has closed its descriptor 0, which was '/dev/null' and is now 'pipe:[9]'.",
    ]


def test_host_that_cannot_be_read() -> None:
    """Where the kernel's log is closed to us nothing is made up."""
    host = replace(HOST, splats=None)
    assert sentences(check_host(HOST, host)) == []


def test_open_files_of_a_process(tmp_path: Path) -> None:
    """A file, a pipe's ends and a kernel object are named, sockets are not; closed ones are gone."""
    before = set(open_files(os.getpid()))
    reading, writing = os.pipe()
    event = os.eventfd(0)
    with (tmp_path / "snapshot").open("w") as file, socket.socket():
        added = dict(set(open_files(os.getpid())) - before)
        assert added.pop(reading) == added.pop(writing)
        assert added == {file.fileno(): str(tmp_path / "snapshot"), event: "anon_inode:[eventfd]"}
    for descriptor in (reading, writing, event):
        os.close(descriptor)
    assert set(open_files(os.getpid())) == before


# As /dev/kmsg gives it: one record per read, EPIPE where one was overwritten, then EAGAIN.
_KMSG: tuple[bytes | int, ...] = (
    b"6,100,5000,-;eth0: link up\n",
    b"4,101,5001,-;WARNING: CPU: 1 PID: 9 at mm/memory.c:77 wp_page\n SUBSYSTEM=BUG: not this line\n",
    errno.EPIPE,
    b"3,140,5002,-;INFO: task qemu-system-x86:411 blocked for more than 120 seconds.\n",
    b"1,141,5003,-;BUG: unable to handle page fault for address: ffff\n",
    b"0,142,5004,-;watchdog: BUG: soft lockup - CPU#0 stuck for 26s! [cat:7]\n",
    b"6,143,5005,-;debug: harmless\n",
)


def _kmsg(monkeypatch: pytest.MonkeyPatch, records: tuple[bytes | int, ...], at_open: int = 0) -> list[int]:
    """Let host_state read these records; returns the descriptors that it has closed."""
    closed: list[int] = []
    left = [*records, errno.EAGAIN]

    def read(_descriptor: int, _size: int) -> bytes:
        record = left.pop(0)
        if isinstance(record, int):
            raise OSError(record, os.strerror(record))
        return record

    def open_(_path: str, _flags: int) -> int:
        if at_open:
            raise OSError(at_open, os.strerror(at_open))
        return 99

    fake = SimpleNamespace(
        open=open_, read=read, close=closed.append, O_RDONLY=os.O_RDONLY, O_NONBLOCK=os.O_NONBLOCK
    )
    monkeypatch.setattr(host_state, "os", fake)
    return closed


def test_splats_in_the_kernels_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kind is found, with the number that tells it from an equal one; a lost record is no end."""
    closed = _kmsg(monkeypatch, _KMSG)
    splats = kernel_splats()
    assert splats is not None
    assert [splat.split(" ")[0] for splat in splats] == ["#101", "#140", "#141", "#142"]
    assert "not this line" not in "".join(splats)
    assert closed == [99]


def test_kernel_log_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a closed log nor one that breaks off counts as one without splats."""
    _kmsg(monkeypatch, (), at_open=errno.EPERM)
    assert kernel_splats() is None
    assert _kmsg(monkeypatch, (*_KMSG, errno.EINVAL)) == []
    assert kernel_splats() is None
