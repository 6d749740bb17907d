"""Contract: what a snapshot leaves behind on the host and in QEMU is seen and named."""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.linux.kernel_log import Splat
from tests_unit.support.scenario_values import HOST, SINK, sentences
from validators.oracles.o6_host.host import check_host
from validators.oracles.o6_host.host_state import open_files

assert HOST.splats is not None
SPLATS = HOST.splats
_QEMU = "qemu-system-x86"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"splats": (*SPLATS, Splat(9, "WARNING: old", 61, "qemu-system-x86"))},
            "The host kernel logged: #9 WARNING: old (qemu-system-x86 61)",
        ),
        (
            {"splats": (*SPLATS, Splat(9, "WARNING: in a thread that has ended", 77, "qemu-system-x86"))},
            "The host kernel logged: #9 WARNING: in a thread that has ended (qemu-system-x86 77)",
        ),
        (
            {"descriptors": (*HOST.descriptors, (5, "anon_inode:[userfaultfd]"))},
            "QEMU still has 'anon_inode:[userfaultfd]' open after the snapshot.",
        ),
        (
            {"descriptors": (*HOST.descriptors, (5, "pipe:[8]"))},
            "QEMU still has 'pipe' open after the snapshot.",
        ),
        (
            {"descriptors": HOST.descriptors[1:]},
            "QEMU has closed its descriptor 0, which was '/dev/null'.",
        ),
        (
            {"processes": (*HOST.processes, SINK)},
            "Process 71 that QEMU started is left over: cat, which reads from QEMU.",
        ),
    ],
)
def test_host_keeps_something(changes: dict[str, Any], sentence: str) -> None:
    """Each thing a snapshot may leave behind is named."""
    assert sentences(check_host(HOST, replace(HOST, **changes))) == [sentence]


def test_descriptor_closed_and_given_again() -> None:
    """A descriptor closed by mistake is found even where another file has got its number."""
    host = replace(HOST, descriptors=((0, "pipe:[9]"), *HOST.descriptors[1:]))
    assert sentences(check_host(HOST, host)) == [
        "QEMU still has 'pipe' open after the snapshot.",
        "QEMU has closed its descriptor 0, which was '/dev/null' and is now 'pipe:[9]'.",
    ]


def test_host_that_cannot_be_read() -> None:
    """A kernel log that we may not read gives no violation."""
    host = replace(HOST, splats=None)
    assert sentences(check_host(HOST, host)) == []


def test_open_files_of_a_process(tmp_path: Path) -> None:
    """A file, a pipe's ends and a kernel object are named, sockets are not; closed ones are gone."""
    before = set(open_files(os.getpid()))
    reading, writing = os.pipe()
    event = os.eventfd(0)
    with (tmp_path / "snapshot").open("w") as file, socket.socket():
        added = dict(set(open_files(os.getpid())) - before)
        assert added.pop(reading) == added.pop(writing)
        assert added == {file.fileno(): str(tmp_path / "snapshot"), event: "anon_inode:[eventfd]"}
    for descriptor in (reading, writing, event):
        os.close(descriptor)
    assert set(open_files(os.getpid())) == before


def test_taint_beside_a_splat_of_ours() -> None:
    """A taint that a splat of ours explains is reported beside it."""
    splat = Splat(9, "BUG: unable to handle page fault", 60, "qemu-system-x86")
    host = replace(HOST, tainted=128, splats=(*SPLATS, splat))
    assert sentences(check_host(HOST, host))[1:] == ["The host kernel's taint changed from 0 to 128."]


@pytest.mark.parametrize(
    ("changes", "facts"),
    [
        (
            {"splats": (*SPLATS, Splat(9, "traps: python3[90] general protection fault", 90, "python3"))},
            {"kernel messages about others": ("#9 traps: python3[90] general protection fault (python3 90)")},
        ),
        (
            {"splats": (*SPLATS, Splat(9, "traps: qemu-system-x86[90] general protection fault", 90, _QEMU))},
            {
                "kernel messages about others": (
                    "#9 traps: qemu-system-x86[90] general protection fault (qemu-system-x86 90)"
                )
            },
        ),
        (
            {"splats": (*SPLATS, Splat(9, "BUG: x", 90, _QEMU, elsewhere=True))},
            {"kernel messages about others": "#9 BUG: x (qemu-system-x86 90)"},
        ),
        (
            {"tainted": 512, "splats": (*SPLATS, Splat(9, "WARNING: y"))},
            {
                "kernel messages about others": "#9 WARNING: y",
                "taint changed, not told by whom": "from 0 to 512",
            },
        ),
        # A module that somebody loads sets no bit that a splat sets.
        (
            {"tainted": 4096, "splats": None},
            {"taint changed, not told by whom": "from 0 to 4096"},
        ),
        (
            {"splats": (*SPLATS, *(Splat(number, "BUG: x", 90, "cc1") for number in range(10, 20)))},
            {
                "kernel messages about others": "; ".join(f"#{n} BUG: x (cc1 90)" for n in range(10, 15))
                + " and 5 more"
            },
        ),
    ],
)
def test_what_cannot_be_told_to_be_ours_is_a_note(changes: dict[str, Any], facts: dict[str, str]) -> None:
    """Other jobs on the host leave the check green, and what the kernel says of them is in its facts."""
    result = check_host(HOST, replace(HOST, **changes))
    assert (sentences(result), result.facts) == ([], facts)
