"""The kernel's userfaultfd ABI: ioctl numbers, feature and mode bits, and structure layouts.

All of them are from linux/userfaultfd.h unless another header is named. A number in parentheses is the Linux
version that added a name; a name without one is in the header since 4.11 or earlier. A name in a header says
nothing about the running kernel: UFFDIO_REGISTER_MODE_WP is in the header since 4.3 and works since 5.7.
"""

from __future__ import annotations

import ctypes
import enum
import functools
import platform

UFFD_API = 0xAA
"""Value of ``uffdio_api.api`` that UFFDIO_API demands."""

UFFD_USER_MODE_ONLY = 1
"""Flag of userfaultfd(2) (5.11): faults in kernel mode are not reported, they fail with EFAULT."""

USERFAULTFD_IOC_NEW = 0xAA00
"""ioctl of /dev/userfaultfd (6.1) that creates a userfaultfd; its argument is the flags of userfaultfd(2)."""


class Feature(enum.IntFlag):
    """Bits of ``uffdio_api.features``; `FEATURE_SINCE` has the first kernel version of each."""

    PAGEFAULT_FLAG_WP = 1 << 0
    EVENT_FORK = 1 << 1
    EVENT_REMAP = 1 << 2
    EVENT_REMOVE = 1 << 3
    MISSING_HUGETLBFS = 1 << 4
    MISSING_SHMEM = 1 << 5
    EVENT_UNMAP = 1 << 6
    SIGBUS = 1 << 7
    THREAD_ID = 1 << 8
    MINOR_HUGETLBFS = 1 << 9
    MINOR_SHMEM = 1 << 10
    EXACT_ADDRESS = 1 << 11
    WP_HUGETLBFS_SHMEM = 1 << 12
    WP_UNPOPULATED = 1 << 13
    POISON = 1 << 14
    WP_ASYNC = 1 << 15
    MOVE = 1 << 16
    RWP = 1 << 17
    RWP_ASYNC = 1 << 18


FEATURE_SINCE: dict[Feature, str] = {
    Feature.PAGEFAULT_FLAG_WP: "5.7 (x86_64), 6.10 (arm64), 6.19 (riscv64)",
    Feature.EVENT_FORK: "4.11",
    Feature.EVENT_REMAP: "4.11",
    Feature.EVENT_REMOVE: "4.11",
    Feature.MISSING_HUGETLBFS: "4.11",
    Feature.MISSING_SHMEM: "4.11",
    Feature.EVENT_UNMAP: "4.11",
    Feature.SIGBUS: "4.14",
    Feature.THREAD_ID: "4.14",
    Feature.MINOR_HUGETLBFS: "5.13",
    Feature.MINOR_SHMEM: "5.14",
    Feature.EXACT_ADDRESS: "5.18",
    Feature.WP_HUGETLBFS_SHMEM: "5.19",
    Feature.WP_UNPOPULATED: "6.4",
    Feature.POISON: "6.6",
    Feature.WP_ASYNC: "6.7",
    Feature.MOVE: "6.8",
    # Read-write protection and its asynchronous mode, which is refused without RWP; seen in Debian's 7.3.4.
    Feature.RWP: "7.3",
    Feature.RWP_ASYNC: "7.3",
}
"""First Linux version with each feature; distributions backport some."""

FEATURES: tuple[str, ...] = tuple(str(feature.name) for feature in FEATURE_SINCE)
"""Names of the feature bits from bit 0, as in linux/userfaultfd.h (7.3), without the prefix UFFD_FEATURE_."""


def feature_names(bits: int) -> tuple[str, ...]:
    """Return the names of the bits that are set, from bit 0; ``BIT_<number>`` for an unknown one."""
    return tuple(
        FEATURES[bit] if bit < len(FEATURES) else f"BIT_{bit}" for bit in range(64) if bits >> bit & 1
    )


class Mode(enum.IntFlag):
    """Modes of UFFDIO_REGISTER: which accesses cause a userfaultfd event."""

    MISSING = 1
    WP = 2  # 5.7
    MINOR = 4  # 5.13


class FaultFlag(enum.IntFlag):
    """Flags of a page fault event."""

    WRITE = 1
    WP = 2
    MINOR = 4  # 5.13


WRITEPROTECT_MODE_WP = 1
WRITEPROTECT_MODE_DONTWAKE = 2
COPY_MODE_DONTWAKE = 1
COPY_MODE_WP = 2  # 5.7
ZEROPAGE_MODE_DONTWAKE = 1
CONTINUE_MODE_DONTWAKE = 1
CONTINUE_MODE_WP = 2  # 6.4
POISON_MODE_DONTWAKE = 1
MOVE_MODE_DONTWAKE = 1
MOVE_MODE_ALLOW_SRC_HOLES = 2

