"""A write that faults for ever is told from one that waits, and only it is the known issue of hugetlb."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, repeat
from pathlib import Path
from typing import cast

import pytest

from tests_functional.kernel import closing
from tests_functional.kernel.calls import CallThread
from tests_functional.kernel.closing import CLOSING_ISSUES, ENDLESS_FAULTS, check_goes_on, page_faults
from tests_functional.kernel.memory import ANON
from tests_functional.kernel.trial import CheckFailed, Trial

_KERNELS = {"6.1.0-47-cloud-amd64": True, "6.8.12": True, "6.9.1": False}


class _Thread:
    """A thread whose call does not return for a number of looks."""

    thread_id = 7

    def __init__(self, looks: int) -> None:
        self._looks = looks

    def waits(self, _seconds: float) -> bool:
        self._looks -= 1
        return self._looks >= 0


def _judged(monkeypatch: pytest.MonkeyPatch, looks: int, faults: Iterator[int]) -> Trial:
    monkeypatch.setattr(closing, "page_faults", lambda _thread: next(faults))
    trial = Trial(ANON, 0)
    check_goes_on(trial, cast(CallThread, _Thread(looks)))
    return trial


def test_a_write_that_faults_without_end_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three looks with many faults each are no progress; the message has the number."""
    with pytest.raises(CheckFailed, match="6000 page faults") as caught:
        _judged(monkeypatch, 100, count(0, 2000))
    assert caught.value.code == ENDLESS_FAULTS


def test_a_write_that_goes_on_or_only_waits_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two looks are not enough; nor are faults that are few, or a pause between many."""
    assert _judged(monkeypatch, 2, count(0, 2000)).checks == 2
    assert _judged(monkeypatch, 9, count(0, 1000)).checks == 9
    assert _judged(monkeypatch, 5, iter([0, 2000, 4000, 4000, 6000, 8000])).checks == 5


def test_a_write_that_waits_for_ever_is_left_to_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check ends with the patience, so that the usual one says that the thread still waits."""
    monkeypatch.setattr(Trial, "patience", 0.05)
    _judged(monkeypatch, 1 << 60, repeat(0))


def test_page_faults_of_a_thread_are_those_of_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    """The field is behind a name that may hold spaces and parentheses; a thread that ended has none."""
    text = "7 (a) b) c) S 1 7 7 0 -1 64 1234 0 5 0 1 2"
    monkeypatch.setattr(Path, "read_text", lambda _path: text)
    assert page_faults(7) == 1234
    monkeypatch.undo()
    assert page_faults(0) == 0


@pytest.mark.parametrize("memory", ["hugetlb", "hugetlb-private", "shmem"])
@pytest.mark.parametrize("kernel", list(_KERNELS))
def test_endless_faults_are_known_of_huge_pages_before_the_fix(memory: str, kernel: str) -> None:
    """Only reserved huge pages of kernels before 6.9 are excused."""
    known = any(issue.explains(ENDLESS_FAULTS, memory, kernel) for issue in CLOSING_ISSUES)
    assert known == (_KERNELS[kernel] and memory != "shmem")
