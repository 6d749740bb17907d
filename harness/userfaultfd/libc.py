"""Call C library functions by ctypes: mmap and its relatives, and memory accesses that release the GIL.

A Python store such as ``view[0] = 1`` to a protected page keeps the GIL while the thread waits in the kernel,
so the thread that would resolve the fault never runs. Foreign functions release the GIL: every access that
may fault must go through `store`, `fill` or `load`.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.mmap.restype = ctypes.c_void_p
LIBC.mmap.argtypes = [
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
]
LIBC.mremap.restype = ctypes.c_void_p
LIBC.mremap.argtypes = [
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_void_p,
]
LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
LIBC.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
LIBC.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
LIBC.ioctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p]
LIBC.syscall.restype = ctypes.c_long
LIBC.memcmp.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]

# asm-generic/mman-common.h and linux/mman.h; the same on x86, arm64 and riscv. Python's module mmap has some
# of them since 3.8, but others only since 3.10.
PROT_NONE, PROT_READ, PROT_WRITE = 0, 1, 2
MAP_SHARED, MAP_PRIVATE, MAP_FIXED, MAP_ANONYMOUS = 0x01, 0x02, 0x10, 0x20
MAP_NORESERVE, MAP_POPULATE, MAP_HUGETLB = 0x4000, 0x8000, 0x40000
MREMAP_MAYMOVE, MREMAP_FIXED, MREMAP_DONTUNMAP = 1, 2, 4
MADV_DONTNEED, MADV_FREE, MADV_REMOVE = 4, 8, 9
MADV_MERGEABLE, MADV_UNMERGEABLE = 12, 13
MADV_HUGEPAGE, MADV_NOHUGEPAGE = 14, 15
MADV_COLD, MADV_PAGEOUT = 20, 21  # 5.4
MADV_POPULATE_READ, MADV_POPULATE_WRITE = 22, 23  # 5.14
MADV_COLLAPSE = 25  # 6.1
MADV_HWPOISON, MADV_SOFT_OFFLINE = 100, 101
MADV_GUARD_INSTALL, MADV_GUARD_REMOVE = 102, 103  # 6.13

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_FAILED = ctypes.c_void_p(-1).value


def checked(result: int, call: str) -> int:
    """Return the result of a C function that returns -1 on failure.

    Raises:
        OSError: it is -1; the error has the errno, and its text names the call.
    """
    if result == -1:
        code = ctypes.get_errno()
        raise OSError(code, f"{call}: {os.strerror(code)}")
    return result


def ioctl(descriptor: int, request: int, argument: Any) -> int:
    """Pass a structure to an ioctl, which may change it even on failure; return 0 or an errno."""
    return 0 if LIBC.ioctl(descriptor, request, ctypes.byref(argument)) >= 0 else ctypes.get_errno()


def mmap(length: int, protection: int, flags: int, descriptor: int = -1, address: int = 0) -> int:
    """Map memory and return its address; raise OSError on failure."""
    result = LIBC.mmap(address or None, length, protection, flags, descriptor, 0)
    if result == _FAILED:
        checked(-1, f"mmap of {length:#x} bytes")
    return int(result)


def munmap(address: int, length: int) -> None:
    """Unmap memory; raise OSError on failure."""
    checked(LIBC.munmap(address, length), f"munmap of {address:#x}+{length:#x}")


def mremap(address: int, length: int, new_length: int, flags: int = MREMAP_MAYMOVE, target: int = 0) -> int:
    """Resize or move a mapping, to `target` with MREMAP_FIXED, and return its new address."""
    result = LIBC.mremap(address, length, new_length, flags, target or None)
    if result == _FAILED:
        checked(-1, f"mremap of {address:#x}+{length:#x}")
    return int(result)


def madvise(address: int, length: int, advice: int) -> None:
    """Give advice on memory; raise OSError on failure, EINVAL where the kernel does not know the advice."""
    checked(LIBC.madvise(address, length, advice), f"madvise {advice} of {address:#x}+{length:#x}")


def mprotect(address: int, length: int, protection: int) -> None:
    """Change a mapping's permissions; raise OSError on failure, ENOMEM at vm.max_map_count mappings."""
    checked(LIBC.mprotect(address, length, protection), f"mprotect of {address:#x}+{length:#x}")


def store(address: int, data: bytes) -> None:
    """Write bytes to memory by one foreign call (memmove), which may fault."""
    ctypes.memmove(address, data, len(data))


def fill(address: int, length: int, byte: int) -> None:
    """Set `length` bytes of memory to `byte` by one foreign call, which may fault."""
    ctypes.memset(address, byte, length)


def load(address: int, length: int) -> bytes:
    """Read bytes from memory by one foreign call, which may fault."""
    buffer = ctypes.create_string_buffer(length)
    ctypes.memmove(buffer, address, length)
    return buffer.raw


def copy(address: int, source: int, length: int) -> None:
    """Copy memory to an address by one foreign call (memmove), which may fault at both."""
    ctypes.memmove(address, source, length)


def same(address: int, other: int, length: int) -> bool:
    """Return whether memory at two addresses is equal, by one foreign call (memcmp), which may fault."""
    return bool(LIBC.memcmp(address, other, length) == 0)
