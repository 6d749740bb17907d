"""The kernel's log: each splat is found, with the task that it happened in, and told from other jobs'."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.linux import kernel_log
from harness.linux.kernel_log import (
    LogFollower,
    Ours,
    Splat,
    ours,
    read_splats,
    splats_in,
    taint_by_splat,
)

_NOBODY = Ours(frozenset(), frozenset())

# As /dev/kmsg gives it: one record per read, EPIPE where one was overwritten, then EAGAIN.
_KMSG: tuple[bytes | int, ...] = (
    b"6,100,5000,-;eth0: link up of \xff\n",
    b"4,101,5001,-;WARNING: CPU: 1 PID: 9 at mm/memory.c:77 wp_page\n SUBSYSTEM=BUG: not this line\n",
    errno.EPIPE,
    b"3,140,5002,-;INFO: task qemu-system-x86:411 blocked for more than 120 seconds.\n",
    b"1,141,5003,-;BUG: unable to handle page fault for address: ffff\n",
    b"0,142,5004,-;watchdog: BUG: soft lockup - CPU#0 stuck for 26s! [cat:7]\n",
    b"6,143,5005,-;debug: harmless\n",
)


def _kmsg(monkeypatch: pytest.MonkeyPatch, records: tuple[bytes | int, ...], at_open: int = 0) -> list[int]:
    """Let kernel_log read these records; returns the descriptors that it has closed."""
    closed: list[int] = []
    left = [*records, errno.EAGAIN]

    def read(_descriptor: int, _size: int) -> bytes:
        record = left.pop(0)
        if isinstance(record, int):
            raise OSError(record, os.strerror(record))
        return record

    def open_(_path: str, flags: int) -> int:
        assert flags & os.O_NONBLOCK, "the read at the end of the log would wait for the next record"
        if at_open:
            raise OSError(at_open, os.strerror(at_open))
        return 99

    fake = SimpleNamespace(
        open=open_,
        read=read,
        close=closed.append,
        O_RDONLY=os.O_RDONLY,
        O_NONBLOCK=os.O_NONBLOCK,
    )
    monkeypatch.setattr(kernel_log, "os", fake)
    return closed


def test_splats_in_the_kernels_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kind is found, with the number that tells it from an equal one; a lost record is no end."""
    closed = _kmsg(monkeypatch, _KMSG)
    splats = read_splats(_NOBODY)
    assert splats is not None
    assert [splat.number for splat in splats] == [101, 140, 141, 142]
    assert "not this line" not in "".join(splat.text for splat in splats)
    assert closed == [99]


def test_kernel_log_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that is closed to us or breaks off does not count as one without splats."""
    _kmsg(monkeypatch, (), at_open=errno.EPERM)
    assert read_splats(_NOBODY) is None
    assert _kmsg(monkeypatch, (*_KMSG, errno.EINVAL)) == []
    assert read_splats(_NOBODY) is None


@pytest.mark.parametrize(
    ("lines", "tasks"),
    [
        (["WARNING: CPU: 1 PID: 9 at mm/memory.c:77 wp_page+0x1/0x2"], [(9, "")]),
        (
            [
                "WARNING: CPU: 1 PID: 9 at mm/memory.c:77 wp_page+0x1/0x2",
                "Modules linked in: tun",
                "CPU: 1 UID: 0 PID: 9 Comm: CPU 0/KVM Not tainted 6.12.43 #1",
            ],
            [(9, "CPU 0/KVM")],
        ),
        (
            ["WARNING: mm/memory.c:77 at wp_page+0x1/0x2, CPU#1: qemu-system-x86/411"],
            [(411, "qemu-system-x86")],
        ),
        (["watchdog: BUG: soft lockup - CPU#0 stuck for 26s! [kworker/0:1:7]"], [(7, "kworker/0:1")]),
        (["INFO: task CPU 0/TCG:411 blocked for more than 120 seconds."], [(411, "CPU 0/TCG")]),
        (["traps: python3[90] general protection fault ip:1 sp:2 error:0"], [(90, "python3")]),
        (["BUG: scheduling while atomic: cc1/12/0x00000002"], [(12, "cc1")]),
        (
            [
                "BUG: KASAN: use-after-free in userfaultfd_release",
                "Write of size 8 at addr ff by task make/8",
            ],
            [(8, "make")],
        ),
        (
            [
                "BUG: unable to handle page fault for address: ffff",
                "Oops: Oops: 0002 [#1] SMP",
                "CPU: 0 PID: 411 Comm: qemu-system-x86 Kdump: loaded Tainted: G W 6.1",
            ],
            [(411, "qemu-system-x86")] * 2,
        ),
        # Another event's trace does not name the task of one that has ended.
        (
            [
                "BUG: Bad page state in process x  pfn:1",
                "---[ end trace 0000000000000000 ]---",
                "CPU: 0 PID: 411 Comm: qemu-system-x86 Not tainted 6.1",
            ],
            [(None, "")],
        ),
        (
            [
                "WARNING: CPU: 1 PID: 9 at mm/memory.c:77 wp_page+0x1/0x2",
                "CPU: 0 PID: 411 Comm: qemu-system-x86 Not tainted 6.1",
            ],
            [(9, "")],
        ),
        # The first name counts; what comes later is another event's.
        (
            [
                "WARNING: mm/memory.c:77 at wp_page+0x1/0x2, CPU#1: qemu-system-x86/411",
                "CPU: 0 PID: 411 Comm: cc1 Not tainted 6.1",
            ],
            [(411, "qemu-system-x86")],
        ),
        (["python3[5]: segfault at 0 ip 0", "zram: Added device: zram1"], []),
        (["rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:"], [(None, "")]),
        (
            ["BUG: Bad rss-counter state mm:1 type:MM_ANONPAGES val:1 Comm:qemu-system-x86 Pid:411"],
            [(411, "qemu-system-x86")],
        ),
    ],
)
def test_the_task_of_a_splat(lines: list[str], tasks: list[tuple[int | None, str]]) -> None:
    """The reader finds the task in each form that kernels from 5.7 to 7.0 print."""
    found = splats_in(enumerate(lines, 1000))
    assert [(splat.pid, splat.program) for splat in found] == tasks


def test_the_task_is_not_looked_for_for_ever() -> None:
    """A task named long after a splat is another event's."""
    lines = [
        "UBSAN: shift-out-of-bounds in x.c",
        *["eth0: link up"] * 300,
        "CPU: 0 PID: 4 Comm: a Not tainted",
    ]
    assert [splat.pid for splat in splats_in(enumerate(lines))] == [None]