EVENT_PAGEFAULT = 0x12
EVENT_FORK = 0x13
EVENT_REMAP = 0x14
EVENT_REMOVE = 0x15
EVENT_UNMAP = 0x16

_IOCTL_BITS = {
    0: "REGISTER",
    1: "UNREGISTER",
    2: "WAKE",
    3: "COPY",
    4: "ZEROPAGE",
    5: "MOVE",
    6: "WRITEPROTECT",
    7: "CONTINUE",
    8: "POISON",
    0x3F: "API",
}


@functools.lru_cache(maxsize=64)
def ioctl_names(bits: int) -> frozenset[str]:
    """Return the names of the ioctls in an ``ioctls`` field, e.g. ``{"WAKE", "COPY"}`` for bits 2 and 3."""
    return frozenset(name for bit, name in _IOCTL_BITS.items() if bits >> bit & 1)


_u64 = ctypes.c_uint64


class Range(ctypes.Structure):
    """``struct uffdio_range``: address and length in bytes, both multiples of the page size."""

    _fields_ = [("start", _u64), ("len", _u64)]


class Api(ctypes.Structure):
    """``struct uffdio_api``."""

    _fields_ = [("api", _u64), ("features", _u64), ("ioctls", _u64)]


class Register(ctypes.Structure):
    """``struct uffdio_register``."""

    _fields_ = [("start", _u64), ("len", _u64), ("mode", _u64), ("ioctls", _u64)]


class Copy(ctypes.Structure):
    """``struct uffdio_copy``, and ``struct uffdio_move`` (6.8), which has the same layout.

    The kernel sets ``copy`` to the bytes done, or to a negative errno.
    """

    _fields_ = [("dst", _u64), ("src", _u64), ("len", _u64), ("mode", _u64), ("copy", ctypes.c_int64)]


class Filled(ctypes.Structure):
    """``struct uffdio_zeropage``, ``uffdio_continue`` (5.13) and ``uffdio_poison`` (6.6).

    The last field is called ``zeropage``, ``mapped`` and ``updated`` there: bytes done, or a negative errno.
    """

    _fields_ = [("start", _u64), ("len", _u64), ("mode", _u64), ("done", ctypes.c_int64)]


class WriteProtect(ctypes.Structure):
    """``struct uffdio_writeprotect`` (5.7)."""

    _fields_ = [("start", _u64), ("len", _u64), ("mode", _u64)]


MESSAGE_BYTES = 32
"""Size of ``struct uffd_msg``, asserted in fs/userfaultfd.c."""


def _ioctl(number: int, size: int, direction: int = 3) -> int:
    """Compose an ioctl request as asm-generic/ioctl.h does; direction 3 is _IOWR, 2 is _IOR."""
    return direction << 30 | size << 16 | UFFD_API << 8 | number


UFFDIO_API = _ioctl(0x3F, ctypes.sizeof(Api))
UFFDIO_REGISTER = _ioctl(0x00, ctypes.sizeof(Register))
# The header defines these two with _IOR, although the kernel reads the range.
UFFDIO_UNREGISTER = _ioctl(0x01, ctypes.sizeof(Range), 2)
UFFDIO_WAKE = _ioctl(0x02, ctypes.sizeof(Range), 2)
UFFDIO_COPY = _ioctl(0x03, ctypes.sizeof(Copy))
UFFDIO_ZEROPAGE = _ioctl(0x04, ctypes.sizeof(Filled))
UFFDIO_MOVE = _ioctl(0x05, ctypes.sizeof(Copy))  # 6.8
UFFDIO_WRITEPROTECT = _ioctl(0x06, ctypes.sizeof(WriteProtect))  # 5.7
UFFDIO_CONTINUE = _ioctl(0x07, ctypes.sizeof(Filled))  # 5.13
UFFDIO_POISON = _ioctl(0x08, ctypes.sizeof(Filled))  # 6.6

SYSTEM_CALLS = {
    "x86_64": 323,
    "i386": 374,
    "i586": 374,
    "i686": 374,
    "aarch64": 282,
    "riscv64": 282,
    "loongarch64": 282,
    "armv7l": 388,
    "s390x": 355,
    "ppc64": 364,
    "ppc64le": 364,
}
"""Number of userfaultfd(2) by architecture as `uname -m` prints it (asm/unistd.h)."""

_COMPAT_SYSTEM_CALLS = {"x86_64": 374, "aarch64": 388, "ppc64": 364, "ppc64le": 364}


def system_call_number() -> int:
    """Return the number of userfaultfd(2) for this process, -1 for an architecture not in the table.

    A 32-bit Python under a 64-bit kernel needs the number of the 32-bit architecture.
    """
    numbers = (
        SYSTEM_CALLS if ctypes.sizeof(ctypes.c_void_p) == 8 else {**SYSTEM_CALLS, **_COMPAT_SYSTEM_CALLS}
    )
    return numbers.get(platform.machine(), -1)
