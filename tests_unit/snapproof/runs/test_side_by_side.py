"""Contract: tests run side by side as memory and processors allow, and those that measure times run alone."""

from __future__ import annotations

import argparse
from dataclasses import replace

import pytest

from harness.hosts.local import HostFacts
from snapproof.cli.arguments.run import parse_jobs
from snapproof.runs.side_by_side import plan
from tests_functional.lib.profile_row import ProfileRow

_HOST = HostFacts(kernel="6.18", architecture="x86_64", cpus=4, memory_mib=16_000, tainted=0)


def _entries(*ram_mib: int, alone: bool = False) -> list[ProfileRow]:
    return [
        ProfileRow(f"t.{number}-{alone}", "a.py:A.test", "reason", {"ram_mib": mib}, alone=alone)
        for number, mib in enumerate(ram_mib)
    ]


def test_as_many_as_processors() -> None:
    """Small tests are limited by processors, or by what the user says, or by how many there are."""
    small = _entries(*[256] * 8)
    assert plan(small, _HOST, None).workers == 4
    assert plan(small, _HOST, 3).workers == 3
    assert plan(small[:2], _HOST, None).workers == 2


def test_one_more_where_guests_rest() -> None:
    """A processor is free where a guest rests; what the user says still counts, and memory too."""
    small = _entries(*[256] * 8)
    assert plan(small, _HOST, None, resting=True).workers == 5
    assert plan(small, _HOST, 3, resting=True).workers == 3
    assert plan(_entries(*[256] * 8, 6000), _HOST, None, resting=True).workers == 3


def test_as_many_as_fit() -> None:
    """Tests that run side by side fit into the host's memory in any order; one runs in any case."""
    assert plan(_entries(*[256] * 8, 6000), _HOST, None).workers == 3
    assert plan(_entries(6000, 6000), _HOST, 2).workers == 1
    assert plan(_entries(256, 256), replace(_HOST, memory_mib=100), None).workers == 1


def test_alone() -> None:
    """A test that measures times runs beside nobody, and no test is lost."""
    rows = [*_entries(256, 256), *_entries(256, alone=True)]
    found = plan(rows, _HOST, None)
    assert [row.alone for row in found.together] == [False, False]
    assert [row.alone for row in found.alone] == [True]


def test_longest_first() -> None:
    """Tests that may take long begin first, then those of large guests, the others in the profile's order."""
    times = (300, 900, 300, 1800, 300)
    rows = [replace(row, seconds=s) for row, s in zip(_entries(1, 2, 3, 4, 1), times, strict=True)]
    assert [row.name for row in plan(rows, _HOST, None).together] == [
        "t.3-False", "t.1-False", "t.2-False", "t.0-False", "t.4-False",
    ]  # fmt: skip


def test_jobs_argument() -> None:
    """A number or `auto`; anything else is refused in words."""
    assert parse_jobs("auto") is None
    assert parse_jobs("12") == 12
    for text in ("0", "-1", "two", ""):
        with pytest.raises(argparse.ArgumentTypeError, match="number of at least 1"):
            parse_jobs(text)
