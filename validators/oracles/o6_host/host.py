"""Check that a snapshot left no kernel warning, no process and no file of QEMU's behind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from harness.codes import Code
from validators.checks import Problem, judged
from validators.oracles.o6_host.host_state import HostState
from validators.verdict import CheckResult

_HOST = "No new kernel warning or taint, no file or process of QEMU left over, no file of its own closed."

# virtio devices give theirs up when the guest stops and get new ones when it goes on (QEMU 10.0
# hw/virtio/virtio-bus.c), so their numbers mean nothing.
_EVENTFD = "anon_inode:[eventfd]"


def check_host(then: HostState, now: HostState) -> CheckResult:
    """Check that the host and QEMU are after a snapshot as they were before it.

    Args:
        then: the host's state before the first snapshot.
        now: its state after the last one.
    """
    problems = []
    if now.tainted != then.tainted:
        problems.append(
            Problem(
                Code.HOST_TAINTED, f"The host kernel's taint changed from {then.tainted} to {now.tainted}."
            )
        )
    if now.splats is not None and then.splats is not None:
        problems += [
            Problem(Code.HOST_SPLAT, f"The host kernel logged: {line}")
            for line in now.splats
            if line not in then.splats
        ]
    problems += _left_open(then.descriptors, now.descriptors)
    problems += _closed(then.descriptors, now.descriptors)
    known = {process.pid for process in then.processes}
    problems += [
        Problem(
            Code.HOST_PROCESS_LEFT,
            f"Process {process.pid} that QEMU started is left over: {process.words}.",
            {"program": process.program, "reads": "qemu" if process.reads_from_qemu else ""},
        )
        for process in now.processes
        if process.pid not in known
    ]
    return judged("host", _HOST, problems)


def _left_open(then: Sequence[tuple[int, str]], now: Sequence[tuple[int, str]]) -> list[Problem]:
    """What is wrong where QEMU has more open than before, by number and name."""
    # Pipes are numbered; what counts is how many there are.
    old, new = (
        Counter(name.partition(":[")[0] if name.startswith("pipe:") else name for _, name in files)
        for files in (then, now)
    )
    return [
        Problem(Code.HOST_FILE_LEFT_OPEN, f"QEMU still has '{name}' open after the snapshot.", {"name": name})
        for name in new - old
    ]


def _closed(then: Sequence[tuple[int, str]], now: Sequence[tuple[int, str]]) -> list[Problem]:
    """What is wrong where QEMU no longer has a descriptor that it had before, by number and name."""
    there = dict(now)
    return [
        Problem(
            Code.HOST_FILE_CLOSED,
            f"QEMU has closed its descriptor {number}, which was '{name}'"
            + (f" and is now '{there[number]}'." if number in there else "."),
            {"number": number, "name": name},
        )
        for number, name in then
        if there.get(number) != name and name != _EVENTFD
    ]
