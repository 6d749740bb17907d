"""Takes steps: each calls the kernel, and changes the model as the kernel documents it."""

from __future__ import annotations

import ctypes
import errno
import threading
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Callable

from harness.userfaultfd import PAGE_BYTES, Mode, UserfaultfdError, libc, protected_pages, scan
from harness.userfaultfd.pagemap import PM_SCAN_WP_MATCHING

from . import model
from .children import SLOW
from .memory import ADDRESS_OF, RW, Page, keep_small, runs, value_of
from .memory import KINDS as MEMORY
from .session import (
    CHILD,
    GAINED,
    POPULATION,
    SCAN,
    NoVerdict,
    Session,
    Wrong,
    kernel_write,
    store,
    uffd_call,
)

Arguments = Mapping[str, Any]
Act = Callable[[Session, Arguments], None]

_KSM = Path("/sys/kernel/mm/ksm")
_MERGE_SECONDS = 1.0
_SCANS = 3
_COMPACT = Path("/proc/sys/vm/compact_memory")

FILLS: dict[str, Callable[[int, int], int]] = {
    "same": lambda _number, value: value,
    "each": lambda number, value: 1 + (number + value) % 5,
    "mixed": lambda number, value: value if number % 2 else 0,
    "zeros": lambda _number, _value: 0,
}
"""What a page is filled with, by its number and the step's value."""


def _fill(session: Session, given: Arguments) -> None:
    """Write to the pages one after the other."""
    pattern, value = FILLS[given["pattern"]], given["value"]
    session.write_all({page: pattern(page.number, value) for page in session.pages(given) if page.writable})


def _write(session: Session, given: Arguments) -> None:
    ways: dict[str, Callable[[int, int], object]] = {
        "store": store,
        "thread": _by_thread,
        "kernel": kernel_write if session.kernel_faults else store,
    }
    for page in session.pages(given):
        if page.writable:
            session.write(page, given["value"], ways[given["way"]])


def _by_thread(address: int, source: int) -> None:
    thread = threading.Thread(target=store, args=(address, source), daemon=True)
    thread.start()
    thread.join()


def _read(session: Session, given: Arguments) -> None:
    for page in session.pages(given):
        if page.readable:
            session.read(page)


def _register(session: Session, given: Arguments) -> None:
    """Register pages; with the same or more modes a second time, never with fewer.

    userfaultfd_register_range() leaves alone what has all these modes already, and replaces others. To drop
    WP strands markers, so that is not drawn.
    """
    mode = given["mode"]
    if given["on"] != "shmem":
        mode &= ~Mode.MINOR
    if session.monitor.asynchronous:
        mode = Mode.WP | mode & ~Mode.MINOR
    if MEMORY[given["on"]].asynchronous:
        mode &= Mode.WP
    pages = [
        page for page in session.pages(given) if mode and not (page.mode & Mode.WP and not mode & Mode.WP)
    ]
    for run in runs(pages):
        session.call(partial(session.uffd.register, *_range(run), mode))
        for page in run:
            page.mode = page.mode if page.mode & mode == mode else int(mode)


def _unregister(session: Session, given: Arguments) -> None:
    """End registration and protection (userfaultfd_unregister(), uffd_wp_range()).

    Memory that can be protected by WP_ASYNC alone is refused while it is not (vma_can_userfault()).
    """
    pages = [page for page in session.pages(given) if page.mode or not page.kind.asynchronous]
    for run in runs(pages):
        session.call(partial(session.uffd.unregister, *_range(run)))
        for page in run:
            page.mode = 0
            page.states = model.released(page.states)


def _protect(session: Session, given: Arguments) -> None:
    _write_protect(session, given, protect=True)


def _release(session: Session, given: Arguments) -> None:
    if not session.monitor.asynchronous:
        _write_protect(session, given, protect=False)


