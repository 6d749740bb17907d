"""The write tracker of the 2018 series for QEMU: mprotect, and a SIGSEGV handler in C (segv.c)."""

from __future__ import annotations

import ctypes
import os
import time

from harness.userfaultfd import Region, libc

from .tracker import MemoryCopy, Session, Tracker, TrackerFailed

_IDLE_SECONDS = 0.002
_SAVED = 2


class _Shared(ctypes.Structure):
    """``struct tracker`` of segv.c."""

    _fields_ = [
        ("start", ctypes.c_uint64),
        ("pages", ctypes.c_uint64),
        ("page_bytes", ctypes.c_uint64),
        ("copy", ctypes.c_void_p),
        ("state", ctypes.c_void_p),
        ("faults", ctypes.c_uint64),
        ("error", ctypes.c_int64),
        ("plant", ctypes.c_uint64),
    ]


class Mprotect(Tracker):
    """Snapshot memory by mprotect: a thread that writes gets SIGSEGV, and its handler saves the page.

    Two limits of the method: a system call that writes into protected memory fails with EFAULT and no signal;
    and each writable page between protected ones is a mapping of its own, of which a process may have
    vm.max_map_count.
    """

    name = "mprotect"
    plant = 0
    """Planted fault of segv.c, 0 for none."""

    def __init__(self, helper: str) -> None:
        """Set the path of the library built from segv.c, empty where there is none."""
        self._helper = helper

    def missing(self) -> str:
        """Return why it cannot work here: the library is missing."""
        if not self._helper:
            return "It needs the library built from trackers/segv.c; give its path with --helper."
        if not os.path.exists(self._helper):  # noqa: PTH110 (a path from the command line)
            return f"There is no library '{self._helper}', which --helper names."
        return ""

    def snapshot(self, session: Session) -> MemoryCopy:
        """Take a snapshot whose T0 is its start."""
        region, result = session.region, MemoryCopy.of_size(session.region.length)
        library = ctypes.CDLL(self._helper)
        library.tracker_start.restype = library.tracker_stop.restype = ctypes.c_long
        library.tracker_save.argtypes = [ctypes.c_void_p, ctypes.c_uint64]
        library.tracker_save.restype = None
        states = ctypes.create_string_buffer(region.pages)
        copy = (ctypes.c_char * region.length).from_buffer(result.data)
        shared = _Shared(
            region.address,
            region.pages,
            region.page_bytes,
            ctypes.addressof(copy),
            ctypes.addressof(states),
            plant=self.plant,
        )
        began = time.perf_counter_ns()
        if library.tracker_start(ctypes.byref(shared)) != 0:
            raise TrackerFailed("The kernel refuses to install the SIGSEGV handler (rt_sigaction).")
        try:
            session.writers.pause()
            self._protect(region)
            session.at_t0()
            session.writers.resume()
            result.stats.stun_ns = time.perf_counter_ns() - began
            self._sweep(session, library, shared, states, result)
        finally:
            libc.mprotect(region.address, region.length, libc.PROT_READ | libc.PROT_WRITE)
            # A writer may still be in the handler, for a fault before the mprotect above.
            session.writers.pause()
            library.tracker_stop()
            session.writers.resume()
        result.stats.faults = shared.faults
        result.stats.total_ns = time.perf_counter_ns() - began
        if shared.error:
            why = os.strerror(-shared.error)
            raise TrackerFailed(f"mprotect of one page failed after {shared.faults} faults: {why}.")
        return result

    def _protect(self, region: Region) -> None:
        libc.mprotect(region.address, region.length, libc.PROT_READ)

    def _sweep(
        self,
        session: Session,
        library: ctypes.CDLL,
        shared: _Shared,
        states: ctypes.Array[ctypes.c_char],
        result: MemoryCopy,
    ) -> None:
        while not session.may_sweep() and not shared.error:
            time.sleep(_IDLE_SECONDS)
        for page in range(session.region.pages):
            if ord(states[page]) != _SAVED:
                result.stats.swept += 1
                library.tracker_save(ctypes.byref(shared), page)
