#!/usr/bin/env python3
# F17: a huge page that NUMA balancing moves loses its userfaultfd write protection.
# Exit code: 1 the defect shows, 0 it does not, 2 not applicable, 3 this script did not work.
"""Run this as root, without arguments, on a host with two NUMA nodes.

It needs no QEMU and restores the setting of NUMA balancing. x86_64 only. Takes up to 60 s.
"""

import ctypes
import fcntl
import mmap
import os
import select
import struct
import sys
import threading
import time
from pathlib import Path

HUGE, BLOCKS, PAGE = 2 << 20, 32, 4096
MADV_HUGEPAGE, SYS_USERFAULTFD = 14, 323
UFFDIO_API, UFFDIO_REGISTER, UFFDIO_WRITEPROTECT = 0xC018AA3F, 0xC020AA00, 0xC018AA06
BALANCING = Path("/proc/sys/kernel/numa_balancing")

sys.excepthook = lambda *error: (sys.__excepthook__(*error), os._exit(3))
libc = ctypes.CDLL(None)


def first_processor(node):
    """Return the number of the first processor of a node."""
    text = Path(f"/sys/devices/system/node/node{node}/cpulist").read_text()
    return int(text.replace("-", ",").split(",")[0])


def moved():
    """Count the pages that NUMA balancing has moved since the host booted."""
    lines = dict(line.split() for line in Path("/proc/vmstat").read_text().splitlines())
    return int(lines["numa_pages_migrated"])


def write_blocks():
    """Write one byte into each huge page, without holding the interpreter's lock."""
    for block in range(BLOCKS):
        libc.memset(ctypes.c_void_p(start + block * HUGE + 8 * PAGE), 1, 1)


try:
    processors = [first_processor(node) for node in (0, 1)]
    before = BALANCING.read_text()
    BALANCING.write_text("1")
except (OSError, ValueError, KeyError) as error:
    print(f"This host does not have two NUMA nodes with processors, or has no NUMA balancing: {error}")
    sys.exit(2)
try:
    os.sched_setaffinity(0, {processors[0]})
    area = mmap.mmap(-1, (BLOCKS + 1) * HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    area.madvise(MADV_HUGEPAGE)
    area[:] = b"y" * len(area)
    start = -(-ctypes.addressof(ctypes.c_char.from_buffer(area)) // HUGE) * HUGE
    fd = libc.syscall(SYS_USERFAULTFD, os.O_CLOEXEC | os.O_NONBLOCK)
    fcntl.ioctl(fd, UFFDIO_API, struct.pack("=QQQ", 0xAA, 1, 0))
    fcntl.ioctl(fd, UFFDIO_REGISTER, struct.pack("=QQQQ", start, BLOCKS * HUGE, 2, 0))
    fcntl.ioctl(fd, UFFDIO_WRITEPROTECT, struct.pack("=QQQ", start, BLOCKS * HUGE, 1))
    at_first, end = moved(), time.monotonic() + 40
    os.sched_setaffinity(0, {processors[1]})
    while moved() - at_first < BLOCKS // 4 * 512 and time.monotonic() < end:
        # Reading is enough to make the kernel move the page to the node that uses it.
        for page in range(0, len(area), PAGE):
            area[page]
    pages = moved() - at_first
finally:
    BALANCING.write_text(before)
if pages < 512:
    print(f"The kernel moved only {pages} pages, too few to show the defect.")
    sys.exit(2)
writer = threading.Thread(target=write_blocks, daemon=True)
writer.start()
told = set()
while writer.is_alive():
    if select.select([fd], [], [], 0.2)[0]:
        # struct uffd_msg: the address of a page fault is its third 64-bit word.
        address = struct.unpack_from("=QQQ", os.read(fd, 32))[2]
        told.add((address - start) // HUGE)
        block = address // HUGE * HUGE
        fcntl.ioctl(fd, UFFDIO_WRITEPROTECT, struct.pack("=QQQ", block, HUGE, 0))
lost = BLOCKS - len(told)
print(f"{pages} pages moved; of {BLOCKS} writes to protected huge pages {lost} raised no event.")
sys.exit(1 if lost else 0)