def _write_protect(session: Session, given: Arguments, protect: bool) -> None:
    """Protect or release pages; ENOENT for those that are not registered for it (mwriteprotect_range())."""
    change = model.protected if protect else (lambda states, _rules: model.released(states))
    for run in runs(session.pages(given), _for_wp):
        call = partial(session.uffd.write_protect, *_range(run), protect=protect)
        if _for_wp(run[0]):
            session.call(call)
            session.turn(run, change)
        else:
            code = session.call(call, (errno.ENOENT,))
            session.must_fail(
                code, errno.ENOENT, "UFFDIO_WRITEPROTECT of memory that is not registered for it"
            )


def _for_wp(page: Page) -> bool:
    return bool(page.mode & Mode.WP)


def _advise(session: Session, pages: Sequence[Page], advice: int, allowed: Sequence[int] = ()) -> list[Page]:
    """Give advice on pages; return those of calls that succeeded."""
    done: list[Page] = []
    for run in runs(pages):
        if session.call(partial(libc.madvise, *_range(run), advice), allowed) == 0:
            done += run
    return done


def _unlocked(session: Session, given: Arguments) -> list[Page]:
    """Return the pages that mlock does not keep (madvise_dontneed_free_valid_vma(), can_madv_lru_vma())."""
    return [page for page in session.pages(given) if not page.locked]


def _dontneed(session: Session, given: Arguments) -> None:
    session.turn(_advise(session, _unlocked(session, given), libc.MADV_DONTNEED), model.zapped)


def _free(session: Session, given: Arguments) -> None:
    pages = [page for page in _unlocked(session, given) if page.kind.anonymous]
    session.watch.peek = False
    session.turn(_advise(session, pages, libc.MADV_FREE), lambda states, _rules: model.freed(states))


def _cold(session: Session, given: Arguments) -> None:
    _advise(session, _unlocked(session, given), libc.MADV_COLD)


def _pageout(session: Session, given: Arguments) -> None:
    _advise(session, _unlocked(session, given), libc.MADV_PAGEOUT)


def _willneed(session: Session, given: Arguments) -> None:
    _advise(session, session.pages(given), 3, (errno.EBADF,))


def _remove(session: Session, given: Arguments) -> None:
    """Punch a hole; before 6.7 EACCES where mprotect has taken writing away (madvise_remove())."""
    pages = [page for page in _unlocked(session, given) if not page.kind.private and page.writable]
    session.turn(_advise(session, pages, libc.MADV_REMOVE), model.punched)


def _populate(session: Session, given: Arguments) -> None:
    """Have the kernel access pages (MADV_POPULATE_READ, MADV_POPULATE_WRITE)."""
    write = given["write"]
    advice = libc.MADV_POPULATE_WRITE if write else libc.MADV_POPULATE_READ
    pages = [page for page in session.pages(given) if (page.writable if write else page.readable)]
    if session.kernel_faults and pages:
        session.touch(pages, lambda: _advise(session, pages, advice), write)


def _guard(session: Session, given: Arguments) -> None:
    """Install guard regions (6.13) and remove them, which empties pages (guard_install_set_pte())."""
    pages = [page for page in _unlocked(session, given) if page.kind.anonymous and page.writable]
    done = _advise(session, pages, libc.MADV_GUARD_INSTALL, (errno.EINVAL,))
    _advise(session, done, libc.MADV_GUARD_REMOVE)
    session.turn(done, model.zapped)


def _huge(session: Session, given: Arguments) -> None:
    """Allow or forbid huge pages; huge pages that exist stay."""
    if given["on"] == "thp":
        pages = session.pages(given)
        advice = libc.MADV_HUGEPAGE if given["allow"] else libc.MADV_NOHUGEPAGE
        _advise(session, pages, advice)
        for page in pages:
            page.mapping += 0 if given["allow"] else 1 << 20


def _collapse(session: Session, given: Arguments) -> None:
    """Make a huge page; that may fail for many reasons, and must not change content or protection."""
    pages = session.pages(given)
    failures = (errno.EINVAL, errno.EAGAIN, errno.EBUSY, errno.ENOMEM)
    _advise(session, pages, libc.MADV_COLLAPSE, failures)
    session.turn(pages, model.collapsed)


def _mprotect(session: Session, given: Arguments) -> None:
    access = {"none": 0, "read": libc.PROT_READ, "write": RW}[given["access"]]
    for run in runs(session.pages(given)):
        session.call(partial(libc.mprotect, *_range(run), access))
        for page in run:
            page.access = access


