"""Lists the failing saves as data: the sink or call that breaks, when, and how the save must end."""

from __future__ import annotations

import enum
import errno
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from validators.faults.calls.control import ERRORS, Call, CallFault


class Act(enum.Enum):
    """The act that breaks a save from outside."""

    NOTHING = "nothing"
    CANCEL = "migrate_cancel"
    END_SINK = "the sink's processes are killed"


class When(enum.Enum):
    """The moment of that act."""

    AT_ONCE = "as soon as 'migrate' has answered"
    MIDDLE = "half of the stream has been sent"
    NEAR_END = "all but a few MiB of the stream have been sent"
    STALLED = "the sink has taken nothing for a while"


@dataclass(frozen=True)
class Case:
    """One way to break a save.

    Attributes:
        name: stable slug; checks are called ``failures/<name>/<what>``.
        reason: why it is tested.
        uri: migration URI as a template. Its fields: `file`, a path for a shell, `raw_file` for QEMU;
            `middle` and `near_end`, offsets in the stream in bytes; `blocks`, `middle` in units of 512
            bytes; `socket`, a path, and `port`, where a
            peer takes 1 MiB and then resets the connection.
        expected: how the save may end, as `query-migrate` names it; ``refused`` where `migrate` may be.
        act: the act that breaks the save.
        when: the moment of that act, or of a failure that comes by itself; the time limit begins then.
        free_descriptors: how many file descriptors QEMU may still open during the save, None for no limit.
        right: whether the file of a completed save must be right.
        call: the userfaultfd call of QEMU that fails, None for none.
    """

    name: str
    reason: str
    uri: str
    expected: frozenset[str] = frozenset({"failed"})
    act: Act = Act.NOTHING
    when: When = When.AT_ONCE
    free_descriptors: int | None = None
    right: bool = False
    call: CallFault | None = None


_CAT = "exec:cat > {file}"
# Takes 2 MiB at a time and ends with its input, unlike one that sleeps a fixed number of times.
_SLOW = (
    "exec:while [ $(dd bs=2M count=1 iflag=fullblock 2>/dev/null | tee -a {file} | wc -c) -gt 0 ]; "
    "do sleep 0.05; done"
)
# The last MiB take three seconds, however fast the rest was, so a cancel near the end comes before the end.
_SLOW_END = (
    "exec:head -c {near_end} > {file}; "
    "while [ $(dd bs=64k count=1 iflag=fullblock 2>/dev/null | tee -a {file} | wc -c) -gt 0 ]; "
    "do sleep 0.05; done"
)
_STALLED = "exec:head -c 1048576 > {file}; exec sleep 1000"
_FAILED = frozenset({"failed"})
_CANCELLED = frozenset({"cancelled"})

SINKS = (
    Case("closes-at-once", "the command cannot even start its work", "exec:exit 0"),
    Case("closes-in-header", "nothing of RAM got through", "exec:head -c 4 > {file}"),
    Case("closes-at-1-mib", "RAM has only begun", "exec:head -c 1048576 > {file}"),
    Case(
        "closes-mid-ram",
        "half of RAM is released, half still protected",
        "exec:head -c {middle} > {file}",
        when=When.MIDDLE,
    ),
    Case(
        "closes-near-end",
        "little is left to release",
        "exec:head -c {near_end} > {file}",
        when=When.NEAR_END,
    ),
    Case(
        "full-mid-ram",
        "a full disk is the commonest failure of all; a file size limit gives it without root",
        "exec:(ulimit -f {blocks}; trap '' XFSZ; exec cat > {file})",
        when=When.MIDDLE,
    ),
    Case("full-device", "the first write of the command fails", "exec:cat > /dev/full"),
    Case("full-qemu-file", "QEMU itself cannot write", "file:/dev/full", frozenset({"refused", "failed"})),
    Case(
        "slow",
        "a slow sink is no failure: the guest goes on and the file is right",
        _SLOW,
        frozenset({"completed"}),
        right=True,
    ),
    Case(
        "stalls-then-killed",
        "an operator kills the command that hangs",
        _STALLED,
        act=Act.END_SINK,
        when=When.STALLED,
    ),
    Case(
        "closes-but-stays",
        "a command that has closed its input and takes long to end must not stop the guest",
        "exec:head -c 1048576 > {file}; exec 0<&-; exec sleep 25",
    ),
    Case(
        "reports-failure",
        "a command that has read all and then fails (a failed upload, a full disk) has saved nothing",
        "exec:cat > {file}; exit 3",
    ),
    Case("unix-reset", "the peer on a UNIX socket goes away", "unix:{socket}"),
    Case("tcp-reset", "the peer on a TCP connection resets it", "tcp:127.0.0.1:{port}"),
)

CANCEL = (
    Case("cancel-at-once", "before or in the set-up of the save", _SLOW, _CANCELLED, Act.CANCEL),
    Case("cancel-middle", "half of RAM is protected", _SLOW, _CANCELLED, Act.CANCEL, When.MIDDLE),
    Case("cancel-near-end", "little is left to release", _SLOW_END, _CANCELLED, Act.CANCEL, When.NEAR_END),
    Case(
        "cancel-stalled",
        "cancelling is what a user does when the sink hangs",
        _STALLED,
        _CANCELLED,
        Act.CANCEL,
        When.STALLED,
    ),
)

DESCRIPTORS = tuple(
    Case(
        f"descriptors-{scheme}-{free}-free",
        "QEMU runs out of file descriptors a step later with each that is free",
        uri,
        frozenset({"refused", "failed"}) | (frozenset({"completed"}) if free else frozenset()),
        free_descriptors=free,
        right=True,
    )
    for scheme, uri, most in (("exec", _CAT, 8), ("file", "file:{raw_file}", 4))
    for free in range(most)
)


def call_cases(counts: Mapping[Call, int]) -> Sequence[Case]:
    """Return a case for each userfaultfd call and error: the first, second, middle and last call fail.

    The number of reads differs from save to save: QEMU makes one for each page that it releases, and some
    more. The last one that each save makes stands for the last one of all.

    Args:
        counts: how many calls of each kind an undisturbed save makes.
    """
    sure = dict(counts)
    if Call.READ in counts:
        sure[Call.READ] = min(counts[Call.READ], counts[Call.UNPROTECT])
    return [
        Case(
            f"call-{call.slug}-{number}-{errno.errorcode[error].lower()}",
            f"call {number} of {counts[call]} to {call.slug} fails with {errno.errorcode[error]}",
            _CAT,
            frozenset({"refused", "failed", "completed"}),
            right=True,
            call=CallFault(call, number, error),
        )
        for call, count in sure.items()
        for number in sorted({1, 2, count // 2, count} & set(range(1, count + 1)))
        for error in ERRORS[call]
    ]
