"""Runs a program as another process runs: usage `enter.py PID UID GID PROGRAM ARGUMENTS`, as root.

The program gets the mount namespace and working folder of the process and the user and group that are given,
without further rights. It is killed when the process that has started this one ends.

Nothing here imports more than the standard library.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

_KEPT = ("QEMU_MODULE_DIR",)
# Linux include/uapi/linux/sched.h.
_NEWNS = 0x00020000
# Linux include/uapi/linux/prctl.h PR_SET_PDEATHSIG.
_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


def enter(pid: int, uid: int, gid: int, command: list[str]) -> None:
    """Become the program; raises OSError."""
    parent = os.getppid()
    process = Path(f"/proc/{pid}")
    folder, theirs = (process / "cwd").readlink(), process / "ns/mnt"
    if theirs.readlink() != Path("/proc/self/ns/mnt").readlink():
        namespace = os.open(theirs, os.O_RDONLY | os.O_CLOEXEC)
        if _LIBC.setns(namespace, _NEWNS):
            raise OSError(ctypes.get_errno(), "the mount namespace of the VM cannot be entered")
    os.chdir(folder)
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    _become_mortal()
    if os.getppid() == parent:
        # Our own variables are not for that user.
        kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
        os.execve(command[0], command, {"PATH": "/usr/bin:/bin", **kept})


def _become_mortal() -> None:
    """Have the kernel kill us with our parent; the change of the user has cleared that (prctl(2))."""
    _LIBC.prctl(_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    enter(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
