"""Read files by io_uring, with raw system calls: one request at a time, into plain or registered buffers."""

from __future__ import annotations

import ctypes
import os
import struct

from harness.userfaultfd import Region, libc
from harness.userfaultfd.libc import LIBC

# asm-generic/unistd.h; the same numbers on all architectures (5.1).
_SETUP, _ENTER, _REGISTER = 425, 426, 427
# linux/io_uring.h
_OFF_SQ_RING, _OFF_CQ_RING, _OFF_SQES = 0, 0x8000000, 0x10000000
_ENTER_GETEVENTS = 1
_REGISTER_BUFFERS = 0
OP_READ_FIXED, OP_READ = 4, 22
_PARAMS_BYTES = 120
_SQE = struct.Struct("<BBHiQQIIQHHiQQ")


class Uring:
    """An io_uring with room for one request."""

    def __init__(self) -> None:
        params = ctypes.create_string_buffer(_PARAMS_BYTES)
        self._descriptor = libc.checked(LIBC.syscall(_SETUP, 1, params), "io_uring_setup")
        entries, cq_entries = struct.unpack_from("<II", params.raw, 0)
        self._sq = struct.unpack_from("<8I", params.raw, 40)
        self._cq = struct.unpack_from("<8I", params.raw, 80)
        self._lengths: list[int] = []
        self._rings = [
            self._map(self._sq[6] + entries * 4, _OFF_SQ_RING),
            self._map(self._cq[5] + cq_entries * 16, _OFF_CQ_RING),
            self._map(entries * 64, _OFF_SQES),
        ]

    def __enter__(self) -> Uring:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _map(self, length: int, offset: int) -> int:
        address = LIBC.mmap(None, length, 3, libc.MAP_SHARED | libc.MAP_POPULATE, self._descriptor, offset)
        if address == ctypes.c_void_p(-1).value:
            libc.checked(-1, "mmap of an io_uring")
        self._lengths.append(length)
        return int(address)

    def register_buffer(self, region: Region) -> None:
        """Pin a region for READ_FIXED (IORING_REGISTER_BUFFERS).

        Raises:
            OSError: ENOMEM, RLIMIT_MEMLOCK forbids it.
        """
        vector = (ctypes.c_uint64 * 2)(region.address, region.length)
        done = LIBC.syscall(_REGISTER, self._descriptor, _REGISTER_BUFFERS, vector, 1)
        libc.checked(done, "io_uring_register")

    def read(self, descriptor: int, address: int, length: int, *, fixed: bool) -> int:
        """Read from the start of a file to an address; return the bytes read, or a negative errno.

        The call may wait in the kernel, without the GIL.
        """
        sq_ring, cq_ring, sqes = self._rings
        opcode = OP_READ_FIXED if fixed else OP_READ
        entry = _SQE.pack(opcode, 0, 0, descriptor, 0, address, length, 0, 7, 0, 0, 0, 0, 0)
        ctypes.memmove(sqes, entry, len(entry))
        tail = ctypes.c_uint32.from_address(sq_ring + self._sq[1])
        ctypes.c_uint32.from_address(sq_ring + self._sq[6]).value = 0
        tail.value += 1
        libc.checked(
            LIBC.syscall(_ENTER, self._descriptor, 1, 1, _ENTER_GETEVENTS, None, 0), "io_uring_enter"
        )
        head = ctypes.c_uint32.from_address(cq_ring + self._cq[0])
        mask = ctypes.c_uint32.from_address(cq_ring + self._cq[2]).value
        place = cq_ring + self._cq[5] + (head.value & mask) * 16
        result = ctypes.c_int32.from_address(place + 8).value
        head.value += 1
        return result

    def close(self) -> None:
        """Unmap and close it, which unpins registered buffers."""
        for address, length in zip(self._rings, self._lengths):
            libc.munmap(address, length)
        os.close(self._descriptor)
