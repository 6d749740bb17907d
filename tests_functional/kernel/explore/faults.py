"""Plants faults in the binding of userfaultfd, and explores from scratch until each is found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from harness.userfaultfd import PAGE_BYTES, FaultFlag, Userfaultfd, UserfaultfdError

from .campaign import Campaign, Event
from .draw import Drawer
from .executor import Setting
from .known import ISSUES
from .memory import ADDRESS_OF
from .session import (
    ACCEPTED,
    CONTENT,
    GAINED,
    HANG,
    LOST,
    POPULATION,
    REFUSED,
    SCAN,
    SPURIOUS,
    UNREPORTED,
    Binding,
)
from .watch import Fault, Watch
from .worker import Patience, Worker

_SECONDS = 60.0
_AVOIDED = frozenset(issue.name for issue in ISSUES)


class _LastPageUnprotected(Userfaultfd):
    """Does not protect the last page of a range."""

    def write_protect(self, address: int, length: int, **given: Any) -> None:
        left = PAGE_BYTES if given.get("protect", True) and length > PAGE_BYTES else 0
        super().write_protect(address, length - left, **given)


class _SecondPageKept(Userfaultfd):
    """Leaves the second page of a range protected when it releases the range."""

    def write_protect(self, address: int, length: int, **given: Any) -> None:
        super().write_protect(address, length, **given)
        if not given.get("protect", True) and length > PAGE_BYTES:
            super().write_protect(address + PAGE_BYTES, PAGE_BYTES)


class _NextPageReleased(Userfaultfd):
    """Releases the page after a single one too."""

    def write_protect(self, address: int, length: int, **given: Any) -> None:
        super().write_protect(address, length, **given)
        if not given.get("protect", True) and length == PAGE_BYTES:
            try:
                super().write_protect(address + PAGE_BYTES, PAGE_BYTES, protect=False)
            except UserfaultfdError:
                return


class _CopyUnprotected(Userfaultfd):
    """Ignores UFFDIO_COPY_MODE_WP."""

    def copy(self, address: int, source: int, length: int, **given: Any) -> int:
        return super().copy(address, source, length, **{**given, "write_protect": False})


class _CopyProtected(Userfaultfd):
    """Copies a page protected although that was not asked for."""

    def copy(self, address: int, source: int, length: int, **given: Any) -> int:
        done = super().copy(address, source, length, **given)
        try:
            super().write_protect(address, length)
        except UserfaultfdError:
            return done
        return done


class _CopyOfOther(Userfaultfd):
    """Copies zeros instead of the content."""

    def copy(self, address: int, source: int, length: int, **given: Any) -> int:
        return super().copy(address, ADDRESS_OF[0] if source else 0, length, **given)


class _NotUnregistered(Userfaultfd):
    """Leaves the first page of a range registered."""

    def unregister(self, address: int, length: int) -> None:
        if length > PAGE_BYTES:
            super().unregister(address + PAGE_BYTES, length - PAGE_BYTES)


class _RegisteredShort(Userfaultfd):
    """Does not register the last page of a range."""

    def register(self, address: int, length: int, mode: int = 2) -> frozenset[str]:
        return super().register(address, length - (PAGE_BYTES if length > PAGE_BYTES else 0), mode)


class _ZeroDone(Userfaultfd):
    """Says that missing pages were filled, and fills none."""

    def zeropage(self, address: int, length: int, *, wake: bool = True) -> int:
        return length if address and wake else 0


class _EventDropped(Watch):
    """Answers an event of a protected page, and does not note it."""

    def record(self, fault: Fault) -> None:
        if fault.what != "wp":
            super().record(fault)


class _EventTwice(Watch):
    """Notes an event for the next page too."""

    def record(self, fault: Fault) -> None:
        super().record(fault)
        super().record(Fault(fault.address + PAGE_BYTES, fault.what, None))


class _Unanswered(Watch):
    """Does not answer the event of a protected page."""

    def answer(self, address: int, flags: FaultFlag) -> None:
        if not flags & FaultFlag.WP:
            super().answer(address, flags)


class _WrittenEarly(Watch):
    """Looks at a page as if its write had come through before the release."""

    def record(self, fault: Fault) -> None:
        super().record(Fault(fault.address, fault.what, None if fault.peeked is None else 8))


@dataclass(frozen=True)
class Planted:
    """A planted fault.

    Attributes:
        codes: one of these names it.
        binding: the faulty userfaultfd, None for the real one.
        watcher: what answers events.
    """

    codes: tuple[str, ...]
    binding: Binding | None = None
    watcher: type[Watch] = Watch


PLANTED: dict[str, Planted] = {
    "last-page-unprotected": Planted((LOST,), _LastPageUnprotected),
    "second-page-kept": Planted((GAINED,), _SecondPageKept),
    "next-page-released": Planted((LOST,), _NextPageReleased),
    "copy-unprotected": Planted((LOST, UNREPORTED), _CopyUnprotected),
    "copy-protected": Planted((GAINED, SPURIOUS), _CopyProtected),
    "copy-of-zeros": Planted((CONTENT,), _CopyOfOther),
    "page-left-registered": Planted((SPURIOUS, ACCEPTED, GAINED, POPULATION), _NotUnregistered),
    "page-not-registered": Planted((REFUSED, UNREPORTED, SPURIOUS, LOST), _RegisteredShort),
    "zero-page-not-made": Planted((POPULATION, CONTENT, SCAN, SPURIOUS), _ZeroDone),
    "event-dropped": Planted((UNREPORTED,), watcher=_EventDropped),
    "event-of-other-page": Planted((SPURIOUS,), watcher=_EventTwice),
    "event-unanswered": Planted((HANG,), watcher=_Unanswered),
    "write-seen-early": Planted((CONTENT,), watcher=_WrittenEarly),
}
"""The planted faults by name."""


def search(
    drawer: Drawer, patience: Patience, seed: int, seconds: float | None, only: Sequence[str] | None
) -> Iterator[Event]:
    """Plant each fault in turn, explore until it is found, and yield how that went.

    Args:
        drawer: draws the lists.
        patience: of the processes that run them.
        seed: of the lists.
        seconds: most for one fault.
        only: names of faults, None for all.
    """
    for name, planted in PLANTED.items():
        if only and name not in only:
            continue
        setting = Setting(binding=planted.binding, watcher=planted.watcher)
        campaign = Campaign(drawer, setting, patience, seed)
        record, steps = None, None
        with Worker(setting, patience) as worker:
            while campaign.seconds < (seconds or _SECONDS) and (
                record is None or record.code not in planted.codes
            ):
                steps = drawer.draw(f"{seed}:{campaign.lists}", campaign.coverage, _AVOIDED)
                record = campaign.take(worker, steps)
        found = record is not None and record.code in planted.codes
        yield {
            "event": "fault",
            "fault": name,
            "found": found,
            "code": record.code if record is not None and found else "",
            "sentence": record.sentence if record is not None else "",
            "seconds": round(campaign.seconds, 2),
            "lists": campaign.lists,
            "steps": len(steps.steps) if steps else 0,
        }
    yield {"event": "end"}
