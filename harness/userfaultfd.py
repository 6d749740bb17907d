"""What userfaultfd can do on this host, asked of the kernel itself."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import struct
from dataclasses import dataclass
from pathlib import Path

SYSCALL_NUMBERS = {"x86_64": 323, "aarch64": 282, "riscv64": 282, "i686": 374, "s390x": 355}
"""The system call's number by architecture, as `uname -m` gives it (asm/unistd.h)."""

IOC_NEW = 0xAA00
"""The request by which /dev/userfaultfd gives one out (linux/userfaultfd.h, USERFAULTFD_IOC_NEW, 6.1)."""

# linux/userfaultfd.h: UFFD_API, UFFDIO_API, UFFD_USER_MODE_ONLY (5.11).
_UFFD_API = 0xAA
_UFFDIO_API = 0xC018AA3F
_USER_MODE_ONLY = 1

FEATURES = (
    "PAGEFAULT_FLAG_WP",
    "EVENT_FORK",
    "EVENT_REMAP",
    "EVENT_REMOVE",
    "MISSING_HUGETLBFS",
    "MISSING_SHMEM",
    "EVENT_UNMAP",
    "SIGBUS",
    "THREAD_ID",
    "MINOR_HUGETLBFS",
    "MINOR_SHMEM",
    "EXACT_ADDRESS",
    "WP_HUGETLBFS_SHMEM",
    "WP_UNPOPULATED",
    "POISON",
    "WP_ASYNC",
    "MOVE",
)
"""Names of the feature bits from bit 0, as in linux/userfaultfd.h (6.8) without UFFD_FEATURE_."""


@dataclass(frozen=True)
class UserfaultfdSupport:
    """What the kernel answered.

    Attributes:
        opened_by: ``system call``, ``/dev/userfaultfd``, or empty where neither worked.
        reason: why a kernel fault can not be trapped, empty where it can.
        features: names of the feature bits that the kernel offers.
    """

    opened_by: str
    reason: str
    features: tuple[str, ...]

    @property
    def write_protect(self) -> bool:
        """Whether a background snapshot can work: UFFD-WP, for kernel faults too."""
        return bool(self.opened_by) and "PAGEFAULT_FLAG_WP" in self.features


def probe_userfaultfd(*, by_device: bool = True) -> UserfaultfdSupport:
    """Open a userfaultfd as QEMU does and ask for its features.

    QEMU tries /dev/userfaultfd first, then the system call (QEMU 8.0 util/userfaultfd.c).

    Args:
        by_device: whether to try the device, which older QEMUs do not know.
    """
    descriptor, opened_by, reason = _open(by_device)
    if descriptor < 0:
        return UserfaultfdSupport("", reason, ())
    try:
        # struct uffdio_api: api, features, ioctls. Asking for no feature makes the kernel list all.
        answer = fcntl.ioctl(descriptor, _UFFDIO_API, struct.pack("=QQQ", _UFFD_API, 0, 0))
        bits = struct.unpack("=QQQ", answer)[1]
    except OSError as error:
        return UserfaultfdSupport("", f"The kernel refuses UFFDIO_API: {error.strerror}.", ())
    finally:
        os.close(descriptor)
    return UserfaultfdSupport(
        opened_by, "", tuple(name for bit, name in enumerate(FEATURES) if bits >> bit & 1)
    )


def _open(by_device: bool) -> tuple[int, str, str]:
    """A descriptor (or -1), what opened it, and why nothing could."""
    descriptor = _device() if by_device else -1
    if descriptor >= 0:
        return descriptor, "/dev/userfaultfd", ""
    code = _system_call(0)
    if code >= 0:
        return code, "system call", ""
    return -1, "", _reason(-code)


def _device() -> int:
    """A descriptor that /dev/userfaultfd gave, or -1."""
    try:
        device = os.open("/dev/userfaultfd", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return -1
    try:
        return fcntl.ioctl(device, IOC_NEW, os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return -1
    finally:
        os.close(device)


def _system_call(flags: int) -> int:
    """A descriptor, or minus errno."""
    number = SYSCALL_NUMBERS.get(platform.machine())
    if number is None:
        return -errno.ENOSYS
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = int(libc.syscall(number, os.O_CLOEXEC | os.O_NONBLOCK | flags))
    return descriptor if descriptor >= 0 else -ctypes.get_errno()


def _reason(code: int) -> str:
    if code == errno.ENOSYS:
        return "The kernel has no userfaultfd, or a seccomp filter hides it (ENOSYS)."
    if code != errno.EPERM:
        return f"The kernel refuses userfaultfd: {os.strerror(code)}."
    user_only = _system_call(_USER_MODE_ONLY)
    if user_only < 0:
        return "A seccomp filter or security module forbids userfaultfd (EPERM)."
    os.close(user_only)
    setting = Path("/proc/sys/vm/unprivileged_userfaultfd")
    value = setting.read_text().strip() if setting.exists() else "unknown"
    return (
        f"This user may not trap kernel faults (vm.unprivileged_userfaultfd is {value}); set it to 1, give "
        "access to /dev/userfaultfd, or run with CAP_SYS_PTRACE."
    )
