"""Holds the memory of one list while its steps are taken, and compares it with the model."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Callable

from harness.userfaultfd import PAGE_BYTES, Mode, Userfaultfd, UserfaultfdError, libc
from harness.userfaultfd.pagemap import read_entries

from . import model
from .children import Children
from .memory import ADDRESS_OF, KINDS, Memory, Page, runs, value_of
from .model import Outcome, States
from .steps import Monitor
from .watch import Fault, Watch, features_of

LOST, GAINED = "protection-lost", "protection-gained"
UNREPORTED, SPURIOUS = "write-unreported", "event-spurious"
CONTENT, POPULATION, SCAN = "content-differs", "population-differs", "scan-differs"
REFUSED, ACCEPTED, CHILD, ANSWER = "call-refused", "call-accepted", "child-differs", "answer-refused"
HANG, SPIN, KILLED, SPLAT = "access-hangs", "call-spins", "process-killed", "kernel-splat"
"""Codes of what is wrong. The last four are told by the process that waits for the list."""

_SHOWN = 6
# Errors that are limits of this machine.
_LIMITS = (errno.ENOMEM, errno.EMFILE, errno.ENFILE)


class Wrong(Exception):
    """The kernel did what the model excludes.

    Attributes:
        code: one of the codes above.
        fields: the numbers of pages, their kind, and what was expected.
    """

    def __init__(self, code: str, sentence: str, **fields: Any) -> None:
        super().__init__(sentence)
        self.code, self.fields = code, fields


class NoVerdict(Exception):
    """The list cannot be taken to its end for a reason that says nothing about the kernel."""


Binding = Callable[[Any], Userfaultfd]
"""Makes a userfaultfd from features; planted faults are subclasses of `Userfaultfd`."""


class Session:
    """The memory, the userfaultfd and the children of a list; `close` ends them all.

    Attributes:
        monitor: as the list says.
        memory: what is mapped.
        watch: the userfaultfd, and the thread that answers.
        children: processes that were forked.
        reached: what the steps have reached.
        kernel_faults: whether accesses in the kernel can be answered too.
    """

    def __init__(
        self,
        monitor: Monitor,
        *,
        kernel_faults: bool = True,
        binding: Binding | None = None,
        watcher: type[Watch] = Watch,
    ) -> None:
        self.monitor, self.kernel_faults = monitor, kernel_faults
        make = binding or (lambda features: Userfaultfd(features, user_mode_only=not kernel_faults))
        self.memory = Memory(monitor)
        self.watch = watcher(monitor, make(features_of(monitor)))
        self.children = Children()
        self.reached: set[str] = set()
        self._step = ""

    @property
    def uffd(self) -> Userfaultfd:
        """The userfaultfd."""
        return self.watch.uffd

    def begin(self, kind: str, pages: Iterable[Page]) -> None:
        """Note which step is taken, and in which states its pages are."""
        self._step = kind
        self.watch.peek = not any(state.lazy for page in self.memory.all_pages() for state in page.states)
        for name, states in {(page.kind.name, page.states) for page in pages}:
            self.reached.add(f"{kind} in {name}:{model.words(states)}")

    def pages(self, arguments: Mapping[str, Any]) -> list[Page]:
        """Return the pages that a step names and that are mapped."""
        kind = KINDS[arguments["on"]]
        if kind.asynchronous and not self.monitor.asynchronous:
            return []
        first, count = arguments.get("first", 0), arguments.get("count", kind.pages)
        return [page for page in self.memory.pages(kind.name) if first <= page.number < first + count]

    def turn(self, pages: Iterable[Page], change: Callable[[States, model.Rules], States]) -> None:
        """Change the states of pages as an operation does."""
        for page in pages:
            page.states = change(page.states, self.memory.rules(page))

    def call(self, what: Callable[[], object], allowed: Sequence[int] = ()) -> int:
        """Make a call; return 0 or its errno.

        Raises:
            Wrong: it failed with an errno that the kernel does not document for it here.
            NoVerdict: a limit of this machine was reached.
        """
        try:
            what()
        except OSError as error:
            code = error.errno or 0
            self.reached.add(f"{self._step} gives {errno.errorcode.get(code, str(code))}")
            if code in allowed:
                return code
            if code in _LIMITS:
                raise NoVerdict(f"A limit of this machine was reached: {error}.") from error
            raise Wrong(
                REFUSED, f"A call that the kernel should support failed: {error}.", errno=code
            ) from error
        return 0

    def must_fail(self, code: int, wanted: int, what: str) -> None:
        """Check that a call had this errno.

        Raises:
            Wrong: it succeeded, or failed otherwise.
        """
        if code != wanted:
            raise Wrong(
                ACCEPTED,
                f"{what} gave {errno.errorcode.get(code, 'success')}, not {errno.errorcode[wanted]}.",
            )

    def touch(
        self, pages: Sequence[Page], act: Callable[[], object], write: bool, value: int | None = None
    ) -> None:
        """Do what accesses pages, and check the events against those that the states of the pages allow."""
        expected = {
            page: model.accessed(page.states, self.memory.rules(page), write, value) for page in pages
        }
        self.observe(expected, act)

    def write_all(self, values: Mapping[Page, int]) -> None:
        """Write a pattern to each of some pages by stores, and check their events."""
        expected = {
            page: model.accessed(page.states, self.memory.rules(page), True, value)
            for page, value in values.items()
        }

        def write() -> None:
            for page, value in values.items():
                store(page.address, ADDRESS_OF[value])

        self.observe(expected, write)

    def observe(self, expected: Mapping[Page, frozenset[Outcome]], act: Callable[[], object]) -> None:
        """Do something, and leave of each page's outcomes those that fit the events."""
        self._quiet()
        addresses = [page.address for page in expected]
        act()
        events: dict[int, list[Fault]] = {}
        for fault in self.watch.take():
            events.setdefault(fault.address, []).append(fault)
        for address, (page, outcomes) in zip(addresses, expected.items()):
            self._settle(page, outcomes, events.pop(address, []))
        if events:
            address, faults = next(iter(events.items()))
            page_words = next(
                (page.words for page in self.memory.all_pages() if page.address == address), hex(address)
            )
            raise Wrong(SPURIOUS, f"{page_words} raised the event {faults[0].what}, and was not accessed.")
        self._answered()

    def _settle(self, page: Page, outcomes: frozenset[Outcome], faults: Sequence[Fault]) -> None:
        if not faults and len(outcomes) == 1:
            ((events, state),) = outcomes
            if not events:
                page.states = frozenset({state})
                return
        told: list[str] = []
        for fault in faults:
            # A thread may fault again before it sees the answer.
            if not told or told[-1] != fault.what:
                told.append(fault.what)
        left = frozenset(state for events, state in outcomes if list(events) == told)
        self.reached.add(f"{self._step} raises {'+'.join(told) or 'none'}")
        if not left:
            wanted = sorted({"+".join(events) or "none" for events, _ in outcomes})
            code = UNREPORTED if all(len(events) > len(told) for events, _ in outcomes) else SPURIOUS
            raise Wrong(
                code,
                f"An access to {page.words} raised the events {'+'.join(told) or 'none'}, and the model "
                f"allows {' or '.join(wanted)}.",
                kind=page.kind.name,
                page=page.number,
            )
        self._peeked(page, faults)
        page.states = left

    def _peeked(self, page: Page, faults: Sequence[Fault]) -> None:
        words = {state.value for state in model.loosened(page.states, self.memory.rules(page))}
        filled = any(fault.what == "missing" for fault in faults)
        for fault in faults:
            if fault.peeked is not None and not filled and fault.peeked not in words:
                raise Wrong(
                    CONTENT,
                    f"While the writer of {page.words} waited, the page held {fault.peeked:#x}, and the "
                    f"model allows {_listed(words)}.",
                    kind=page.kind.name,
                    page=page.number,
                )

    def _quiet(self) -> None:
        for fault in self.watch.take():
            raise Wrong(
                SPURIOUS, f"The event {fault.what} of {fault.address:#x} came, and nothing was accessed."
            )

    def _answered(self) -> None:
        for problem in self.watch.problems():
            raise Wrong(ANSWER, f"The answer to an event failed: {problem}.")

    def check(self) -> None:
        """Compare pagemap of all pages with the model."""
        self._quiet()
        for run in runs(list(self.memory.all_pages()), lambda page: page.kind):
            entries = read_entries(run[0].address, len(run) * PAGE_BYTES)
            self._check_run(run, [value >> 57 for value in entries])

    def _check_run(self, run: Sequence[Page], tops: Sequence[int]) -> None:
        wrong: list[tuple[Page, bool, bool]] = []
        # Most pages of a huge one are alike, and there are hundreds.
        known: dict[tuple[States, int, int], States] = {}
        for page, top in zip(run, tops):
            key = (page.states, page.mode, top)
            left = known.get(key)
            bit = bool(top & 1)
            if left is None:
                rules = self.memory.rules(page)
                left = model.shown(page.states, rules, bool(top >> 6 & 1), bool(top >> 5 & 1), bit)
                known[key] = left
            if left:
                page.states = left
            else:
                wrong.append((page, bit, any(state.wp == bit for state in page.states)))
        if wrong:
            self._differs(wrong)

    def _differs(self, wrong: Sequence[tuple[Page, bool, bool]]) -> None:
        first, bit, fits = wrong[0]
        same = [page for page, *rest in wrong if rest == [bit, fits] and page.kind is first.kind]
        which = ", ".join(str(page.number) for page in same[:_SHOWN]) + (
            ", ..." if len(same) > _SHOWN else ""
        )
        if fits:
            code, what = POPULATION, "exists, or not, against the model"
        elif bit:
            code, what = GAINED, "is protected, and must not be"
        else:
            code, what = LOST, "is not protected, and must be"
        raise Wrong(
            code,
            f"After {self._step}, pagemap says that page {which} of {first.kind.name} {what}.",
            kind=first.kind.name,
            page=first.number,
            pages=[page.number for page in same[:_SHOWN]],
        )

    def check_content(self, pages: Iterable[Page]) -> None:
        """Compare the content of pages that exist and may be read with the model."""
        sure = [
            page
            for page in pages
            if page.readable
            and not page.mode & Mode.MINOR
            and not any(state.lazy or not state.there for state in page.states)
        ]
        for run in runs(sure):
            content = libc.load(run[0].address, len(run) * PAGE_BYTES)
            for at, page in enumerate(run):
                self.holds(page, value_of(content[at * PAGE_BYTES : (at + 1) * PAGE_BYTES]))

    def holds(self, page: Page, value: int) -> None:
        """Check that a read of a page may give this content, and leave the states that fit."""
        left = model.holding(page.states, self.memory.rules(page), value)
        if not left:
            values = sorted(model.values(page.states, self.memory.rules(page)))
            raise Wrong(
                CONTENT,
                f"{page.words} holds {'no pattern as a whole' if value < 0 else f'pattern {value}'}, and the "
                f"model allows {_listed(values)}.",
                kind=page.kind.name,
                page=page.number,
                allowed=values,
            )
        page.states = left

    def write(self, page: Page, value: int, way: Callable[[int, int], object]) -> None:
        """Write a pattern to a page in some way, and check events and content."""
        self.touch([page], lambda: way(page.address, ADDRESS_OF[value]), True, value)

    def read(self, page: Page) -> None:
        """Read a page, and check events and content."""
        content: list[bytes] = []
        self.touch([page], lambda: content.append(libc.load(page.address, PAGE_BYTES)), False)
        self.holds(page, value_of(content[0]))

    def finish(self, samples: Sequence[Page]) -> None:
        """Check all pages, write to some, close the userfaultfd, and check that nothing stays protected."""
        self._step = "the last step"
        self.check_content(self.memory.all_pages())
        for page in samples:
            if page.writable:
                self.write(page, 9, store)
                self.read(page)
        self.check()
        self.children.end()
        self.watch.close()
        self._step = "close(2) of the userfaultfd"
        for page in self.memory.all_pages():
            page.states = model.released(page.states)
            page.mode = 0
        self.watch.take()
        self.check()

    def close(self) -> None:
        """End all, also after a failure."""
        self.children.end()
        self.watch.close()
        self.memory.close()


def store(address: int, source: int) -> None:
    """Write a page by a store of this thread."""
    libc.copy(address, source, PAGE_BYTES)


def kernel_write(address: int, source: int) -> None:
    """Have the kernel write a page, by readv(2) of a pipe."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        os.write(writer, (ctypes.c_char * PAGE_BYTES).from_address(source).raw)
        os.readv(reader, [(ctypes.c_char * PAGE_BYTES).from_address(address)])
    finally:
        os.close(reader)
        os.close(writer)


def uffd_call(call: Callable[[], int]) -> tuple[int, int]:
    """Make a call that fills pages; return its errno, 0 for none, and the bytes that it has done."""
    try:
        return 0, call()
    except UserfaultfdError as error:
        return error.errno or 0, error.done


def _listed(values: Iterable[int]) -> str:
    return " or ".join(f"pattern {value}" for value in sorted(values))
