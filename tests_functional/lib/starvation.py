"""Tells how much of a standstill of the guest is the host's: threads of QEMU that waited for a processor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from harness.linux.run_queue import SAMPLE_SECONDS, ProcessorTime, ThreadReading

# QEMU names the threads of vCPUs so, with `-name debug-threads=on` (accel/*/*-accel-ops.c): "CPU 0/KVM".
_VCPU = "CPU "
# A vCPU that stands still runs little; one that merely shares its processor runs more.
_STILL_SHARE = 0.1
# A page that is asked for is saved next: the saving thread has to get a processor to see it, and once more
# after it has waited for the sink; and so has the sink.
_TURNS, _THREADS = 2, 2


def waited_seconds(
    readings: Sequence[ThreadReading], names: Mapping[int, str], start: float, end: float
) -> float:
    """Return how long QEMU's threads waited for a processor in a standstill, as far as that can be its cause.

    It is the wait of the vCPU that stood still, and the longest waits of the threads that it waited for. A
    vCPU that is blocked, as in a page fault, waits for no processor.

    Args:
        readings: of the threads of QEMU and of what it has started, in the order of time.
        names: of QEMU's threads.
        start: of the standstill, in seconds since the epoch.
        end: its end.
    """
    inside = _around(readings, start, end)
    if len(inside) < 2:
        return 0.0
    still = _STILL_SHARE * (end - start) + 2 * SAMPLE_SECONDS
    vcpus, others = [0.0], [0.0]
    for thread in {thread for reading in inside for thread in reading.times}:
        if names.get(thread, "").startswith(_VCPU):
            added = _added(thread, inside[0], inside[-1])
            vcpus += [added.waited_ns / 1e9] if added.ran_ns / 1e9 <= still else []
        else:
            waits = [_added(thread, one, other).waited_ns / 1e9 for one, other in pairwise(inside)]
            others.append(sum(sorted(waits)[-_TURNS:]))
    # They wait at one time as well as one after the other.
    return min(end - start, max(vcpus) + sum(sorted(others)[-_THREADS:]))


def _around(readings: Sequence[ThreadReading], start: float, end: float) -> Sequence[ThreadReading]:
    """Return the readings from the last one before the start to the first one after the end."""
    first = max((at for at, one in enumerate(readings) if one.moment <= start), default=0)
    last = next((at for at, one in enumerate(readings) if one.moment >= end), len(readings) - 1)
    return readings[first : last + 1]


def _added(thread: int, before: ThreadReading, after: ThreadReading) -> ProcessorTime:
    """Return the times of a thread between two readings; of one that is in only one of them, none."""
    now = after.times.get(thread, ProcessorTime(0, 0))
    return now.since(before.times.get(thread, now))
