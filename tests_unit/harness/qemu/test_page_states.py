"""Contract: the bits of page table entries and page frames are told apart."""

from __future__ import annotations

import numpy as np

from harness.qemu.page_states import PageStates

_PRESENT, _PROTECTED, _HEAD, _TAIL, _ZERO = 1 << 63, 1 << 57, 1 << 15, 1 << 16, 1 << 24


def _states(*pages: tuple[int, int]) -> PageStates:
    return PageStates(
        np.array([entry for entry, _ in pages], dtype=np.uint64),
        np.array([flags for _, flags in pages], dtype=np.uint64),
    )


def test_protection_is_seen_without_a_frame() -> None:
    """A page in swap space is not mapped, and may be protected."""
    states = _states((_PRESENT | 7, 0), (_PRESENT | _PROTECTED | 8, 0), (_PROTECTED | 1 << 62, 0))
    assert states.protected.tolist() == [False, True, True]
    assert states.present.tolist() == [True, True, False]


def test_all_parts_of_a_large_page_are_large() -> None:
    """The first page of a large one has another flag than the others."""
    assert _states((_PRESENT | 7, _HEAD), (_PRESENT | 8, _TAIL), (_PRESENT | 9, 0)).large.tolist() == [
        True,
        True,
        False,
    ]


def test_a_page_has_moved_if_its_frame_is_another() -> None:
    """A page that was not mapped, or was the zero page, has not moved."""
    before = _states((_PRESENT | 7, 0), (_PRESENT | 8, 0), (0, 0), (_PRESENT | 1, _ZERO))
    after = _states((_PRESENT | 7, 0), (_PRESENT | 9, 0), (_PRESENT | 5, 0), (_PRESENT | 6, 0))
    assert before.moved(after).tolist() == [False, True, False, False]


def test_protection_alone_is_no_move() -> None:
    """An entry that differs in its other bits has the same frame."""
    before, after = _states((_PRESENT | _PROTECTED | 7, 0)), _states((_PRESENT | 7, 0))
    assert before.moved(after).tolist() == [False]
