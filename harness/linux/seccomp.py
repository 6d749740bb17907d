"""Launcher that runs a program under a seccomp filter in which userfaultfd fails with a given errno.

Usage: ``python -m harness.linux.seccomp ERRNO PROGRAM ARGUMENT...``, without root. A filter is inherited and
cannot be removed, so this process installs it and then executes the program.
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
# linux/bpf_common.h: load a word at a fixed offset; jump if it equals a constant; return a constant.
_LOAD = 0x20
_JUMP_EQUAL = 0x15
_RETURN = 0x06
# Offsets in struct seccomp_data: the system call's number, and the lower half of its second argument.
_NUMBER_OFFSET = 0
_SECOND_ARGUMENT_OFFSET = 24
_IOCTL_NUMBERS = {"x86_64": 16, "aarch64": 29}


class _Program(ctypes.Structure):
    """`struct sock_fprog` of linux/filter.h."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def userfaultfd_filter(error: int, machine: str) -> bytes:
    """Return a BPF program under which userfaultfd(2) and USERFAULTFD_IOC_NEW fail; all other calls pass.

    Args:
        error: the errno that they fail with.
        machine: the architecture, as printed by `uname -m`.

    Raises:
        KeyError: the system call numbers of this architecture are not known.
    """
    instructions = (
        # struct sock_filter: code, instructions to skip if true, and if false, constant.
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
    """Install the filter and execute the program."""
    filter_bytes = userfaultfd_filter(getattr(errno, arguments[0]), platform.machine())
    program = _Program(len(filter_bytes) // 8, filter_bytes)
    libc = ctypes.CDLL(None, use_errno=True)
    for option, first, second in (
        (_PR_SET_NO_NEW_PRIVS, 1, None),
        (_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program)),
    ):
        if libc.prctl(option, ctypes.c_ulong(first), second, ctypes.c_ulong(0), ctypes.c_ulong(0)) != 0:
            raise SystemExit(f"The kernel refuses a seccomp filter: {os.strerror(ctypes.get_errno())}.")
    os.execvp(arguments[1], arguments[1:])


if __name__ == "__main__":
    main(sys.argv[1:])
