"""Create userfaultfds, by system call or from /dev/userfaultfd, and enable their features (UFFDIO_API)."""

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

# Non-blocking, since poll(2) returns POLLERR for a blocking userfaultfd.
_FLAGS = os.O_CLOEXEC | os.O_NONBLOCK


def by_system_call(*, user_mode_only: bool = False) -> int:
    """Create a userfaultfd by userfaultfd(2) and return its descriptor, close-on-exec and non-blocking.

    Args:
        user_mode_only: do not report faults in kernel mode, such as that of read(2) into a protected page;
            they fail instead. Needs no privilege (5.11; earlier kernels return EINVAL).

    Raises:
        UserfaultfdError: ENOSYS, the kernel has no userfaultfd or a seccomp filter hides it; EPERM, the user
            has no CAP_SYS_PTRACE and vm.unprivileged_userfaultfd is 0, or a seccomp filter forbids the call;
            EINVAL, the kernel does not know a flag; EMFILE or ENFILE, too many open files.
    """
    number = abi.system_call_number()
    if number < 0:
        raise UserfaultfdError(errno.ENOSYS, "userfaultfd (its number on this architecture is not known)")
    descriptor = int(LIBC.syscall(number, _FLAGS | (abi.UFFD_USER_MODE_ONLY if user_mode_only else 0)))
    if descriptor < 0:
        raise UserfaultfdError(ctypes.get_errno(), "userfaultfd")
    return descriptor


def by_device(*, user_mode_only: bool = False, path: str = DEVICE) -> int:
    """Create a userfaultfd from the device (6.1) and return its descriptor.

    A user who may open the device also gets faults in kernel mode.

    Raises:
        UserfaultfdError: ENOENT, there is no such device; EACCES, its permissions forbid opening it.
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
    """Create a userfaultfd from the device, or else by system call.

    QEMU (8.0, util/userfaultfd.c) tries both in this order.

    Args:
        user_mode_only: see `by_system_call`.
        device: whether to try the device; QEMU before 8.0 does not.

    Returns:
        The descriptor, and what created it: the device's path or ``system call``.

    Raises:
        UserfaultfdError: neither works; the error is that of the system call.
    """
    if device:
        with contextlib.suppress(UserfaultfdError):
            return by_device(user_mode_only=user_mode_only), DEVICE
    return by_system_call(user_mode_only=user_mode_only), "system call"


def handshake(descriptor: int, features: int = 0, api: int = abi.UFFD_API) -> tuple[Feature, int]:
    """Enable features of a userfaultfd by the API handshake (UFFDIO_API), which a descriptor accepts once.

    Args:
        descriptor: a new userfaultfd.
        features: bits to enable.
        api: value of ``uffdio_api.api``; tests pass wrong ones.

    Returns:
        All features that the kernel offers, enabled or not, and the ``ioctls`` field.

    Raises:
        UserfaultfdError: EINVAL, the kernel does not know `api` or a feature, or UFFDIO_API was called
            before; EPERM, EVENT_FORK without CAP_SYS_PTRACE.
    """
    argument = abi.Api(api, features, 0)
    code = ioctl(descriptor, abi.UFFDIO_API, argument)
    if code:
        raise UserfaultfdError(code, "UFFDIO_API")
    return Feature(argument.features), int(argument.ioctls)


def offered_features(*, user_mode_only: bool = False) -> Feature:
    """Return the features that the kernel offers.

    UFFDIO_API without features answers with all of them. Since a descriptor accepts only one UFFDIO_API, this
    opens one for the question and closes it. Asking for an unknown feature would only give EINVAL.

    Raises:
        UserfaultfdError: no userfaultfd can be created.
    """
    descriptor, _ = by_any(user_mode_only=user_mode_only)
    try:
        return handshake(descriptor)[0]
    finally:
        os.close(descriptor)


def with_features(features: int, *, user_mode_only: bool = False) -> int:
    """Create a userfaultfd, enable features, and return its descriptor.

    Raises:
        FeatureMissing: the kernel does not offer all of them.
        UserfaultfdError: no userfaultfd can be created, or UFFDIO_API failed.
    """
    missing = features & ~int(offered_features(user_mode_only=user_mode_only))
    if missing:
        raise FeatureMissing(errno.EINVAL, missing, " ".join(abi.feature_names(missing)))
    descriptor, _ = by_any(user_mode_only=user_mode_only)
    try:
        handshake(descriptor, features)
    except UserfaultfdError:
        os.close(descriptor)
        raise
    return descriptor
