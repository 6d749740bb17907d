"""What userfaultfd can do on this host, asked of the kernel itself."""

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
    """Open a userfaultfd as QEMU does (8.0, util/userfaultfd.c) and ask for its features.

    Args:
        by_device: whether to try the device, which older QEMUs do not know.
    """
    try:
        descriptor, opened_by = create.by_any(device=by_device)
    except UserfaultfdError as error:
        return UserfaultfdSupport("", refusal_reason(error.errno or 0), ())
    try:
        features = create.shake_hands(descriptor)[0]
    except UserfaultfdError as error:
        why = os.strerror(error.errno or 0)
        return UserfaultfdSupport("", f"The kernel refuses UFFDIO_API: {why}.", ())
    finally:
        os.close(descriptor)
    return UserfaultfdSupport(opened_by, "", feature_names(features))


def refusal_reason(code: int) -> str:
    """What an errno of userfaultfd(2) means on this host, as a sentence.

    EPERM can come from the kernel's setting or from a filter; one that also meets a descriptor for user mode
    only, which needs no privilege, comes from a filter.
    """
    if code == errno.ENOSYS:
        return "The kernel has no userfaultfd, or a seccomp filter hides it (ENOSYS)."
    if code != errno.EPERM:
        return f"The kernel refuses userfaultfd: {os.strerror(code)}."
    setting = Path("/proc/sys/vm/unprivileged_userfaultfd")
    try:
        os.close(create.by_system_call(user_mode_only=True))
    except UserfaultfdError as error:
        # 5.10 has the setting and not the flag, which is EINVAL there.
        if error.errno != errno.EINVAL or not setting.exists():
            return "A seccomp filter or security module forbids userfaultfd (EPERM)."
    value = setting.read_text().strip() if setting.exists() else "unknown"
    return (
        f"This user may not trap kernel faults (vm.unprivileged_userfaultfd is {value}); set it to 1, give "
        "access to /dev/userfaultfd, or run with CAP_SYS_PTRACE."
    )