def test_ours_are_threads_by_their_ids() -> None:
    """A thread of a process counts as the process does; another process does not."""
    done, begun = threading.Event(), threading.Event()
    ids: list[int] = []

    def run() -> None:
        ids.append(threading.get_native_id())
        begun.set()
        done.wait(10)

    thread = threading.Thread(target=run)
    thread.start()
    begun.wait(10)
    mine = ours([os.getpid()], [])
    done.set()
    thread.join()
    assert mine.did(Splat(1, "BUG: x", ids[0], "python3"))
    assert not mine.did(Splat(1, "BUG: x", os.getppid(), "python3"))
    assert not mine.did(Splat(1, "BUG: x"))


def test_a_living_thread_of_another_is_told_by_its_id(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another job's QEMU has the name of ours; while it lives its id says that it is not."""
    mine = ours([os.getpid()], ["qemu-system-x86"])
    line = "4,{},5001,-;WARNING: mm/memory.c:77 at wp_page, CPU#1: qemu-system-x86/{}\n"
    gone = 4194304 + 1
    records = tuple(line.format(n, pid).encode() for n, pid in enumerate((os.getppid(), gone, os.getpid())))
    _kmsg(monkeypatch, records)
    assert [mine.did(splat) for splat in read_splats(mine) or ()] == [False, True, True]


def test_in_a_container_ids_say_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log has the ids of the first namespace, so an equal id of ours is chance."""
    monkeypatch.setattr(kernel_log, "_FIRST_PID_NAMESPACE", "pid:[1]")
    mine = ours([os.getpid()], ["qemu-system-x86"])
    assert not mine.did(Splat(1, "BUG: x", os.getpid(), "cc1"))
    assert mine.did(Splat(1, "BUG: x", 5, "qemu-system-x86"))
    line = f"4,7,5001,-;WARNING: mm/memory.c:77 at wp_page, CPU#1: qemu-system-x86/{os.getppid()}\n"
    _kmsg(monkeypatch, (line.encode(),))
    (splat,) = read_splats(mine) or ()
    assert splat.elsewhere is False


def test_ids_of_an_unknown_namespace_say_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As in a container, if /proc does not tell which namespace ours is."""
    monkeypatch.setattr(kernel_log, "Path", lambda _path: tmp_path / "none")
    assert kernel_log._pids_are_the_kernels() is False
    assert ours([os.getpid()], ["x"]) == Ours(frozenset(), frozenset({"x"}))


def test_process_that_has_ended_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its threads cannot be listed any more, but its id is known."""
    monkeypatch.setattr(kernel_log, "_pids_are_the_kernels", lambda: True)
    gone = 4194304 + 1
    assert ours([gone], []) == Ours(frozenset({gone}), frozenset())


@pytest.mark.parametrize(
    ("before", "now", "bits"),
    [(0, 512, 512), (512, 512, 0), (0, 4096, 0), (512, 4096 | 640, 128), (None, 32, 32), (0, None, 0)],
)
def test_taint_that_a_splat_sets(before: int | None, now: int | None, bits: int) -> None:
    """Only new taint bits of bad page, died, warned and soft lockup count."""
    assert taint_by_splat(before, now) == bits


def test_taint_is_that_of_this_kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Or unknown."""
    assert kernel_log.taint() == int(Path("/proc/sys/kernel/tainted").read_text())
    open_files = len(list(Path("/proc/self/fd").iterdir()))
    for name, content, expected in (
        ("none", None, None),
        ("text", "unknown", None),
        ("mask", "4609\n", 4609),
    ):
        if content is not None:
            (tmp_path / name).write_text(content)
        monkeypatch.setattr(kernel_log, "_TAINT_FILE", str(tmp_path / name))
        assert kernel_log.taint() == expected
    assert len(list(Path("/proc/self/fd").iterdir())) == open_files


def test_only_the_beginning_of_an_endless_log_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log to which lines are added as fast as it is read ends at the limit."""
    records = [record for record in _KMSG[:2] if isinstance(record, bytes)]
    _kmsg(monkeypatch, (*records, *_KMSG[3:]))
    monkeypatch.setattr(kernel_log, "_LIMIT_BYTES", sum(map(len, records)))
    assert [splat.number for splat in read_splats(_NOBODY) or ()] == [101]


@pytest.mark.parametrize(("between", "pid"), [(198, 4), (199, None)])
def test_the_task_belongs_to_a_splat_within_200_lines(between: int, pid: int | None) -> None:
    """The longest trace has some 200 lines."""
    lines = ["UBSAN: shift in x.c", *["eth0: link up"] * between, "CPU: 0 PID: 4 Comm: a Not tainted"]
    assert [splat.pid for splat in splats_in(enumerate(lines))] == [pid]


@pytest.mark.parametrize("bit", range(20))
def test_bits_of_taint_are_those_of_the_kernels_documentation(bit: int) -> None:
    """admin-guide/tainted-kernels.rst: 5 is a bad page, 7 died, 9 warned, 14 a soft lockup."""
    assert bool(taint_by_splat(0, 1 << bit)) == (bit in (5, 7, 9, 14))


def test_what_is_ours_in_either_set_is_ours_in_both_together() -> None:
    """Processes of two QEMUs, or names of two of them, are added up; nothing of one of them is lost."""
    one, two = Ours(frozenset({7}), frozenset({"a"})), Ours(frozenset({8}), frozenset({"b"}))
    assert one | two == Ours(frozenset({7, 8}), frozenset({"a", "b"}))


def test_a_crash_is_ours_by_its_process_alone() -> None:
    """A QEMU of another job has the name of ours, so a crash is told by its process, a BUG by name too."""
    mine = Ours(frozenset({7}), frozenset({"qemu-system-x86"}))
    crash = "traps: qemu-system-x86[9] general protection fault"
    assert mine.did(Splat(1, crash, 9, "qemu-system-x86")) is False
    assert mine.did(Splat(1, crash, 7, "qemu-system-x86"))
    assert mine.did(Splat(1, "BUG: x", 9, "qemu-system-x86"))
    assert not mine.did(Splat(1, "BUG: x", 9, "qemu-system-x86", elsewhere=True))


def test_a_followed_log_gives_each_splat_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call reads on where the last one ended; nothing new is not the same as a log closed to us."""
    lines = [b"4,7,1,-;WARNING: CPU: 1 PID: 9 at mm/memory.c:77\n", b"6,8,2,-;eth0: link up\n"]
    later = b"3,9,3,-;BUG: Bad page state\n"
    closed = _kmsg(monkeypatch, (*lines, errno.EAGAIN, errno.EAGAIN, later, errno.EAGAIN))
    log = LogFollower()
    found = [read_splats(_NOBODY, log) for _ in range(4)]
    assert [[splat.number for splat in splats or ()] for splats in found] == [[7], [], [9], []]
    assert None not in found
    del log
    assert closed == [99]


def test_a_followed_log_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says so each time, and does not count as a log without splats."""
    _kmsg(monkeypatch, (), at_open=errno.EPERM)
    log = LogFollower()
    assert (read_splats(_NOBODY, log), read_splats(_NOBODY, log)) == (None, None)
    _kmsg(monkeypatch, (errno.EINVAL,))
    assert read_splats(_NOBODY, LogFollower()) is None
