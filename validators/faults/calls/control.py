"""The page that a test shares with fail_call.c: which of QEMU's calls fail, and how many it made."""

from __future__ import annotations

import contextlib
import enum
import errno
import mmap
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from guest_images.provisioning import Provisioning
from validators.faults.preload.acts import SHARED_PAGE_BYTES
from validators.faults.preload.library import preload_library, preloading_wrapper

_SOURCE = Path(__file__).with_name("fail_call.c")
_VARIABLE = "SNAPPROOF_CALL_FAULTS"
_WORD = struct.Struct("=Q")
# Words of `struct control` in fail_call.c.
_LOADED, _KIND, _NUMBER, _ERROR, _ACTED, _CALLS = range(6)
_KINDS = 12
_DENIED = _CALLS + _KINDS
_HIDDEN = _DENIED + _KINDS


class Call(enum.IntEnum):
    """The userfaultfd calls that QEMU makes; numbers as in fail_call.c."""

    CREATE = 1
    CREATE_BY_DEVICE = 2
    API = 3
    REGISTER = 4
    PROTECT = 5
    UNPROTECT = 6
    UNREGISTER = 7
    WAKE = 8
    READ = 9
    POLL = 10
    OPEN_DEVICE = 11

    @property
    def slug(self) -> str:
        """Return its name in results."""
        return self.name.lower().replace("_", "-")


ERRORS: Mapping[Call, tuple[int, ...]] = {
    Call.CREATE: (errno.ENOSYS, errno.EPERM, errno.EMFILE, errno.ENOMEM),
    Call.CREATE_BY_DEVICE: (errno.EMFILE, errno.ENOMEM),
    Call.API: (errno.EINVAL, errno.EPERM),
    Call.REGISTER: (errno.EINVAL, errno.EBUSY, errno.ENOMEM),
    Call.PROTECT: (errno.EINVAL, errno.ENOENT, errno.EAGAIN),
    Call.UNPROTECT: (errno.EINVAL, errno.ENOENT, errno.EAGAIN),
    Call.UNREGISTER: (errno.EINVAL,),
    Call.WAKE: (errno.EINVAL,),
    Call.READ: (errno.EINTR, errno.EAGAIN, errno.EINVAL),
    Call.POLL: (errno.EINTR, errno.ENOMEM),
    # QEMU opens the device only once (8.0 util/userfaultfd.c), so no later case can meet that call.
    Call.OPEN_DEVICE: (),
}
"""The errnos of each call (userfaultfd(2), ioctl_userfaultfd(2), poll(2); Linux 6.x fs/userfaultfd.c)."""


@dataclass(frozen=True)
class CallFault:
    """A call that fails.

    Attributes:
        call: its kind.
        number: which of its kind, counted from 1.
        error: the errno.
    """

    call: Call
    number: int
    error: int


@dataclass(frozen=True)
class Denial:
    """What a kernel that lacks userfaultfd, or a part of it, denies.

    Attributes:
        errors: the errno of every call of a kind.
        hidden: feature bits that it does not offer (linux/userfaultfd.h, UFFD_FEATURE_*).
    """

    errors: Mapping[Call, int] = field(default_factory=dict)
    hidden: int = 0


class CallControl:
    """The shared page; see `call_control()`."""

    def __init__(self, page: mmap.mmap) -> None:
        self._page = page

    @property
    def loaded(self) -> bool:
        """Whether a process has loaded the library."""
        return self._get(_LOADED) != 0

    @property
    def acted(self) -> bool:
        """Whether an armed or denied call was made and failed, or a feature was hidden."""
        return self._get(_ACTED) != 0

    def counts(self) -> dict[Call, int]:
        """Return the number of calls of each kind since the last `armed()`, `denied()` or `reset()`."""
        return {call: self._get(_CALLS + call) for call in Call}

    def reset(self) -> None:
        """Let no call fail, and count from 0."""
        for word in range(_KIND, _HIDDEN + 1):
            self._set(word, 0)

    @contextmanager
    def armed(self, fault: CallFault) -> Iterator[None]:
        """Make a call fail for the length of the `with`; `acted` says whether it was made."""
        self.reset()
        self._set(_NUMBER, fault.number)
        self._set(_ERROR, fault.error)
        # Last, since this word puts the others into force.
        self._set(_KIND, fault.call)
        try:
            yield
        finally:
            self._set(_KIND, 0)

    @contextmanager
    def denied(self, denial: Denial) -> Iterator[None]:
        """Deny calls and features for the length of the `with`; `acted` says whether QEMU asked for one."""
        self.reset()
        for call, error in denial.errors.items():
            self._set(_DENIED + call, error)
        self._set(_HIDDEN, denial.hidden)
        try:
            yield
        finally:
            for word in range(_DENIED, _HIDDEN + 1):
                self._set(word, 0)

    def _get(self, word: int) -> int:
        return int(_WORD.unpack_from(self._page, word * _WORD.size)[0])

    def _set(self, word: int, value: int) -> None:
        _WORD.pack_into(self._page, word * _WORD.size, value)


@contextmanager
def call_control(path: Path) -> Iterator[CallControl]:
    """Make the page as a file and map it."""
    with path.open("w+b") as file:
        file.truncate(SHARED_PAGE_BYTES)
        with contextlib.closing(mmap.mmap(file.fileno(), SHARED_PAGE_BYTES)) as page:
            yield CallControl(page)


def controlled_qemu(qemu: Path, page: Path, provisioning: Provisioning) -> Path:
    """Write a wrapper script beside the page that runs `qemu` under its control.

    Raises:
        MachineryMissing, SetupBroken: the library cannot be compiled.
    """
    library = preload_library(_SOURCE, provisioning)
    return preloading_wrapper(library, qemu, page.parent, {_VARIABLE: str(page)})
