#!/usr/bin/env python3
# F43: UFFDIO_MOVE of a protected page in swap space takes its write protection along.
# Exit code: 1 the defect shows, 0 it does not, 2 not applicable, 3 this script did not work.
"""Run this as root, without arguments, on a machine with swap space.

It needs no QEMU. x86_64 only. Takes a second.
"""

import ctypes
import errno
import fcntl
import mmap
import os
import struct
import sys
import time
from pathlib import Path

PAGES, PAGE = 16, 4096
MADV_PAGEOUT, MADV_NOHUGEPAGE, SYS_USERFAULTFD = 21, 15, 323
UFFDIO_API, UFFDIO_REGISTER, UFFDIO_WRITEPROTECT = 0xC018AA3F, 0xC020AA00, 0xC018AA06
UFFDIO_MOVE = 0xC028AA05

sys.excepthook = lambda *error: (sys.__excepthook__(*error), os._exit(3))
libc = ctypes.CDLL(None, use_errno=True)
areas = [mmap.mmap(-1, PAGES * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) for _ in range(2)]
starts = [ctypes.addressof(ctypes.c_char.from_buffer(area)) for area in areas]
for area in areas:
    area.madvise(MADV_NOHUGEPAGE)
areas[0][:] = b"y" * len(areas[0])


def entry(address):
    """Return the pagemap entry of an address."""
    with Path("/proc/self/pagemap").open("rb") as pagemap:
        pagemap.seek(address // PAGE * 8)
        return struct.unpack("Q", pagemap.read(8))[0]


try:
    fd = libc.syscall(SYS_USERFAULTFD, os.O_CLOEXEC | os.O_NONBLOCK)
    fcntl.ioctl(fd, UFFDIO_API, struct.pack("=QQQ", 0xAA, 1, 0))
    fcntl.ioctl(fd, UFFDIO_REGISTER, struct.pack("=QQQQ", starts[0], PAGES * PAGE, 2, 0))
    fcntl.ioctl(fd, UFFDIO_WRITEPROTECT, struct.pack("=QQQ", starts[0], PAGES * PAGE, 1))
    # For missing pages only: no page of this area has ever been protected.
    fcntl.ioctl(fd, UFFDIO_REGISTER, struct.pack("=QQQQ", starts[1], PAGES * PAGE, 1, 0))
except OSError as error:
    print(f"userfaultfd cannot be used here: {error}")
    sys.exit(2)

shows = []
for swapped in (False, True):
    source, target = starts[0] + swapped * PAGE, starts[1] + swapped * PAGE
    if swapped:
        for _ in range(50):
            areas[0].madvise(MADV_PAGEOUT, PAGE, PAGE)
            if entry(source) >> 62 & 1:
                break
            time.sleep(0.05)
        else:
            print("The page does not go to swap space; this machine may have none.")
            sys.exit(2)
    try:
        fcntl.ioctl(fd, UFFDIO_MOVE, struct.pack("=QQQQq", target, source, PAGE, 0, 0))
    except OSError as error:
        print(f"UFFDIO_MOVE failed: {error}")
        sys.exit(2 if error.errno in (errno.EINVAL, errno.ENOTTY) else 3)
    ctypes.memset(target, 1, 1)
    shows.append(entry(target) >> 57 & 1)
    print(f"{'from swap space' if swapped else 'from RAM'}: moved, written, protected: {shows[-1]}")
sys.exit(1 if shows[1] > shows[0] else 0)
