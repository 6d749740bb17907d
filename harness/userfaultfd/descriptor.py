"""The class of an open userfaultfd: register memory, protect it, resolve faults, read events."""

from __future__ import annotations

import math
import os
import select
from types import TracebackType
from typing import Any

from . import abi, create, events
from .abi import Feature, Mode
from .errors import UserfaultfdError
from .libc import ioctl


class Userfaultfd:
    """An open userfaultfd. Leaving its ``with`` closes it, and so releases all threads that wait on it.

    All addresses and lengths are in bytes and multiples of the page size; for hugetlb memory, of the huge
    page size. Every ioctl raises UserfaultfdError, an OSError whose text names the ioctl and the range.
    Common to all ioctls:

    * EINVAL: the range is empty or not aligned, or a mode is not known.
    * ENOENT: a part of the range is not registered.
    * EAGAIN: mappings are changing and the event of that change has not been read; read it and try again.
    * ESRCH: the process that owns the memory has ended (4.13).
    """

    def __init__(self, features: int = 0, *, user_mode_only: bool = False) -> None:
        """Create a userfaultfd with these features enabled.

        Args:
            features: bits of `Feature`.
            user_mode_only: see `create.by_system_call`.

        Raises:
            FeatureMissing: the kernel does not offer all of them.
            UserfaultfdError: no userfaultfd can be created; see `create`.
        """
        self._descriptor = create.with_features(features, user_mode_only=user_mode_only)
        self.features = Feature(features)

    @classmethod
    def adopt(cls, descriptor: int, features: int) -> Userfaultfd:
        """Take ownership of a descriptor that a fork event or another process delivered."""
        self = cls.__new__(cls)
        self._descriptor = descriptor
        self.features = Feature(features)
        return self

    def __enter__(self) -> Userfaultfd:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.close()

    def fileno(self) -> int:
        """Return the descriptor, to poll it or to pass it to another process."""
        return self._descriptor

    def close(self) -> None:
        """Close it, which unregisters its memory and ends protection. A second call does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def register(self, address: int, length: int, mode: int = Mode.WP) -> frozenset[str]:
        """Register memory, whose faults are then reported as events (UFFDIO_REGISTER).

        Args:
            address: of the first byte.
            length: in bytes.
            mode: MISSING for accesses to pages that do not exist (4.3), WP for writes to protected pages
                (5.7), MINOR for pages in the page cache that are not mapped (5.13); or several of them.

        Returns:
            Names of the ioctls that work on this memory, e.g. ``{"WAKE", "COPY", "WRITEPROTECT"}``. A caller
            that wants WP must look for WRITEPROTECT: before 5.14 the kernel registered some memory that it
            could not protect.

        Raises:
            UserfaultfdError: EINVAL, the kind of memory does not support the mode, or it is not mapped;
                EBUSY, it is registered with another userfaultfd; EPERM, it maps a file that may not be
                written (5.7).
        """
        argument = abi.Register(address, length, mode, 0)
        self._call("UFFDIO_REGISTER", abi.UFFDIO_REGISTER, argument, address, length)
        return abi.ioctl_names(argument.ioctls)

    def unregister(self, address: int, length: int) -> None:
        """Unregister memory, which also ends its protection (UFFDIO_UNREGISTER).

        Threads that wait on this memory are woken only if it was registered for MISSING too
        (userfaultfd_unregister() in fs/userfaultfd.c, 5.10 to 6.18). Release or `wake` the others.
        """
        self._call("UFFDIO_UNREGISTER", abi.UFFDIO_UNREGISTER, abi.Range(address, length), address, length)

    def wake(self, address: int, length: int) -> None:
        """Wake threads that wait on this memory (UFFDIO_WAKE); on a page still protected they fault again."""
        self._call("UFFDIO_WAKE", abi.UFFDIO_WAKE, abi.Range(address, length), address, length)

    def write_protect(
        self,
        address: int,
        length: int,
        *,
        protect: bool = True,
        wake: bool = True,
        mode: int | None = None,
    ) -> None:
        """Write-protect pages, or release them (UFFDIO_WRITEPROTECT: 5.7; shmem and hugetlb 5.19).

        Unpopulated anonymous pages are skipped without an error, unless WP_UNPOPULATED (6.4) is enabled.

        Args:
            address: of the first byte.
            length: in bytes; may span several mappings since 6.4, before that ENOENT.
            protect: False releases.
            wake: whether a release wakes waiting threads.
            mode: raw mode bits that replace these two; tests pass wrong ones.

        Raises:
            UserfaultfdError: see the class; ENOENT also for memory that is registered, but not for WP;
                EFAULT, the kernel ran out of memory (6.4).
        """
        if mode is None:
            mode = abi.WRITEPROTECT_MODE_WP if protect else 0
            if not protect and not wake:
                mode = abi.WRITEPROTECT_MODE_DONTWAKE
        argument = abi.WriteProtect(address, length, mode)
        self._call("UFFDIO_WRITEPROTECT", abi.UFFDIO_WRITEPROTECT, argument, address, length)

    def copy(
        self, address: int, source: int, length: int, *, wake: bool = True, write_protect: bool = False
    ) -> int:
        """Fill missing pages with a copy of other memory (UFFDIO_COPY) and return the bytes done, `length`.

        Args:
            address: of the missing pages.
            source: address of the content, in this process; need not be aligned.
            length: in bytes.
            wake: whether to wake waiting threads.
            write_protect: map the pages protected (5.7); the range must be registered for WP, else EINVAL.

        Raises:
            UserfaultfdError: see the class; EEXIST, a page exists already, and the error's `done` is the
                number of bytes copied before it.
        """
        mode = (0 if wake else abi.COPY_MODE_DONTWAKE) | (abi.COPY_MODE_WP if write_protect else 0)
        argument = abi.Copy(address, source, length, mode, 0)
        return self._fill("UFFDIO_COPY", abi.UFFDIO_COPY, argument, "copy", address, length)

    def zeropage(self, address: int, length: int, *, wake: bool = True) -> int:
        """Fill missing pages with zeros (UFFDIO_ZEROPAGE) and return the bytes done.

        Raises:
            UserfaultfdError: EINVAL for hugetlb memory; otherwise as for `copy`.
        """
        argument = abi.Filled(address, length, 0 if wake else abi.ZEROPAGE_MODE_DONTWAKE, 0)
        return self._fill("UFFDIO_ZEROPAGE", abi.UFFDIO_ZEROPAGE, argument, "done", address, length)

    def continue_(self, address: int, length: int, *, wake: bool = True, write_protect: bool = False) -> int:
        """Map pages that are in the page cache (UFFDIO_CONTINUE, 5.13) and return the bytes done.

        With `write_protect` they are mapped protected (6.4).

        Raises:
            UserfaultfdError: see the class; EFAULT, a page is not in the cache; EEXIST, it is mapped already.
        """
        mode = (0 if wake else abi.CONTINUE_MODE_DONTWAKE) | (abi.CONTINUE_MODE_WP if write_protect else 0)
        argument = abi.Filled(address, length, mode, 0)
        return self._fill("UFFDIO_CONTINUE", abi.UFFDIO_CONTINUE, argument, "done", address, length)

    def poison(self, address: int, length: int, *, wake: bool = True) -> int:
        """Make accesses to missing pages raise SIGBUS (UFFDIO_POISON, 6.6) and return the bytes done.

        Raises:
            UserfaultfdError: as for `copy`.
        """
        argument = abi.Filled(address, length, 0 if wake else abi.POISON_MODE_DONTWAKE, 0)
        return self._fill("UFFDIO_POISON", abi.UFFDIO_POISON, argument, "done", address, length)

    def move(
        self, address: int, source: int, length: int, *, wake: bool = True, allow_holes: bool = False
    ) -> int:
        """Move anonymous pages without copying them (UFFDIO_MOVE, 6.8) and return the bytes done.

        Args:
            address: of the missing pages, which must be registered.
            source: address of the pages to move, aligned; they are missing afterwards.
            length: in bytes.
            wake: whether to wake waiting threads.
            allow_holes: skip pages that are missing in the source; else they give ENOENT.

        Raises:
            UserfaultfdError: see the class; EEXIST, a page exists at the destination; EBUSY, a page of the
                source is shared with a child or pinned; EDEADLK, source and destination overlap so that they
                cannot be locked.
        """
        mode = 0 if wake else abi.MOVE_MODE_DONTWAKE
        mode |= abi.MOVE_MODE_ALLOW_SRC_HOLES if allow_holes else 0
        argument = abi.Copy(address, source, length, mode, 0)
        return self._fill("UFFDIO_MOVE", abi.UFFDIO_MOVE, argument, "copy", address, length)

    def readable(self, timeout: float | None = None) -> bool:
        """Return whether there is an event to read, now or within `timeout` seconds; None waits for ever."""
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        return bool(poll.poll(None if timeout is None else max(0, math.ceil(timeout * 1000))))

    def read_events(self, timeout: float | None = None, most: int = 64) -> list[events.Event]:
        """Wait for events and read them.

        Args:
            timeout: seconds to wait; 0 does not wait, None waits for ever.
            most: the largest number of events to read.

        Returns:
            The events in the kernel's order; empty at the time-out, or when another reader took them.

        Raises:
            UserfaultfdError: EINVAL, the API handshake has not been done.
        """
        if not self.readable(timeout):
            return []
        try:
            return events.parse(os.read(self._descriptor, most * abi.MESSAGE_BYTES))
        except BlockingIOError:
            return []
        except OSError as error:
            raise UserfaultfdError(error.errno or 0, "read of a userfaultfd") from error

    def _call(
        self, name: str, request: int, argument: Any, start: int, length: int, output: str = ""
    ) -> None:
        code = ioctl(self._descriptor, request, argument)
        if code:
            done = int(getattr(argument, output)) if output else None
            raise UserfaultfdError(code, name, start, length, done)

    def _fill(self, name: str, request: int, argument: Any, output: str, start: int, length: int) -> int:
        self._call(name, request, argument, start, length, output)
        return int(getattr(argument, output))
