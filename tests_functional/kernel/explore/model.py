"""Says what a page may hold and whether it may be protected: the set of all states that the kernel allows.

An operation maps each state to those that may follow. An observation (a bit of pagemap, an event, content)
leaves out the states that it contradicts. If none is left, the kernel is wrong. So what the kernel leaves
open is never asserted: it is several states. Each rule names the function of Linux (6.18) that it comes from.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import NamedTuple

from harness.userfaultfd import Mode


class State(NamedTuple):
    """One state of one page.

    Attributes:
        value: number of the pattern that a read gives, 0 for zeros.
        there: whether it exists: as an entry with content in private memory, in the cache in shared memory.
        wp: whether it is protected: by a bit in its entry, or by a marker in place of one.
        lazy: whether the kernel may empty it at any time until it is written: after MADV_FREE, or a page of
            shared memory that only reads have made, and that is not dirty.
    """

    value: int
    there: bool
    wp: bool
    lazy: bool = False


States = frozenset[State]
Outcome = tuple[tuple[str, ...], State]
"""The events of an access, and the state after it."""


class Rules(NamedTuple):
    """What decides about a page beside its state.

    Attributes:
        anonymous: private memory without a file.
        private: private memory; writes make a copy of a page of a file.
        base: number of the pattern in the file, 0 for zeros.
        huge: huge pages are allowed, so that a fault, or khugepaged, may make pages exist.
        mode: bits of `Mode`, 0 while it is not registered.
        unpopulated, asynchronous, protect: see `Monitor`.
    """

    anonymous: bool
    private: bool
    base: int
    huge: bool
    mode: int
    unpopulated: bool
    asynchronous: bool
    protect: bool


FILLER = 7
"""Number of the pattern with which the monitor fills missing pages."""


def missing(rules: Rules) -> State:
    """Return the state of a page that does not exist and is not protected."""
    return State(rules.base, False, False)


@cache
def loosened(states: States, rules: Rules) -> States:
    """Return the states with those that the kernel may go to by itself.

    A page after MADV_FREE, or a clean one of shared memory, may be emptied (shrink_folio_list(),
    try_to_unmap_one()). In memory for huge pages a fault nearby, khugepaged or a large folio may make a page
    exist (do_huge_pmd_anonymous_page(), alloc_anon_folio(), collapse_huge_page()), but none that has a marker
    or that userfaultfd waits for.
    """
    found = set(states)
    for state in states:
        if state.lazy:
            found.add(missing(rules) if rules.anonymous else State(0, False, state.wp))
    if rules.huge and not rules.mode & Mode.MISSING:
        found |= {State(0, True, False) for state in found if not state.there and not state.wp}
    return frozenset(found)


@cache
def accessed(states: States, rules: Rules, write: bool, value: int | None) -> frozenset[Outcome]:
    """Return what an access may cause: events in their order, and the state after it.

    Args:
        states: before.
        rules: of the page.
        write: whether it is a write.
        value: number of the pattern written, None for a write that leaves the content as it is.
    """
    return frozenset(
        outcome for state in loosened(states, rules) for outcome in _accessed(state, rules, write, value)
    )


def _accessed(state: State, rules: Rules, write: bool, value: int | None) -> list[Outcome]:
    events: tuple[str, ...] = ()
    if not state.there:
        if rules.mode & Mode.MISSING and (rules.anonymous or not rules.private):
            # do_anonymous_page(), shmem_get_folio_gfp(): before a marker is looked at. The copy replaces it.
            events, protected = ("missing",), bool(rules.protect and rules.mode & Mode.WP)
            state = State(FILLER, True, protected)
        elif rules.anonymous or not rules.private:
            # A marker becomes the bit of the new entry (vmf_orig_pte_uffd_wp()).
            state = State(0, True, state.wp, lazy=not rules.anonymous)
        elif write:
            state = State(rules.base, True, state.wp)
    begun = [(events, state)]
    if rules.mode & Mode.MINOR and state.there and not events:
        # Whether an entry maps a page of the cache is open: reclaim may take it. The monitor keeps the bit.
        begun.append((("minor",), state))
    return [_written(before, one, rules, value) if write else (before, one) for before, one in begun]


def _written(events: tuple[str, ...], state: State, rules: Rules, value: int | None) -> Outcome:
    if state.wp and not rules.asynchronous:
        events = (*events, "wp")
    return events, State(state.value if value is None else value, True, False)


@cache
def protected(states: States, rules: Rules) -> States:
    """Return the states after UFFDIO_WRITEPROTECT (change_protection(), uffd_wp_range()).

    A page of anonymous memory that does not exist is skipped without WP_UNPOPULATED; all others get a marker.
    """
    marked = rules.unpopulated or not rules.anonymous
    return frozenset(
        state._replace(wp=True) if state.there or marked else state for state in loosened(states, rules)
    )


@cache
def released(states: States) -> States:
    """Return the states after protection was ended: a release, unregistering, a move by mremap."""
    return frozenset(state._replace(wp=False) for state in states)


@cache
def zapped(states: States, rules: Rules) -> States:
    """Return the states after MADV_DONTNEED (zap_install_uffd_wp_if_needed()).

    Anonymous memory loses content and protection. Shared memory keeps both, the latter as a marker. The copy
    of a page of a file is dropped; whether a marker stays for it is open.
    """
    if rules.anonymous:
        return frozenset({missing(rules)})
    if rules.private:
        return frozenset(State(rules.base, False, wp) for state in states for wp in {state.wp, False})
    return states


@cache
def punched(states: States, _rules: Rules) -> States:
    """Return the states after MADV_REMOVE of shared memory; whether a marker stays is open."""
    return frozenset(State(0, False, wp) for state in states for wp in {state.wp, False})


@cache
def freed(states: States) -> States:
    """Return the states after MADV_FREE (madvise_free_pte_range())."""
    return frozenset(state._replace(lazy=True) if state.there else state for state in states)


@cache
def collapsed(states: States, rules: Rules) -> States:
    """Return the states after MADV_COLLAPSE: pages may exist that did not (collapse_huge_page())."""
    more = {State(0, True, False) for state in states if not state.there and not state.wp}
    return loosened(states | more if rules.anonymous else states, rules)


@cache
def filled(states: States, rules: Rules, value: int, wp: bool, done: bool) -> States:
    """Return the states that fit UFFDIO_COPY, or ZEROPAGE: done if the page did not exist, else refused.

    UFFDIO_COPY replaces a marker (mfill_atomic_install_pte()). UFFDIO_ZEROPAGE refuses it or replaces it.
    """
    before = loosened(states, rules)
    if done:
        return frozenset(State(value, True, wp) for state in before if not state.there)
    return frozenset(state for state in before if state.there or (state.wp and value == 0))


@cache
def moved(states: States, rules: Rules) -> States:
    """Return the states of a page that UFFDIO_MOVE filled with one of these (move_present_ptes()).

    Whether protection comes along to memory that is registered for it is open.
    """
    either = (False, True) if rules.mode & Mode.WP else (False,)
    return frozenset(
        State(state.value, True, wp and state.wp, state.lazy)
        for state in states
        if state.there
        for wp in either
    )


@cache
def scanned(states: States, rules: Rules, written: bool, protect: bool) -> States:
    """Return the states that fit PAGEMAP_SCAN for written pages (pagemap_scan_pmd_entry()).

    A page without an entry may be reported or not, and a scan that protects may give it a marker.

    Args:
        states: before.
        rules: of the page.
        written: whether it was reported as written.
        protect: whether the scan protects what it reports (PM_SCAN_WP_MATCHING).
    """
    found = set()
    for state in loosened(states, rules):
        has_entry = state.there and rules.anonymous
        if (state.wp and written) or (has_entry and not state.wp and not written):
            continue
        wps = {state.wp}
        if protect and not state.wp:
            wps = {True} if written and has_entry else {True, False}
        found |= {state._replace(wp=wp) for wp in wps}
    return frozenset(found)


@cache
def shown(states: States, rules: Rules, present: bool, swapped: bool, bit: bool) -> States:
    """Return the states that fit an entry of pagemap (pte_to_pagemap_entry()).

    A marker is shown as swapped. In memory of a file an entry says nothing about whether a page exists.
    """
    return frozenset(
        state for state in loosened(states, rules) if _shown(state, rules.anonymous, present, swapped, bit)
    )


def _shown(state: State, anonymous: bool, present: bool, swapped: bool, bit: bool) -> bool:
    if state.wp != bit:
        return False
    if not anonymous:
        return True
    if present:
        return state.there
    if swapped:
        return state.there or state.wp
    return not state.there and not state.wp


@cache
def holding(states: States, rules: Rules, value: int) -> States:
    """Return the states in which a read gives this content."""
    return frozenset(state for state in loosened(states, rules) if state.value == value)


@cache
def values(states: States, rules: Rules) -> frozenset[int]:
    """Return the numbers of the patterns that a read may give."""
    return frozenset(state.value for state in loosened(states, rules))


def words(states: Iterable[State]) -> str:
    """Return the kinds of states in a few words, to count what was reached."""
    return "|".join(sorted({_word(state) for state in states}))


def _word(state: State) -> str:
    if not state.there:
        return "marker" if state.wp else "none"
    return (
        ("zero" if state.value == 0 else "page")
        + ("+wp" if state.wp else "")
        + ("+lazy" if state.lazy else "")
    )
