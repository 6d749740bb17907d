"""Memory to try userfaultfd on: a mapping with a known address, of each kind that RAM can be made of."""

from __future__ import annotations

import ctypes
import os
from types import TracebackType

from . import libc
from .libc import PAGE_BYTES

# linux/memfd.h: MFD_CLOEXEC, MFD_HUGETLB (4.14); the page size's logarithm goes into the bits from 26 on.
_MFD_CLOEXEC, _MFD_HUGETLB = 1, 4
_HUGE_SHIFT = 26
_READ_WRITE = libc.PROT_READ | libc.PROT_WRITE


class Region:
    """A mapping; leaving its ``with`` unmaps it.

    Attributes:
        address: of its first byte.
        length: bytes.
        page_bytes: what its pages are made of: the system's page size, or that of huge pages.
        descriptor: of its file or memfd, which the region owns; -1 where it has none.
    """

    def __init__(self, address: int, length: int, page_bytes: int = PAGE_BYTES, descriptor: int = -1) -> None:
        self.address = address
        self.length = length
        self.page_bytes = page_bytes
        self.descriptor = descriptor

    @classmethod
    def anonymous(cls, length: int, *, shared: bool = False, align: int = PAGE_BYTES) -> Region:
        """Private anonymous memory, or shared, which is shmem; untouched.

        Args:
            length: bytes.
            shared: MAP_SHARED.
            align: the address is a multiple of it, e.g. 2 MiB for transparent huge pages.
        """
        flags = libc.MAP_ANONYMOUS | (libc.MAP_SHARED if shared else libc.MAP_PRIVATE)
        address = libc.mmap(length + align, _READ_WRITE, flags)
        start = (address + align - 1) // align * align
        if start > address:
            libc.munmap(address, start - address)
        libc.munmap(start + length, address + align - start)
        return cls(start, length)

    @classmethod
    def memfd(cls, length: int, *, shared: bool = True, huge_bytes: int = 0) -> Region:
        """Memory of a memfd (3.17), of huge pages of `huge_bytes` bytes where that is not 0 (4.14)."""
        flags = _MFD_CLOEXEC
        if huge_bytes:
            flags |= _MFD_HUGETLB | (huge_bytes.bit_length() - 1) << _HUGE_SHIFT
        descriptor = os.memfd_create("userfaultfd-region", flags)
        try:
            os.ftruncate(descriptor, length)
            return cls.file(descriptor, length, shared=shared, page_bytes=huge_bytes or PAGE_BYTES)
        except OSError:
            os.close(descriptor)
            raise

    @classmethod
    def huge(cls, length: int, huge_bytes: int, *, shared: bool = False) -> Region:
        """Anonymous memory of reserved huge pages; ENOMEM where there are not enough."""
        flags = libc.MAP_ANONYMOUS | libc.MAP_HUGETLB | (huge_bytes.bit_length() - 1) << _HUGE_SHIFT
        flags |= libc.MAP_SHARED if shared else libc.MAP_PRIVATE
        return cls(libc.mmap(length, _READ_WRITE, flags), length, huge_bytes)

    @classmethod
    def file(
        cls, descriptor: int, length: int, *, shared: bool = False, page_bytes: int = PAGE_BYTES
    ) -> Region:
        """Memory of an open file, from its beginning; the region owns the descriptor from here on."""
        flags = libc.MAP_SHARED if shared else libc.MAP_PRIVATE
        return cls(libc.mmap(length, _READ_WRITE, flags, descriptor), length, page_bytes, descriptor)

    def __enter__(self) -> Region:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Unmap it, once or more often. Views of it must not be used any more: that ends the process."""
        if self.length:
            libc.munmap(self.address, self.length)
            self.length = 0
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    @property
    def pages(self) -> int:
        """How many pages of `page_bytes` it has."""
        return self.length // self.page_bytes

    @property
    def view(self) -> memoryview:
        """Its bytes, e.g. for ``os.readv(file, [region.view[:4096]])``, which does release the GIL.

        Indexing it does not: no thread may store into a protected page that way (see `libc`).
        """
        array = (ctypes.c_char * self.length).from_address(self.address)
        return memoryview(array).cast("B")

    def at(self, page: int) -> int:
        """Address of a page."""
        return self.address + page * self.page_bytes

    def load(self, offset: int = 0, length: int | None = None) -> bytes:
        """Copy bytes out, to its end by default; the GIL is free while a fault is resolved."""
        return libc.load(self.address + offset, self.length - offset if length is None else length)

    def store(self, offset: int, data: bytes) -> None:
        """Write bytes; the GIL is free while a fault is resolved."""
        libc.store(self.address + offset, data)

    def fill(self, byte: int) -> None:
        """Set all bytes, which populates the memory."""
        libc.fill(self.address, self.length, byte)
