"""Probe what a feature test needs of a host: kernel features, settings, privileges, processors.

Each probe returns a sentence that says why the need is not met, or an empty string if it is met.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import platform
from pathlib import Path
from typing import Callable

from harness.userfaultfd import (
    FEATURE_SINCE,
    Feature,
    Region,
    UserfaultfdError,
    create,
    feature_names,
    libc,
    offered_features,
    probe_userfaultfd,
    refusal_reason,
    scan_supported,
)
from tests_functional.kernel.trackers import stores

from .memory import HUGE_BYTES, HUGETLB_BYTES

_THP = Path("/sys/kernel/mm/transparent_hugepage")
_HUGE_PAGES_WANTED = 16

HUGETLB_POOL = Path(f"/sys/kernel/mm/hugepages/hugepages-{HUGETLB_BYTES >> 10}kB")
"""The files of the pool of huge pages that tests take (Linux admin-guide/mm/hugetlbpage.rst)."""


@functools.cache
def may_trap_kernel() -> bool:
    """Return whether this user may trap faults in kernel mode."""
    return bool(probe_userfaultfd().opened_by)


@functools.cache
def offered() -> int:
    """Return the userfaultfd features of this kernel, 0 if no userfaultfd can be created."""
    try:
        return int(offered_features(user_mode_only=not may_trap_kernel()))
    except UserfaultfdError:
        return 0


@functools.cache
def missing_features(features: int) -> str:
    """Return why these userfaultfd features are not available, empty if they are."""
    if not may_trap_kernel():
        try:
            os.close(create.by_system_call(user_mode_only=True))
        except UserfaultfdError as error:
            return refusal_reason(error.errno or 0)
    missing = features & ~offered()
    if missing:
        since = ", ".join(
            f"{name} (since {FEATURE_SINCE[Feature[name]]})" if name in Feature.__members__ else name
            for name in feature_names(missing)
        )
        return f"The kernel ({platform.machine()}) does not offer {since}."
    if features & Feature.EVENT_FORK:
        try:
            os.close(create.with_features(Feature.EVENT_FORK, user_mode_only=not may_trap_kernel()))
        except UserfaultfdError as error:
            return f"EVENT_FORK needs CAP_SYS_PTRACE: {error}."
    return ""


@functools.cache
def missing_need(name: str) -> str:
    """Return why a need is not met, empty if it is met."""
    if name.startswith("store:"):
        return stores.supported(name.partition(":")[2])
    return NEEDS[name]()


def _kernel_faults() -> str:
    return "" if may_trap_kernel() else probe_userfaultfd().reason


def _root() -> str:
    return "" if os.geteuid() == 0 else "The test needs root."


def _thp() -> str:
    return _one_of(_THP / "enabled", ("always", "madvise"))


def _mthp() -> str:
    return _one_of(_THP / "hugepages-64kB" / "enabled", ("always", "madvise", "inherit"))


def _shmem_thp() -> str:
    return _one_of(_THP / "shmem_enabled", ("always", "within_size", "advise", "force"))


def _one_of(path: Path, wanted: tuple[str, ...]) -> str:
    if not path.exists():
        return f"The kernel has no {path}."
    current = path.read_text().partition("[")[2].partition("]")[0]
    return "" if current in wanted else f"{path} is '{current}', not {' or '.join(wanted)}; use --prepare."


def _hugetlb() -> str:
    if not HUGETLB_POOL.is_dir():
        return f"The host has no reserved huge pages of {HUGETLB_BYTES >> 20} MiB."
    numbers = {
        name: int((HUGETLB_POOL / f"{name}_hugepages").read_text())
        for name in ("free", "resv", "surplus", "nr_overcommit")
    }
    free = numbers["free"] - numbers["resv"] + max(0, numbers["nr_overcommit"] - numbers["surplus"])
    if free >= _HUGE_PAGES_WANTED:
        return ""
    return f"The host has {free} free huge pages, but {_HUGE_PAGES_WANTED} are needed; use --prepare."


def _swap() -> str:
    areas = Path("/proc/swaps")
    lines = areas.read_text().splitlines()[1:] if areas.exists() else []
    return "" if lines else "The host has no swap space; use --prepare."


def _own_swap() -> str:
    """Require swap space that the test may switch off: the zram device that --prepare sets up."""
    if os.environ.get(OWN_SWAP):
        return ""
    return "The test runs swapoff, which it does only to the swap device of --prepare."


def _poison() -> str:
    if os.environ.get(POISON):
        return ""
    return "The test takes frames of RAM offline until the next boot; use --poison on a machine of your own."


def _ksm() -> str:
    run = Path("/sys/kernel/mm/ksm/run")
    if not run.exists():
        return "The kernel has no KSM."
    if run.read_text().strip() == "1":
        return ""
    return "KSM is not running (/sys/kernel/mm/ksm/run); use --ksm."


def _compaction() -> str:
    path = "/proc/sys/vm/compact_memory"
    if not os.path.exists(path):  # noqa: PTH110 (root may write it, but nobody may read it)
        return "The kernel has no memory compaction."
    return "" if os.access(path, os.W_OK) else f"The test needs root to write {path}."


def _two_cpus() -> str:
    return "" if len(os.sched_getaffinity(0)) > 1 else "The test needs two CPUs, the host has one."


def _two_nodes() -> str:
    nodes = len(list(Path("/sys/devices/system/node").glob("node[0-9]*")))
    return "" if nodes > 1 else f"The test needs two NUMA nodes, the host has {nodes}."


def _scan() -> str:
    return "" if scan_supported() else "The kernel has no PAGEMAP_SCAN (since 6.7)."


def _ptrace() -> str:
    scope = Path("/proc/sys/kernel/yama/ptrace_scope")
    value = scope.read_text().strip() if scope.exists() else "0"
    if value in {"0", "1"} or (os.geteuid() == 0 and value == "2"):
        return ""
    return f"{scope} is {value}, so the test may not use ptrace."


def _io_uring() -> str:
    setting = Path("/proc/sys/kernel/io_uring_disabled")
    if setting.exists() and setting.read_text().strip() == "2":
        return f"{setting} is 2, so io_uring is disabled."
    # asm-generic/unistd.h: io_uring_setup (5.1); without a parameter block it fails with EFAULT.
    libc.LIBC.syscall(425, 1, None)
    code = ctypes.get_errno()
    return "" if code == errno.EFAULT else f"io_uring_setup fails: {os.strerror(code)}."


def advice_missing(advice: int, name: str) -> str:
    """Return why a kind of advice is not available, empty if it is."""
    return _advice(advice, name)()


def _advice(advice: int, name: str) -> Callable[[], str]:
    def probe() -> str:
        # Aligned, since MADV_COLLAPSE also returns EINVAL for memory that cannot have a huge page.
        with Region.anonymous(HUGE_BYTES, align=HUGE_BYTES) as region:
            region.fill(1)
            try:
                libc.madvise(region.address, region.length, advice)
            except OSError as error:
                return f"The kernel has no {name}: {error}." if error.errno == errno.EINVAL else ""
        return ""

    return probe


OWN_SWAP = "SNAPPROOF_OWN_SWAP"
"""Environment variable with the path of the swap device that --prepare has set up."""

POISON = "SNAPPROOF_POISON"
"""Environment variable that is set if tests may take frames of RAM offline."""

NEEDS: dict[str, Callable[[], str]] = {
    "kernel-faults": _kernel_faults,
    "root": _root,
    "thp": _thp,
    "mthp": _mthp,
    "shmem-thp": _shmem_thp,
    "hugetlb": _hugetlb,
    "swap": _swap,
    "own-swap": _own_swap,
    "ksm": _ksm,
    "poison": _poison,
    "compaction": _compaction,
    "two-cpus": _two_cpus,
    "two-nodes": _two_nodes,
    "scan": _scan,
    "ptrace": _ptrace,
    "io-uring": _io_uring,
    "pageout": _advice(libc.MADV_PAGEOUT, "MADV_PAGEOUT (5.4)"),
    "populate-read": _advice(libc.MADV_POPULATE_READ, "MADV_POPULATE_READ (5.14)"),
    "collapse": _advice(libc.MADV_COLLAPSE, "MADV_COLLAPSE (6.1)"),
}
"""The probe of each need by name."""
