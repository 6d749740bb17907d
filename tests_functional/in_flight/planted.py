"""Plants faults in what arrives in a restored guest, through its real device; each must be seen."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace

from harness.codes import Code
from harness.qemu.guest_memory import GuestMemory
from harness.qemu.machine import Machine
from tests_functional.in_flight.disk_stream import data_at
from tests_functional.in_flight.disks import DISK_PATH, QUEUE_IN_PIECES
from tests_functional.in_flight.kinds import STREAM_KINDS, StreamKind
from tests_functional.in_flight.numbers import Numbers
from tests_functional.in_flight.scenario import (
    RESTORED_CHECK,
    Faults,
    Passage,
    far_ends,
    require_stream,
    source_with,
    undamaged,
)
from tests_functional.lib.build_outcome import outcome_of
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.run import Run
from tests_functional.lib.save import Flow
from validators.checks import Problem, judged
from validators.verdict import CheckResult

_INDEX = 1 << 16
_CLAIM = "A fault that is planted in what arrives turns the check red, with its own code alone."
_HOLDS = "Each planted fault was seen."


def _lost(numbers: Numbers) -> Sequence[int]:
    return numbers.restored[1:]


def _twice(numbers: Numbers) -> Sequence[int]:
    return [numbers.in_flight[-1], *numbers.restored]


def _disorder(numbers: Numbers) -> Sequence[int]:
    return numbers.restored[::-1]


def _after_t0(numbers: Numbers) -> Sequence[int]:
    return [numbers.source[0], *numbers.restored]


def _write_again(numbers: Numbers) -> Sequence[int]:
    # The last one is a write (`Plan.writes()` of the disk).
    return [numbers.consumed[-1], *numbers.restored]


def _break_queue(machine: Machine) -> None:
    """Offer a chain that the queue cannot have, so that QEMU gives the device up when it is told of it.

    See `virtqueue_get_head()` in QEMU 10.0 hw/virtio/virtio.c.
    """
    where = {"path": f"{DISK_PATH}/virtio-backend", "queue": 0}
    found = machine.qmp.execute("x-query-virtio-queue-status", where)
    memory, ring = GuestMemory(machine), found["vring-avail"]
    # Flags, index and the heads of chains, of 16 bits each (VIRTIO 1.2, 2.7.6).
    offered = struct.unpack("<H", memory.read(ring + 2, 2))[0]
    memory.write(ring + 4 + 2 * (offered % found["vring-num"]), struct.pack("<H", found["vring-num"]))
    memory.write(ring + 2, struct.pack("<H", (offered + 1) % _INDEX))


def _overrun(machine: Machine) -> None:
    """Write one byte behind the data of each request, as a device that takes a piece for longer would."""
    memory, plan = GuestMemory(machine), QUEUE_IN_PIECES
    for place in range(plan.counts.total):
        last = plan.transfer(place, data_at(machine) + place * plan.room_bytes).pieces[-1]
        memory.write(last.address + last.size, b"\0")


@dataclass(frozen=True)
class Fault:
    """A fault in a restored guest.

    Attributes:
        code: the one that it must have.
        sent: what is sent in place of the right items, None for the right ones.
        damage: called with the restored guest's QEMU before anything can arrive.
        further: codes that it has as well.
    """

    code: Code
    sent: Faults | None = None
    damage: Callable[[Machine], None] = undamaged
    further: Sequence[Code] = ()


FAULTS: Mapping[str, Sequence[Fault]] = {
    "uart-in": (
        Fault(Code.IN_FLIGHT_LOST, _lost),
        Fault(Code.IN_FLIGHT_TWICE, _twice),
        Fault(Code.IN_FLIGHT_DISORDER, _disorder),
        Fault(Code.IN_FLIGHT_AFTER_T0, _after_t0),
    ),
    "user-net-out": (
        Fault(Code.IN_FLIGHT_LOST, _lost),
        Fault(Code.IN_FLIGHT_AFTER_T0, _after_t0),
    ),
    "ide-pio-read": (Fault(Code.IN_FLIGHT_LOST, _lost),),
    "ide-pio-write": (Fault(Code.IN_FLIGHT_TWICE, _twice),),
    "virtio-blk": (
        Fault(Code.IN_FLIGHT_TWICE, _write_again),
        Fault(Code.IN_FLIGHT_BROKEN, damage=_break_queue),
    ),
    "virtio-blk-long": (
        Fault(Code.IN_FLIGHT_TWICE, _write_again),
        # A read with wrong data is none that was asked for.
        Fault(Code.IN_FLIGHT_LOST, damage=_overrun, further=(Code.IN_FLIGHT_UNKNOWN,)),
    ),
}
"""What is planted, by stream."""

PLANTED: Mapping[str, Sequence[str]] = {
    "planted": ("uart-in", "user-net-out", "ide-pio-read", "ide-pio-write"),
    "planted-disks": ("virtio-blk", "virtio-blk-long"),
}
"""The streams that each test plants faults in."""


def planted_faults(test: str) -> Callable[[Run], Outcome]:
    """Return the scenario for one of PLANTED."""
    return lambda run: _planted_in_each(run, PLANTED[test])


def _planted_in_each(run: Run, streams: Sequence[str]) -> Outcome:
    """Take a live snapshot for each fault, and plant it in the restored guest."""
    begun = time.monotonic()
    checks = []
    for name in streams:
        require_stream(run, STREAM_KINDS[name])
        folder = run.folder / name
        folder.mkdir()
        checks += _planted_in(replace(run, folder=folder), STREAM_KINDS[name], FAULTS[name])
    return outcome_of(run, checks, time.monotonic() - begun, _HOLDS)


def _planted_in(run: Run, kind: StreamKind, faults: Sequence[Fault]) -> list[CheckResult]:
    checks = []
    with (
        far_ends(run, kind, 1 + len(faults)) as (here, *there),
        source_with(run, kind, here) as (source, stream),
    ):
        for number, (fault, far) in enumerate(zip(faults, there, strict=True), 1):
            numbers = Numbers.of(number, kind.counts)
            passage = Passage(run, kind, numbers, far, fault.sent, fault.damage)
            cycle = passage.judge(source, stream, Flow.LIVE, f"planted/{fault.code}")
            name = f"{run.folder.name}-{fault.code}"
            expected = {(RESTORED_CHECK, code) for code in (fault.code, *fault.further)}
            checks.append(judge_seen(name, expected, cycle.verdict.checks))
        source.guest.machine.quit()
    return checks


def judge_seen(name: str, expected: Set[tuple[str, Code]], checks: Sequence[CheckResult]) -> CheckResult:
    """Check that a planted fault was seen, and nothing else was wrong.

    Args:
        name: the fault's.
        expected: the checks that must see it, each with its code.
        checks: all of the snapshot.
    """
    found = {(check.name, violation.code) for check in checks for violation in check.violations}
    problems = []
    if found != expected:
        told = ", ".join(f"{check}: {code}" for check, code in sorted(found)) or "nothing"
        sentence = f"The fault '{name}' was planted, and the checks say: {told}."
        problems.append(Problem(Code.IN_FLIGHT_UNSEEN, sentence, {"fault": name}))
    return judged(f"planted-{name}", _CLAIM, problems)
