"""A userfaultfd as an object: register memory, protect it, resolve faults, read events."""

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
    """An open userfaultfd; leaving its ``with`` closes it, which releases all threads that it holds.

    All addresses and lengths are bytes and multiples of the page size: that of huge pages where memory is
        made of
    them. Every call raises UserfaultfdError, an OSError whose text names the ioctl and the range. Common to
    all: EINVAL, the range is empty or not aligned, or a mode is not known; ENOENT, the range is not all
        registered;
    EAGAIN, the memory's mappings are changing and an event of that waits to be read, after which one tries
    again; ESRCH, the process whose memory it is has ended (4.13).
    """

    def __init__(self, features: int = 0, *, user_mode_only: bool = False) -> None:
        """Make a userfaultfd with these features on.

        Args:
            features: bits of `Feature`.
            user_mode_only: as `create.by_system_call`.

        Raises:
            FeatureMissing: the kernel does not offer all of them.
            UserfaultfdError: no descriptor can be had; see `create`.
        """
        self._descriptor = create.with_features(features, user_mode_only=user_mode_only)
        self.features = Feature(features)

    @classmethod
    def adopt(cls, descriptor: int, features: int) -> Userfaultfd:
        """Own a descriptor that came from elsewhere: a fork event, another process."""
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
        """The descriptor, for poll and for passing on."""
        return self._descriptor

    def close(self) -> None:
        """Close it, once or more often. Its memory is unregistered and no longer protected."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def register(self, address: int, length: int, mode: int = Mode.WP) -> frozenset[str]:
        """Trap accesses to memory.

        Args:
            address: of the first byte.
            length: bytes.
            mode: MISSING for pages that are not there (4.3), WP for writes to protected pages (5.7), MINOR
                for pages in the page cache that are not mapped (5.13); or several.

        Returns:
            Names of the ioctls that work on this memory, e.g. ``{"WAKE", "COPY", "WRITEPROTECT"}``. Whoever
            wants WP looks for WRITEPROTECT: before 5.14 some memory was registered and could not be
                protected.

        Raises:
            UserfaultfdError: EINVAL, the memory is of a kind that cannot be trapped so, or not mapped; EBUSY,
                it is registered with another userfaultfd; EPERM, a file that may not be written (5.7).
        """
        argument = abi.Register(address, length, mode, 0)
        self._call("UFFDIO_REGISTER", abi.UFFDIO_REGISTER, argument, address, length)
        return abi.ioctl_names(argument.ioctls)

    def unregister(self, address: int, length: int) -> None:
        """Trap no more; protection ends.

        Threads that wait on this memory are woken only where it was registered for MISSING too
        (userfaultfd_unregister() in fs/userfaultfd.c, 5.10 to 6.18): release or `wake` the others.
        """
        self._call("UFFDIO_UNREGISTER", abi.UFFDIO_UNREGISTER, abi.Range(address, length), address, length)

    def wake(self, address: int, length: int) -> None:
        """Let threads that wait on this memory try again; on a page still protected they fault anew."""
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
        """Protect pages from writes, or release them (5.7; shmem and huge pages 5.19).

        Anonymous pages that are not there are passed over in silence, unless WP_UNPOPULATED (6.4) is on.

        Args:
            address: of the first byte.
            length: bytes; may span several mappings since 6.4, before that ENOENT.
            protect: False releases.
            wake: a release lets waiting threads go on.
            mode: raw mode bits instead of these two, for tests of wrong ones.

        Raises:
            UserfaultfdError: see the class; ENOENT also where memory is registered but not for WP; EFAULT,
                out of memory on the way (6.4).
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
        """Fill missing pages with a copy of other memory, and return the bytes done, which is `length`.

        Args:
            address: of the missing pages.
            source: address of the content, in this process; need not be aligned.
            length: bytes.
            wake: let waiting threads go on.
            write_protect: the pages arrive protected (5.7); the range must be registered for WP, else EINVAL.

        Raises:
            UserfaultfdError: see the class; EEXIST, a page is there already; its `done` has the bytes before
                that.
        """
        mode = (0 if wake else abi.COPY_MODE_DONTWAKE) | (abi.COPY_MODE_WP if write_protect else 0)
        argument = abi.Copy(address, source, length, mode, 0)
        return self._fill("UFFDIO_COPY", abi.UFFDIO_COPY, argument, "copy", address, length)

    def zeropage(self, address: int, length: int, *, wake: bool = True) -> int:
        """Fill missing pages with zeros and return the bytes done; EINVAL for huge pages, else as `copy`."""
        argument = abi.Filled(address, length, 0 if wake else abi.ZEROPAGE_MODE_DONTWAKE, 0)
        return self._fill("UFFDIO_ZEROPAGE", abi.UFFDIO_ZEROPAGE, argument, "done", address, length)

    def continue_(self, address: int, length: int, *, wake: bool = True, write_protect: bool = False) -> int:
        """Map pages that are in the page cache (5.13) and return the bytes done.

        With `write_protect` they arrive protected (6.4).

        Raises:
            UserfaultfdError: see the class; EFAULT, a page is not in the cache; EEXIST, it is mapped already.
        """
        mode = (0 if wake else abi.CONTINUE_MODE_DONTWAKE) | (abi.CONTINUE_MODE_WP if write_protect else 0)
        argument = abi.Filled(address, length, mode, 0)
        return self._fill("UFFDIO_CONTINUE", abi.UFFDIO_CONTINUE, argument, "done", address, length)

    def poison(self, address: int, length: int, *, wake: bool = True) -> int:
        """Make missing pages raise SIGBUS when touched (6.6), and return the bytes done; errors as `copy`."""
        argument = abi.Filled(address, length, 0 if wake else abi.POISON_MODE_DONTWAKE, 0)
        return self._fill("UFFDIO_POISON", abi.UFFDIO_POISON, argument, "done", address, length)

    def move(
        self, address: int, source: int, length: int, *, wake: bool = True, allow_holes: bool = False
    ) -> int:
        """Move anonymous pages without copying them (6.8) and return the bytes done.

        Args:
            address: missing pages, registered.
            source: address of the pages; these are missing afterwards. Aligned.
            length: bytes.
            wake: let waiting threads go on.
            allow_holes: pages missing in the source stay missing; else ENOENT.

        Raises:
            UserfaultfdError: see the class; EEXIST, a page is there; EBUSY, a page of the source is shared
                with a child or pinned; EDEADLK, source and destination overlap in a way that cannot be
                locked.
        """
        mode = 0 if wake else abi.MOVE_MODE_DONTWAKE
        mode |= abi.MOVE_MODE_ALLOW_SRC_HOLES if allow_holes else 0
        argument = abi.Copy(address, source, length, mode, 0)
        return self._fill("UFFDIO_MOVE", abi.UFFDIO_MOVE, argument, "copy", address, length)

    def readable(self, timeout: float | None = None) -> bool:
        """Whether there is an event to be read, or is one within so many seconds; None waits for ever."""
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        return bool(poll.poll(None if timeout is None else max(0, math.ceil(timeout * 1000))))

    def read_events(self, timeout: float | None = None, most: int = 64) -> list[events.Event]:
        """Wait for events and read them.

        Args:
            timeout: seconds to wait; 0 only looks, None waits for ever.
            most: how many to read at once.

        Returns:
            The events in the kernel's order; none when the time is over, or when another reader was faster.

        Raises:
            UserfaultfdError: EINVAL, the descriptor has not been through the handshake.
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
