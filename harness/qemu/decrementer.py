"""Finds a decrementer, the timer of a Power processor, that has expired without an interrupt."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.deadline import Deadline
from harness.qemu.machine import Machine

LOST_SECONDS = 10.0
"""How long ago a decrementer must have expired to be lost.

An operating system sets it anew in each of its interrupts. Even on a busy host a vCPU does not stand still
for so long while QEMU's monitor answers.
"""

_READINGS = 20
_APART_SECONDS = 0.1
_COMMAND = "info registers -a"
# QEMU 7.2 to 11.1 target/ppc/cpu_init.c ppc_cpu_dump_state(): "CPU#0", "MSR 800000000280f033 HID0 ...", and
# "TB 00000005 21660066880 DECR 18446744056344452534": both decimal, a negative decrementer as 2^64 more.
_VCPU = re.compile(r"^CPU#(\d+)$", re.MULTILINE)
_MSR = re.compile(r"^MSR ([0-9a-f]{16}) ", re.MULTILINE)
_DECREMENTER = re.compile(r"^TB .* DECR (\d+)", re.MULTILINE)
# Power ISA 3.1, book III, 4.2.1: external and decrementer interrupts are enabled.
_MSR_EE = 1 << 15
# QEMU include/hw/ppc/spapr.h, SPAPR_TIMEBASE_FREQ.
_TICKS_PER_SECOND = 512_000_000


@dataclass(frozen=True)
class Decrementer:
    """The decrementer of a vCPU at one moment.

    Attributes:
        expired_seconds: how long ago it expired; negative while it has not.
        enabled: whether the vCPU takes its interrupt.
    """

    expired_seconds: float
    enabled: bool


def parse_decrementers(text: str) -> dict[int, Decrementer]:
    """Return the decrementers by the number of their vCPU, from the text of `info registers -a`.

    Other processors have none. One of 32 bits, as before POWER9, is never negative here: it begins anew every
    8 s, so it does not tell when it expired.
    """
    found = {}
    parts = _VCPU.split(text)
    for number, registers in zip(parts[1::2], parts[2::2], strict=True):
        msr, value = _MSR.search(registers), _DECREMENTER.search(registers)
        if msr and value:
            ticks = int(value[1])
            signed = ticks - (1 << 64) if ticks >> 63 else ticks
            enabled = bool(int(msr[1], 16) & _MSR_EE)
            found[int(number)] = Decrementer(-signed / _TICKS_PER_SECOND, enabled)
    return found


def lost_decrementer(machine: Machine) -> float:
    """Return how many seconds ago a vCPU's decrementer expired if its interrupt is lost, 0.0 if none is.

    It is lost if it expired long ago and is not set anew for two seconds, and if the vCPU takes interrupts in
    one of these moments at least. While it is negative, its interrupt is pending (QEMU hw/ppc/ppc.c,
    PPC_DECR_UNDERFLOW_LEVEL).

    Raises:
        SubjectFailed: QEMU does not answer.
    """
    readings = [parse_decrementers(machine.hmp(_COMMAND))]
    while _expired(readings) and len(readings) < _READINGS:
        machine.pause(Deadline(_APART_SECONDS), _APART_SECONDS)
        readings.append(parse_decrementers(machine.hmp(_COMMAND)))
    lost = [vcpu for vcpu in _expired(readings) if any(reading[vcpu].enabled for reading in readings)]
    return max((readings[-1][vcpu].expired_seconds for vcpu in lost), default=0.0)


def _expired(readings: Sequence[Mapping[int, Decrementer]]) -> list[int]:
    """Return the vCPUs whose decrementer had expired long ago in each reading."""
    return [
        vcpu
        for vcpu in readings[0]
        if all(vcpu in one and one[vcpu].expired_seconds >= LOST_SECONDS for one in readings)
    ]