def _mlock(session: Session, given: Arguments) -> None:
    """Lock pages: the kernel may write to those of private memory (populate_vma_page_range())."""
    pages = [page for page in session.pages(given) if page.writable]
    if not session.kernel_faults:
        return
    expected = {
        page: model.accessed(page.states, session.memory.rules(page), page.kind.private, None)
        | frozenset(((), state) for state in page.states)
        for page in pages
    }

    def lock() -> None:
        for run in runs(pages):
            if libc.LIBC.mlock(*_pointers(run)) != 0:
                raise NoVerdict("This user may not lock so much memory.")

    session.observe(expected, lock)
    for page in pages:
        page.locked = True


def _munlock(session: Session, given: Arguments) -> None:
    for run in runs(session.pages(given)):
        libc.checked(libc.LIBC.munlock(*_pointers(run)), "munlock")
        for page in run:
            page.locked = False


def _mremap(session: Session, given: Arguments) -> None:
    """Move pages of one mapping to another address, where they are not registered."""
    pages = runs(session.pages(given), lambda page: page.area)
    if not pages or not MEMORY[given["on"]].anonymous:
        return
    run = pages[0]
    aligned = PAGE_BYTES << 9 if len(run) == 512 else PAGE_BYTES
    target = session.memory.reserve(len(run) * PAGE_BYTES, aligned)
    flags = libc.MREMAP_MAYMOVE | libc.MREMAP_FIXED
    start, length = _range(run)
    # EFAULT: the pages are of two mappings that are alike, and were not merged.
    if session.call(lambda: libc.mremap(start, length, length, flags, target), (errno.EFAULT,)):
        raise NoVerdict("The kernel does not move two mappings by one mremap.")
    mapping = session.memory.new_mapping()
    for at, page in enumerate(run):
        page.address, page.mapping, page.mode = target + at * PAGE_BYTES, mapping, 0
        page.states = model.released(page.states)
    # Its old address stays free for others.
    libc.mmap(length, 0, libc.MAP_PRIVATE | libc.MAP_ANONYMOUS | libc.MAP_FIXED, address=start)


def _mmap(session: Session, given: Arguments) -> None:
    """Map anonymous memory over pages."""
    pages = session.pages(given) if MEMORY[given["on"]].anonymous else []
    flags = libc.MAP_PRIVATE | libc.MAP_ANONYMOUS | libc.MAP_FIXED
    for run in runs(pages):
        start, length = _range(run)
        session.call(partial(libc.mmap, length, RW, flags, address=start))
        if not run[0].kind.huge:
            keep_small(start, length)
        mapping = session.memory.new_mapping()
        for page in run:
            page.fresh(page.address, mapping)


def _munmap(session: Session, given: Arguments) -> None:
    session.memory.unmap(session.pages(given))


def _fork(session: Session, given: Arguments) -> None:
    """Fork a child, whose memory is not registered, and so not protected (copy_present_pte())."""
    said = session.children.fork(lambda: _in_child(session), given["stays"])
    if said.startswith("broken"):
        raise NoVerdict(f"The child could not check its memory ({said}).")
    if said:
        raise Wrong(CHILD, f"A child without a userfaultfd {said}")
    assert SLOW.startswith("broken")


def _in_child(session: Session) -> str:
    """Check in the child that nothing is protected, and that all has the parent's content."""
    for run in runs(list(session.memory.all_pages())):
        bits = protected_pages(*_range(run))
        if bits:
            return f"has a protected page: {run[bits[0]].words}."
    for page in session.memory.all_pages():
        if page.readable and page.kind.name != "thp" and (page.kind.private or _exists(page)):
            value = value_of(libc.load(page.address, PAGE_BYTES))
            if value not in model.values(page.states, session.memory.rules(page)._replace(mode=0)):
                return f"reads pattern {value} in {page.words}."
            if page.writable and page.kind.private:
                store(page.address, ADDRESS_OF[8])
    return ""


def _exists(page: Page) -> bool:
    """Return whether a page exists for sure, so that a read of shared memory does not make it."""
    return all(state.there for state in page.states)


