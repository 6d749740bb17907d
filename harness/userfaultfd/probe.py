"""Find out what userfaultfd can do on this host for this user, by trying it."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path

from . import create
from .abi import feature_names
from .errors import UserfaultfdError


@dataclass(frozen=True)
class UserfaultfdSupport:
    """What the kernel offers this user.

    Attributes:
        opened_by: ``system call`` or ``/dev/userfaultfd``, empty where neither worked.
        reason: a sentence that says why faults in kernel mode cannot be trapped, empty where they can.
        features: names of the feature bits that the kernel offers.
    """

    opened_by: str
    reason: str
    features: tuple[str, ...]

    @property
    def write_protect(self) -> bool:
        """Whether a background snapshot can work: UFFD-WP is offered, for faults in kernel mode too."""
        return bool(self.opened_by) and "PAGEFAULT_FLAG_WP" in self.features


def probe_userfaultfd(*, by_device: bool = True) -> UserfaultfdSupport:
    """Open a userfaultfd as QEMU does (8.0, util/userfaultfd.c) and ask for its features.

    Args:
        by_device: whether to try the device; QEMU before 8.0 does not.
    """
    try:
        descriptor, opened_by = create.by_any(device=by_device)
    except UserfaultfdError as error:
        return UserfaultfdSupport("", refusal_reason(error.errno or 0), ())
    try:
        features = create.handshake(descriptor)[0]
    except UserfaultfdError as error:
        why = os.strerror(error.errno or 0)
        return UserfaultfdSupport("", f"The kernel refuses UFFDIO_API: {why}.", ())
    finally:
        os.close(descriptor)
    return UserfaultfdSupport(opened_by, "", feature_names(features))


def refusal_reason(code: int) -> str:
    """Return a sentence that says what an errno of userfaultfd(2) means on this host.

    EPERM can come from a sysctl or from a seccomp filter. If UFFD_USER_MODE_ONLY, which needs no privilege,
    gets EPERM too, it comes from a filter.
    """
    if code == errno.ENOSYS:
        return "The kernel has no userfaultfd, or a seccomp filter hides it (ENOSYS)."
    if code != errno.EPERM:
        return f"The kernel refuses userfaultfd: {os.strerror(code)}."
    setting = Path("/proc/sys/vm/unprivileged_userfaultfd")
    try:
        os.close(create.by_system_call(user_mode_only=True))
    except UserfaultfdError as error:
        # Linux 5.10 has the sysctl, but not the flag: EINVAL.
        if error.errno != errno.EINVAL or not setting.exists():
            return "A seccomp filter or security module forbids userfaultfd (EPERM)."
    value = setting.read_text().strip() if setting.exists() else "unknown"
    return (
        f"This user may not trap faults in kernel mode (vm.unprivileged_userfaultfd is {value}); set it to "
        "1, give the user access to /dev/userfaultfd, or run with CAP_SYS_PTRACE."
    )
