#!/usr/bin/env python3
# F15: pages that the kernel merges (KSM) lose their userfaultfd write protection.
# Exit code: 1 the defect shows, 0 it does not, 2 not applicable, 3 this script did not work.
"""Run this as root, without arguments.

It needs no QEMU and restores KSM's settings. x86_64 only. Takes up to 40 s.
"""

import ctypes
import fcntl
import mmap
import os
import struct
import sys
import time
from pathlib import Path

PAGES, PAGE = 512, 4096
KSM = Path("/sys/kernel/mm/ksm")
MADV_MERGEABLE, MADV_NOHUGEPAGE, SYS_USERFAULTFD = 12, 15, 323
UFFDIO_API, UFFDIO_REGISTER, UFFDIO_WRITEPROTECT = 0xC018AA3F, 0xC020AA00, 0xC018AA06

libc = ctypes.CDLL(None)
areas = [mmap.mmap(-1, PAGES * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) for _ in range(2)]
for area in areas:
    area.madvise(MADV_NOHUGEPAGE)
    area.madvise(MADV_MERGEABLE)
    area[:] = b"y" * len(area)
start = ctypes.addressof(ctypes.c_char.from_buffer(areas[0]))


def protected():
    """Count the pages of the first area whose pagemap entry has bit 57."""
    with Path("/proc/self/pagemap").open("rb") as pagemap:
        pagemap.seek(start // PAGE * 8)
        return sum(entry >> 57 & 1 for entry in struct.unpack(f"{PAGES}Q", pagemap.read(PAGES * 8)))


def put(values):
    """Change KSM's settings."""
    for name, value in values.items():
        (KSM / name).write_text(value)


sys.excepthook = lambda *error: (sys.__excepthook__(*error), os._exit(3))

try:
    before = {name: (KSM / name).read_text() for name in ("sleep_millisecs", "pages_to_scan", "run")}
    put(before)
    fd = libc.syscall(SYS_USERFAULTFD, os.O_CLOEXEC | os.O_NONBLOCK)
    fcntl.ioctl(fd, UFFDIO_API, struct.pack("=QQQ", 0xAA, 1, 0))
    fcntl.ioctl(fd, UFFDIO_REGISTER, struct.pack("=QQQQ", start, PAGES * PAGE, 2, 0))
    fcntl.ioctl(fd, UFFDIO_WRITEPROTECT, struct.pack("=QQQ", start, PAGES * PAGE, 1))
except OSError as error:
    print(f"KSM or userfaultfd cannot be used here: {error}")
    sys.exit(2)
at_first = protected()
try:
    put({"sleep_millisecs": "10", "pages_to_scan": "20000", "run": "1"})
    for _ in range(400):
        time.sleep(0.1)
        merged = int(Path("/proc/self/ksm_merging_pages").read_text())
        if merged > PAGES + 100:
            break
finally:
    put(before)
left = protected()
print(f"{at_first} pages protected; {merged} pages merged; {left} pages still protected.")
if merged <= PAGES:
    sys.exit(2)
sys.exit(left < at_first)
