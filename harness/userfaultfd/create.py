"""Makes userfaultfds: by system call, for user mode only, or from /dev/userfaultfd; and the handshake."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os

from . import abi
from .abi import Feature
from .errors import FeatureMissing, UserfaultfdError
from .libc import LIBC, ioctl

DEVICE = "/dev/userfaultfd"

# All our descriptors: poll(2) answers POLLERR for a userfaultfd that blocks.
_FLAGS = os.O_CLOEXEC | os.O_NONBLOCK


def by_system_call(*, user_mode_only: bool = False) -> int:
    """A new descriptor from userfaultfd(2), close-on-exec and non-blocking.

    Args:
        user_mode_only: do not trap faults of the kernel itself, such as read(2) into a protected page; these
            fail instead. Needs no privilege (5.11; before, EINVAL).

    Raises:
        UserfaultfdError: ENOSYS, the kernel has no userfaultfd or a seccomp filter says so; EPERM, the user
            has no CAP_SYS_PTRACE and vm.unprivileged_userfaultfd is 0, or a filter forbids it; EINVAL, a flag
            is not known; EMFILE, ENFILE.
    """
    number = abi.system_call_number()
    if number < 0:
        raise UserfaultfdError(errno.ENOSYS, "userfaultfd on an architecture of unknown system calls")
    descriptor = int(LIBC.syscall(number, _FLAGS | (abi.UFFD_USER_MODE_ONLY if user_mode_only else 0)))
    if descriptor < 0:
        raise UserfaultfdError(ctypes.get_errno(), "userfaultfd")
    return descriptor


def by_device(*, user_mode_only: bool = False, path: str = DEVICE) -> int:
    """A new descriptor from the device (6.1); whoever may open that may trap faults of the kernel too.

    Raises:
        UserfaultfdError: ENOENT, there is no such device; EACCES, its permissions do not let us.
    """
    try:
        device = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise UserfaultfdError(error.errno or errno.EIO, f"open of {path}") from error
    try:
        flags = _FLAGS | (abi.UFFD_USER_MODE_ONLY if user_mode_only else 0)
        descriptor = int(LIBC.ioctl(device, abi.USERFAULTFD_IOC_NEW, flags))
        if descriptor < 0:
            raise UserfaultfdError(ctypes.get_errno(), "USERFAULTFD_IOC_NEW")
        return descriptor
    finally:
        os.close(device)


def by_any(*, user_mode_only: bool = False, device: bool = True) -> tuple[int, str]:
    """A new descriptor, and what made it: the device if we may, else the system call.

    QEMU (8.0, util/userfaultfd.c) tries both in this order.

    Args:
        user_mode_only: as `by_system_call`.
        device: whether to try the device, which older QEMUs do not know.

    Raises:
        UserfaultfdError: neither works; the error is that of the system call.
    """
    if device:
        with contextlib.suppress(UserfaultfdError):
            return by_device(user_mode_only=user_mode_only), DEVICE
    return by_system_call(user_mode_only=user_mode_only), "system call"


def shake_hands(descriptor: int, features: int = 0, api: int = abi.UFFD_API) -> tuple[Feature, int]:
    """UFFDIO_API: switch features on. It can be called once per descriptor.

    Args:
        descriptor: a new userfaultfd.
        features: bits to switch on.
        api: the magic, for tests of wrong ones.

    Returns:
        The features that the kernel offers, whatever was asked for, and bits of the ioctls.

    Raises:
        UserfaultfdError: EINVAL, the kernel does not know the magic or a feature, or the descriptor has been
            through this; EPERM, EVENT_FORK without CAP_SYS_PTRACE.
    """
    argument = abi.Api(api, features, 0)
    code = ioctl(descriptor, abi.UFFDIO_API, argument)
    if code:
        raise UserfaultfdError(code, "UFFDIO_API")
    return Feature(argument.features), int(argument.ioctls)


def offered_features(*, user_mode_only: bool = False) -> Feature:
    """What the kernel offers, asked with a descriptor of its own that is closed again.

    The answer to UFFDIO_API with no features lists all, and a descriptor takes only one UFFDIO_API, so asking
    costs a descriptor. Asking for an unknown feature would only give EINVAL.

    Raises:
        UserfaultfdError: no descriptor can be had.
    """
    descriptor, _ = by_any(user_mode_only=user_mode_only)
    try:
        return shake_hands(descriptor)[0]
    finally:
        os.close(descriptor)


def with_features(features: int, *, user_mode_only: bool = False) -> int:
    """A new descriptor that has been through the handshake.

    Raises:
        FeatureMissing: the kernel does not offer all of them.
        UserfaultfdError: no descriptor can be had, or the handshake failed.
    """
    missing = features & ~int(offered_features(user_mode_only=user_mode_only))
    if missing:
        raise FeatureMissing(errno.EINVAL, missing, " ".join(abi.feature_names(missing)))
    descriptor, _ = by_any(user_mode_only=user_mode_only)
    try:
        shake_hands(descriptor, features)
    except UserfaultfdError:
        os.close(descriptor)
        raise
    return descriptor