def _child_ends(session: Session, _given: Arguments) -> None:
    session.children.end_first()


def _filled(session: Session, run: Sequence[Page], value: int, wp: bool, call: Callable[[], int]) -> None:
    """Fill missing pages: those up to the first that exists (mfill_atomic())."""
    code, done = uffd_call(call)
    session.reached.add(f"fill gives {errno.errorcode.get(code, 'success')}")
    if code == errno.ENOENT and len(run) > 1:
        # The pages are of two mappings that are alike, and were not merged.
        return
    if code not in (0, errno.EEXIST, errno.EAGAIN):
        session.call(lambda: _raise(code))
    count = done // PAGE_BYTES
    # EAGAIN says nothing about the next page: the mappings change just now, or a part was done.
    for page in run[: count + (code == errno.EEXIST)]:
        rules = session.memory.rules(page)
        before, page.states = page.states, model.filled(page.states, rules, value, wp, page in run[:count])
        if not page.states:
            said = "filled" if page in run[:count] else "refused to fill"
            raise Wrong(
                POPULATION,
                f"The kernel {said} {page.words}, which is {model.words(before)}.",
                kind=page.kind.name,
                page=page.number,
            )


def _raise(code: int) -> None:
    raise UserfaultfdError(code, "UFFDIO_COPY or UFFDIO_ZEROPAGE")


def _fillable(session: Session, given: Arguments) -> list[list[Page]]:
    """Return pages that userfaultfd may fill: each piece in one mapping that is registered."""
    pages = [
        page for page in session.pages(given) if page.mode and (page.kind.anonymous or not page.kind.private)
    ]
    return runs(pages, lambda page: page.area)


def _copy(session: Session, given: Arguments) -> None:
    value = given["value"]
    for run in _fillable(session, given):
        wp = bool(given["wp"] and _for_wp(run[0]))
        for page in run:
            # One page at a time: the source is one page long.
            _filled(
                session,
                [page],
                value,
                wp,
                partial(session.uffd.copy, page.address, ADDRESS_OF[value], PAGE_BYTES, write_protect=wp),
            )


def _zeropage(session: Session, given: Arguments) -> None:
    for run in _fillable(session, given):
        _filled(session, run, 0, False, partial(session.uffd.zeropage, *_range(run)))


def _continue(session: Session, given: Arguments) -> None:
    """Map pages of the cache, protected or not (mfill_atomic_pte_continue()).

    The kernel refuses it for a page that is mapped, or not in the cache.
    """
    pages = [page for page in session.pages(given) if page.mode & Mode.MINOR]
    wp = given["wp"]
    for page in pages:
        code, _ = uffd_call(
            partial(
                session.uffd.continue_, page.address, PAGE_BYTES, write_protect=bool(wp and _for_wp(page))
            )
        )
        session.reached.add(f"continue gives {errno.errorcode.get(code, 'success')}")
        if code == 0:
            page.states = frozenset(
                state._replace(wp=bool(wp and _for_wp(page))) for state in page.states if state.there
            )
            if not page.states:
                raise Wrong(POPULATION, f"UFFDIO_CONTINUE mapped {page.words}, which is not in the cache.")


def _move(session: Session, given: Arguments) -> None:
    """Move one page by UFFDIO_MOVE (6.8); a failure must change nothing."""
    sources = session.pages(given)[:1]
    targets = session.pages({**given, "first": given["to"], "count": 1})
    if not sources or not targets or sources[0] is targets[0] or not sources[0].kind.anonymous:
        return
    source, target = sources[0], targets[0]
    code, done = uffd_call(lambda: session.uffd.move(target.address, source.address, PAGE_BYTES))
    session.reached.add(f"move gives {errno.errorcode.get(code, 'success')}")
    if code or not done:
        return
    rules = session.memory.rules(source)
    came = model.moved(model.loosened(source.states, rules), session.memory.rules(target))
    free = any(not state.there for state in model.loosened(target.states, session.memory.rules(target)))
    if not came or not free:
        raise Wrong(
            POPULATION, f"UFFDIO_MOVE moved {source.words}, which does not exist, or over {target.words}."
        )
    target.states, source.states = came, frozenset({model.missing(rules)})
    # Here, and not by the check after the step: the place that a page was moved to names the cause.
    if not target.mode & Mode.WP and protected_pages(target.address, PAGE_BYTES):
        raise Wrong(
            GAINED,
            f"UFFDIO_MOVE left {target.words} protected, which is not registered for that.",
            kind=target.kind.name,
            page=target.number,
            moved=True,
        )


