"""Feature tests of writes by other processes: process_vm_writev, /proc/PID/mem, ptrace."""

from __future__ import annotations

import ctypes
import errno
import os
import socket

from harness.userfaultfd import libc

from ..calls import CallThread
from ..memory import ANON, ANON_THP, HUGETLB, SHMEM
from ..oracle import LATE, blocked, next_fault, release, write_waits
from ..registry import feature_test
from ..trial import Trial

_NEEDS = ("kernel-faults",)


@feature_test("R24", memory=(ANON, ANON_THP, SHMEM, HUGETLB), needs=_NEEDS)
def another_process_waits(trial: Trial) -> None:
    """A process_vm_writev(2) of another process to a protected page waits for the release."""
    region, uffd = trial.protected()
    owner = os.getpid()

    def write(address: int) -> int:
        pid = os.fork()
        if pid == 0:
            try:
                os._exit(_vm_write(owner, address))
            finally:
                os._exit(99)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    trial.equal(write_waits(trial, region, uffd, 2, write=write), 0, "The other process's exit code")


def _vm_write(pid: int, address: int) -> int:
    buffer = ctypes.create_string_buffer(LATE, len(LATE))
    local = (ctypes.c_uint64 * 2)(ctypes.addressof(buffer), len(LATE))
    remote = (ctypes.c_uint64 * 2)(address, len(LATE))
    done = libc.LIBC.process_vm_writev(pid, local, 1, remote, 1, 0)
    return 0 if done == len(LATE) else ctypes.get_errno() or 98


@feature_test("R24", memory=(ANON, SHMEM), needs=_NEEDS)
def a_write_by_force_leaks_nothing(trial: Trial) -> None:
    """A write by /proc/PID/mem to a protected page waits for the release, or fails with EIO.

    So a debugger that writes this way cannot tear a snapshot.
    """
    region, uffd = trial.protected()
    memory = trial.enter(open("/proc/self/mem", "r+b", buffering=0))  # noqa: PTH123, SIM115
    with CallThread(trial, os.pwrite, memory.fileno(), LATE, region.at(2)) as thread:
        if blocked(trial, uffd, thread):
            next_fault(trial, uffd, thread)
            trial.check_content(region, [2])
            release(uffd, region, 2)
            trial.equal(thread.finish(), len(LATE), "The result of pwrite")
            trial.note("the write waits")
            return
        error = thread.error
        thread.error = None
    # The kernel looks the page up without FAULT_FLAG_ALLOW_RETRY, so it cannot wait for a monitor.
    trial.check(
        isinstance(error, OSError) and error.errno == errno.EIO,
        f"The write to /proc/self/mem ended with {error!r}, expected EIO.",
    )
    trial.equal(uffd.read_events(0), [], "The events")
    trial.check_content(region)
    trial.note("the write fails with EIO")
    write_waits(trial, region, uffd, 2)


@feature_test("R24", memory=(ANON, SHMEM), needs=("kernel-faults", "ptrace"))
def a_debuggers_write_leaks_nothing(trial: Trial) -> None:
    """A PTRACE_POKEDATA to a protected page waits for the release, or fails and writes nothing."""
    region, uffd = trial.protected()
    # linux/prctl.h: PR_SET_PTRACER with PR_SET_PTRACER_ANY, for Yama.
    libc.LIBC.prctl(0x59616D61, ctypes.c_ulong(-1), 0, 0, 0)
    control, other = socket.socketpair()
    trial.enter(control)
    trial.enter(other)
    with CallThread(trial, other.recv, 1) as victim:
        trial.check(victim.waits(), "The thread to be traced has ended already.")
        pid = os.fork()
        if pid == 0:
            os._exit(_poke(victim.thread_id, region.at(2)))
        events = uffd.read_events(0.5)
        trial.check_content(region, [2])
        if events:
            release(uffd, region, 2)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        control.send(b"x")
        victim.finish()
    if events:
        trial.equal(code, 0, "The debugger's exit code after the release")
    else:
        trial.check(
            code in {errno.EIO, errno.EFAULT},
            f"PTRACE_POKEDATA ended with errno {code}, expected EIO or EFAULT.",
        )
        trial.check_content(region)
        write_waits(trial, region, uffd, 2)
    trial.note("the write waits" if events else f"the write fails with {errno.errorcode[code]}")


def _poke(thread: int, address: int) -> int:
    """Write a word to a traced thread's memory; return 0 or an errno. Request numbers: linux/ptrace.h."""
    ptrace = libc.LIBC.ptrace
    ptrace.restype = ctypes.c_long
    ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    if ptrace(16, thread, None, None) != 0:
        return ctypes.get_errno()
    os.waitpid(thread, 0x40000000)  # __WALL: the traced thread is not a child of this process
    done = ptrace(5, thread, address, 0x6574616C)
    code = 0 if done == 0 else ctypes.get_errno()
    ptrace(17, thread, None, None)
    return code
