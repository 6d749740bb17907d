"""Map memory to use userfaultfd on, of each kind that guest RAM can be made of."""

from __future__ import annotations

import ctypes
import os
from types import TracebackType

from . import libc
from .libc import PAGE_BYTES

# linux/memfd.h: MFD_CLOEXEC, MFD_HUGETLB (4.14); the binary logarithm of the page size is in bits 26 and up.
_MFD_CLOEXEC, _MFD_HUGETLB = 1, 4
_HUGE_SHIFT = 26
_READ_WRITE = libc.PROT_READ | libc.PROT_WRITE


class Region:
    """A mapping; leaving its ``with`` unmaps it.

    Attributes:
        address: of its first byte.
        length: in bytes.
        page_bytes: bytes per page: the system's page size, or the huge page size.
        descriptor: of its file or memfd, which the region owns; -1 where it has none.
    """

    def __init__(self, address: int, length: int, page_bytes: int = PAGE_BYTES, descriptor: int = -1) -> None:
        self.address = address
        self.length = length
        self.page_bytes = page_bytes
        self.descriptor = descriptor

    @classmethod
    def anonymous(cls, length: int, *, shared: bool = False, align: int = PAGE_BYTES) -> Region:
        """Map anonymous memory, private or shared (shmem), and populate none of it.

        Args:
            length: in bytes.
            shared: MAP_SHARED instead of MAP_PRIVATE.
            align: alignment of the address, e.g. 2 MiB for transparent huge pages.
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
        """Map a new memfd (3.17); of huge pages of `huge_bytes` bytes (4.14) if that is not 0."""
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
        """Map anonymous memory of reserved huge pages; raise OSError, ENOMEM if there are too few."""
        flags = libc.MAP_ANONYMOUS | libc.MAP_HUGETLB | (huge_bytes.bit_length() - 1) << _HUGE_SHIFT
        flags |= libc.MAP_SHARED if shared else libc.MAP_PRIVATE
        return cls(libc.mmap(length, _READ_WRITE, flags), length, huge_bytes)

    @classmethod
    def file(
        cls, descriptor: int, length: int, *, shared: bool = False, page_bytes: int = PAGE_BYTES
    ) -> Region:
        """Map an open file from its beginning; the region takes ownership of the descriptor."""
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
        """Unmap it; a second call does nothing. Using a view of it afterwards crashes the process."""
        if self.length:
            libc.munmap(self.address, self.length)
            self.length = 0
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    @property
    def pages(self) -> int:
        """Number of its pages of `page_bytes` bytes."""
        return self.length // self.page_bytes

    @property
    def view(self) -> memoryview:
        """Its bytes as a buffer, e.g. for ``os.readv(file, [region.view[:4096]])``, which releases the GIL.

        Indexing the view does not release it: never store into a protected page that way (see `libc`).
        """
        array = (ctypes.c_char * self.length).from_address(self.address)
        return memoryview(array).cast("B")

    def at(self, page: int) -> int:
        """Return the address of a page."""
        return self.address + page * self.page_bytes

    def load(self, offset: int = 0, length: int | None = None) -> bytes:
        """Return bytes from `offset`, up to its end by default. The GIL is released meanwhile."""
        return libc.load(self.address + offset, self.length - offset if length is None else length)

    def store(self, offset: int, data: bytes) -> None:
        """Write bytes at `offset`. The GIL is released meanwhile."""
        libc.store(self.address + offset, data)

    def fill(self, byte: int) -> None:
        """Set all bytes to `byte`, which populates the memory."""
        libc.fill(self.address, self.length, byte)
