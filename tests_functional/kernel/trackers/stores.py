"""Ways to write a page: by the program's own stores, and by system calls in which the kernel writes.

A hypervisor's device emulation writes the second way all the time: a disk read or a network packet goes
straight into guest RAM. The kernel then meets the page's protection, and the write trackers differ in what
happens to such a write.
"""

from __future__ import annotations

import ctypes
import os
import socket
import tempfile
from typing import Callable

from harness.userfaultfd import Region, libc

from .writers import Store


class _Vector(ctypes.Structure):
    """``struct iovec``."""

    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


class ShortWrite(OSError):
    """A system call wrote less than the page."""


def _whole(done: int, wanted: int, call: str) -> None:
    if done == -1:
        libc.checked(-1, call)
    if done != wanted:
        raise ShortWrite(0, f"{call} did {done} of {wanted} bytes")


def by_the_program() -> Store:
    """Write by plain stores."""
    return libc.store


def by_read() -> Store:
    """Write by read(2) from a pipe."""
    source, sink = os.pipe2(os.O_CLOEXEC)

    def store(address: int, data: bytes) -> None:
        os.write(sink, data)
        _whole(libc.LIBC.read(source, ctypes.c_void_p(address), len(data)), len(data), "read")

    return store


def by_recv() -> Store:
    """Write by recv(2) from a UNIX domain socket."""
    left, right = socket.socketpair()

    def store(address: int, data: bytes) -> None:
        left.sendall(data)
        done = libc.LIBC.recv(right.fileno(), ctypes.c_void_p(address), len(data), socket.MSG_WAITALL)
        _whole(done, len(data), "recv")

    return store


def by_process_vm_writev() -> Store:
    """Write by process_vm_writev(2) to this process itself, which takes the same path as to another one."""
    write = libc.LIBC.process_vm_writev
    write.restype = ctypes.c_ssize_t
    write.argtypes = [
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_ulong,
        ctypes.c_void_p,
        ctypes.c_ulong,
        ctypes.c_ulong,
    ]

    def store(address: int, data: bytes) -> None:
        buffer = ctypes.create_string_buffer(data, len(data))
        local, remote = _Vector(ctypes.addressof(buffer), len(data)), _Vector(address, len(data))
        done = write(os.getpid(), ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)
        _whole(done, len(data), "process_vm_writev")

    return store


def by_direct_read() -> Store:
    """Write by pread(2) with O_DIRECT: the kernel pins the page, and the disk writes it by DMA.

    Raises:
        OSError: EINVAL, the file system of temporary files does not support O_DIRECT.
    """
    # Files of Python, which close their descriptors when the returned function is no longer used.
    target = tempfile.NamedTemporaryFile()  # noqa: SIM115
    descriptor = os.open(target.name, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
    source = open(descriptor, "rb", buffering=0)  # noqa: PTH123, SIM115

    def store(address: int, data: bytes) -> None:
        os.pwrite(target.fileno(), data, 0)
        done = libc.LIBC.pread(source.fileno(), ctypes.c_void_p(address), len(data), ctypes.c_long(0))
        _whole(done, len(data), "read with O_DIRECT")

    return store


def by_memory_file() -> Store:
    """Write by /proc/self/mem, which writes even to a read-only mapping (FOLL_FORCE)."""
    memory = os.open("/proc/self/mem", os.O_RDWR | os.O_CLOEXEC)

    def store(address: int, data: bytes) -> None:
        _whole(os.pwrite(memory, data, address), len(data), "write to /proc/self/mem")

    return store


STORES: dict[str, Callable[[], Store]] = {
    "store": by_the_program,
    "read": by_read,
    "recv": by_recv,
    "process-vm-writev": by_process_vm_writev,
    "direct-read": by_direct_read,
    "proc-mem": by_memory_file,
}
"""By name: the function that sets up each way to write."""


def supported(name: str) -> str:
    """Try a way to write on plain memory; return why it does not work on this host, empty if it does."""
    with Region.anonymous(libc.PAGE_BYTES) as region:
        try:
            STORES[name]()(region.address, b"x" * region.length)
        except OSError as error:
            return f"Writing by '{name}' fails on this host: {error}."
        return "" if region.load() == b"x" * region.length else f"Writing by '{name}' changes nothing."
