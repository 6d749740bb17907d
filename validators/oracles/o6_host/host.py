"""Check that a snapshot left no kernel warning, no process and no file of QEMU's behind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from harness.codes import Code
from harness.linux.kernel_log import ABOUT_OTHERS, TAINT_CHANGED, taint_by_splat
from harness.qemu.configuration import OVERLAY_FILE, VARIABLES_FILE
from validators.checks import Problem, judged
from validators.oracles.o6_host.host_state import HostState
from validators.verdict import CheckResult

_HOST = "No kernel warning about QEMU or us, no file or process of QEMU left over, no file of its own closed."

_NOTED = 5

# virtio devices give theirs up when the guest stops and get new ones when it goes on (QEMU 10.0
# hw/virtio/virtio-bus.c), so their numbers mean nothing.
_EVENTFD = "anon_inode:[eventfd]"
# QEMU gives its images up at the end of an ordinary save, and opens them again to go on (QEMU 10.0
# block/file-posix.c, raw_reconfigure_getfd()); two of them were seen to change their numbers.
_IMAGES = (OVERLAY_FILE, VARIABLES_FILE)


def check_host(then: HostState, now: HostState) -> CheckResult:
    """Check that the host and QEMU are after a snapshot as they were before it.

    Args:
        then: the host's state before the first snapshot.
        now: its state after the last one.
    """
    problems, facts = _kernel(then, now)
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
    return judged("host", _HOST, problems, facts)


def _kernel(then: HostState, now: HostState) -> tuple[list[Problem], dict[str, str]]:
    """What the kernel says about our processes, and as facts what it says about others.

    A taint is ours only if a splat of ours explains it: the mask does not say who has set it.
    """
    mine = then.ours | now.ours
    old = {splat.number for splat in then.splats or ()}
    new = [splat for splat in now.splats or () if splat.number not in old] if then.splats is not None else []
    own = [splat for splat in new if mine.did(splat)]
    others = [splat.words for splat in new if not mine.did(splat)]
    problems = [Problem(Code.HOST_SPLAT, f"The host kernel logged: {splat.words}") for splat in own]
    facts = {}
    if others:
        more = f" and {len(others) - _NOTED} more" if len(others) > _NOTED else ""
        facts[ABOUT_OTHERS] = "; ".join(others[:_NOTED]) + more
    if now.tainted != then.tainted:
        change = f"from {then.tainted} to {now.tainted}"
        if own and taint_by_splat(then.tainted, now.tainted):
            problems.append(Problem(Code.HOST_TAINTED, f"The host kernel's taint changed {change}."))
        else:
            facts[TAINT_CHANGED] = change
    return problems, facts


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
    """What is wrong where QEMU no longer has a descriptor that it had before, by number and name.

    Of an image only the name counts.
    """
    there = dict(now)
    images = Counter(name for _, name in now if _is_image(name))
    gone = Counter(name for _, name in then if _is_image(name)) - images
    problems = [
        Problem(Code.HOST_FILE_CLOSED, f"QEMU has closed the image '{name}'.", {"name": name})
        for name in gone
    ]
    return problems + [
        Problem(
            Code.HOST_FILE_CLOSED,
            f"QEMU has closed its descriptor {number}, which was '{name}'"
            + (f" and is now '{there[number]}'." if number in there else "."),
            {"number": number, "name": name},
        )
        for number, name in then
        if there.get(number) != name and name != _EVENTFD and not _is_image(name)
    ]


def _is_image(name: str) -> bool:
    return name.rpartition("/")[2] in _IMAGES
