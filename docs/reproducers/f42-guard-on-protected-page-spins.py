#!/usr/bin/env python3
# F42: MADV_GUARD_INSTALL of a protected page of shared memory never returns.
# Exit code: 1 the defect shows, 0 it does not, 2 not applicable, 3 this script did not work.
"""Run this without arguments, as root or with vm.unprivileged_userfaultfd=1.

It needs no QEMU and takes up to 5 s. A child makes the call and is killed. x86_64 only.
"""

import ctypes
import fcntl
import mmap
import os
import resource
import signal
import struct
import sys
import time

PAGES, PAGE = 8, 4096
MADV_GUARD_INSTALL, SYS_USERFAULTFD = 102, 323
UFFDIO_API, UFFDIO_REGISTER, UFFDIO_WRITEPROTECT = 0xC018AA3F, 0xC020AA00, 0xC018AA06
SECONDS = 5

sys.excepthook = lambda *error: (sys.__excepthook__(*error), os._exit(3))
libc = ctypes.CDLL(None, use_errno=True)


def guard(protect):
    """Install a guard on a page of shared memory in a child; return its exit code, None if it hangs."""
    area = mmap.mmap(-1, PAGES * PAGE, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
    area[:] = b"y" * len(area)
    start = ctypes.addressof(ctypes.c_char.from_buffer(area))
    child = os.fork()
    if child == 0:
        area[:] = b"z" * len(area)
        if protect:
            fd = libc.syscall(SYS_USERFAULTFD, os.O_CLOEXEC | os.O_NONBLOCK)
            fcntl.ioctl(fd, UFFDIO_API, struct.pack("=QQQ", 0xAA, 1 | 1 << 12, 0))
            fcntl.ioctl(fd, UFFDIO_REGISTER, struct.pack("=QQQQ", start, PAGES * PAGE, 2, 0))
            fcntl.ioctl(fd, UFFDIO_WRITEPROTECT, struct.pack("=QQQ", start, PAGES * PAGE, 1))
        failed = libc.madvise(ctypes.c_void_p(start + PAGE), ctypes.c_size_t(PAGE), MADV_GUARD_INSTALL)
        os._exit(ctypes.get_errno() if failed else 0)
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


plain = guard(False)
print(f"without protection: {'ok' if plain == 0 else f'errno {plain}'}")
if plain:
    # EINVAL: guards came in 6.13, those of files and shared memory in 6.15.
    sys.exit(2)
code = guard(True)
if code is None:
    used = resource.getrusage(resource.RUSAGE_CHILDREN).ru_stime
    print(f"of a protected page: it did not return in {SECONDS} s and used {used:.1f} s of a processor")
    # The call needs microseconds. A host that gave the child no time says nothing.
    sys.exit(1 if used > 0.1 else 3)
print(f"of a protected page: {'ok' if code == 0 else f'ended with {code}'}")
sys.exit(0 if code == 0 else 3)