def _scan(session: Session, given: Arguments) -> None:
    """Find written pages by PAGEMAP_SCAN, and protect them in the same step under asynchronous protection."""
    pages = session.pages(given)
    protect = bool(given["protect"] and session.monitor.asynchronous and all(_for_wp(page) for page in pages))
    for run in runs(pages):
        try:
            flags = PM_SCAN_WP_MATCHING if protect else 0
            found = set(scan(*_range(run), flags=flags, most_regions=len(run) + 1).pages(run[0].address))
        except UserfaultfdError as error:
            if error.errno in (errno.ENOTTY, errno.EINVAL):
                return
            raise
        for at, page in enumerate(run):
            left = model.scanned(page.states, session.memory.rules(page), at in found, protect)
            if not left:
                said = "written" if at in found else "not written"
                raise Wrong(
                    SCAN,
                    f"PAGEMAP_SCAN says that {page.words} was {said}, which is {model.words(page.states)}.",
                    kind=page.kind.name,
                    page=page.number,
                )
            page.states = left


def _merge(session: Session, given: Arguments) -> None:
    """Let KSM merge pages, and wait for some of its rounds if it runs."""
    pages = session.pages(given)
    for page in _advise(session, pages, libc.MADV_MERGEABLE, (errno.EINVAL,)):
        page.mergeable = True
    if not any(page.mergeable for page in pages) or _number(_KSM / "run") != 1:
        return
    first, end = _number(_KSM / "full_scans"), time.monotonic() + _MERGE_SECONDS
    while _number(_KSM / "full_scans") < first + _SCANS and time.monotonic() < end:
        time.sleep(0.005)


def _number(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0


def _unmerge(session: Session, given: Arguments) -> None:
    """Take merged pages apart, as writes do, or without events (break_ksm())."""
    pages = [page for page in session.pages(given) if page.mergeable]
    if not session.kernel_faults:
        return
    expected = {
        page: frozenset(((), state) for state in page.states)
        | model.accessed(page.states, session.memory.rules(page), True, None)
        for page in pages
    }
    session.observe(expected, lambda: _advise(session, pages, libc.MADV_UNMERGEABLE))
    for page in pages:
        page.mergeable = False


def _compact(session: Session, _given: Arguments) -> None:
    """Have the kernel move pages of the whole machine; root alone may."""
    try:
        _COMPACT.write_text("1")
    except OSError:
        session.reached.add("compact is not allowed")


def _range(run: Sequence[Page]) -> tuple[int, int]:
    return run[0].address, len(run) * PAGE_BYTES


def _pointers(run: Sequence[Page]) -> tuple[Any, Any]:

    return ctypes.c_void_p(run[0].address), ctypes.c_size_t(len(run) * PAGE_BYTES)


ACTS: dict[str, Act] = {
    "fill": _fill,
    "write": _write,
    "read": _read,
    "register": _register,
    "unregister": _unregister,
    "protect": _protect,
    "release": _release,
    "dontneed": _dontneed,
    "free": _free,
    "cold": _cold,
    "pageout": _pageout,
    "willneed": _willneed,
    "remove": _remove,
    "populate": _populate,
    "guard": _guard,
    "huge": _huge,
    "collapse": _collapse,
    "mprotect": _mprotect,
    "mlock": _mlock,
    "munlock": _munlock,
    "mremap": _mremap,
    "mmap": _mmap,
    "munmap": _munmap,
    "fork": _fork,
    "child-ends": _child_ends,
    "copy": _copy,
    "zeropage": _zeropage,
    "continue": _continue,
    "move": _move,
    "scan": _scan,
    "merge": _merge,
    "unmerge": _unmerge,
    "compact": _compact,
}
"""What each kind of step does."""
