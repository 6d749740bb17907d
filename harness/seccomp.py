"""A launcher that runs a program under a seccomp filter in which userfaultfd fails with a given errno.

Run as ``python -m harness.seccomp ERRNO PROGRAM ARGUMENT...``; needs no root. A filter is inherited and can
not be taken off again, so it must be put on by the process that becomes the program.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys

from harness.userfaultfd.abi import SYSTEM_CALLS, USERFAULTFD_IOC_NEW

# linux/prctl.h, linux/seccomp.h
_PR_SET_SECCOMP = 22
_PR_SET_NO_NEW_PRIVS = 38
_SECCOMP_MODE_FILTER = 2
_RET_ALLOW = 0x7FFF0000
_RET_ERRNO = 0x00050000
# linux/bpf_common.h: load a word at a fixed offset, jump if equal to a constant, return a constant.
_LOAD = 0x20
_JUMP_EQUAL = 0x15
_RETURN = 0x06
# struct seccomp_data: number of the system call, and the lower half of its second argument.
_NUMBER_OFFSET = 0
_SECOND_ARGUMENT_OFFSET = 24
_IOCTL_NUMBERS = {"x86_64": 16, "aarch64": 29}


class _Program(ctypes.Structure):
    """`struct sock_fprog` of linux/filter.h."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def userfaultfd_filter(error: int, machine: str) -> bytes:
    """A BPF program in which the system call and /dev/userfaultfd's ioctl fail, and all else goes on.

    Args:
        error: errno of both.
        machine: as `uname -m` gives it.

    Raises:
        KeyError: its system calls are not known here.
    """
    instructions = (
        # Code, steps to skip if true and if false, constant (struct sock_filter).
        (_LOAD, 0, 0, _NUMBER_OFFSET),
        (_JUMP_EQUAL, 3, 0, SYSTEM_CALLS[machine]),
        (_JUMP_EQUAL, 0, 3, _IOCTL_NUMBERS[machine]),
        (_LOAD, 0, 0, _SECOND_ARGUMENT_OFFSET),
        (_JUMP_EQUAL, 0, 1, USERFAULTFD_IOC_NEW),
        (_RETURN, 0, 0, _RET_ERRNO | error),
        (_RETURN, 0, 0, _RET_ALLOW),
    )
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)


def main(arguments: list[str]) -> None:
    """Put the filter on and become the program."""
    filter_bytes = userfaultfd_filter(getattr(errno, arguments[0]), platform.machine())
    program = _Program(len(filter_bytes) // 8, filter_bytes)
    libc = ctypes.CDLL(None, use_errno=True)
    for option, first, second in (
        (_PR_SET_NO_NEW_PRIVS, 1, None),
        (_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program)),
    ):
        if libc.prctl(option, ctypes.c_ulong(first), second, ctypes.c_ulong(0), ctypes.c_ulong(0)) != 0:
            raise SystemExit(f"The kernel takes no seccomp filter: {os.strerror(ctypes.get_errno())}.")
    os.execvp(arguments[1], arguments[1:])


if __name__ == "__main__":
    main(sys.argv[1:])
