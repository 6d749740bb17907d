"""Contract: a decrementer is lost if it expired long ago, stays so, and its vCPU would take the interrupt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import pytest

from harness.deadline import Deadline
from harness.qemu import decrementer
from harness.qemu.decrementer import Decrementer, lost_decrementer, parse_decrementers
from harness.qemu.machine import Machine

# As QEMU 7.2.22 prints it of a restored guest, after the carriage returns are gone.
_RESTORED = """
CPU#0
NIP 0000000001015088   LR c0000000001cfc48 CTR c0000000001667e0 XER 0000000000000000 CPU#0
MSR 800000000280f033 HID0 0000000000000000  HF 2400003d iidx 1 didx 1
TB 00000005 24097568407 DECR 18446744053906968955
GPR00 c0000000001cfbf4 c00000003ffbbac0 c000000001148100 c0000000025353e0

CPU#1
NIP 0000000000000100   LR 0000000000000000 CTR 0000000000000000 XER 0000000000000000 CPU#1
MSR 8000000000003000 HID0 0000000000000000  HF 6c000000 iidx 3 didx 3
TB 00000000 02230755 DECR 4292736540 TB_OFFSET 0000000000000000
"""
_X86 = "\nCPU#0\nRAX=0000000000000000 RBX=0000000000000000\nEIP=0000fff0 EFL=00000002 [-------]\n"
_ENABLED, _DISABLED = 0x8000000000009033, 0x8000000000001033


def _registers(*vcpus: tuple[float, int]) -> str:
    """The text of registers, for each vCPU the seconds since its decrementer expired, and its MSR."""
    return "".join(
        f"\nCPU#{number}\nMSR {msr:016x} HID0 0\nTB 00000001 1 DECR {round(-seconds * 512e6) % (1 << 64)}\n"
        for number, (seconds, msr) in enumerate(vcpus)
    )


class _Machine:
    """Gives the registers of one moment after the other, and the last ones again; counts the pauses."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = list(texts)
        self.pauses: list[float] = []

    def hmp(self, command: str) -> str:
        assert command == "info registers -a"
        return self.texts.pop(0) if len(self.texts) > 1 else self.texts[0]

    def pause(self, deadline: Deadline, seconds: float) -> None:
        assert deadline.seconds >= seconds
        self.pauses.append(seconds)


def test_text_of_a_restored_guest() -> None:
    """A value with bit 63 is negative; bit 15 of the MSR enables interrupts."""
    found = parse_decrementers(_RESTORED)
    assert set(found) == {0, 1}
    assert found[0] == Decrementer(19802582661 / 512e6, True)
    assert found[1] == Decrementer(-4292736540 / 512e6, False)
    assert parse_decrementers(_registers((1, _ENABLED)))[0] == Decrementer(1.0, True)
    for value, negative in (((1 << 63) - 1, False), (1 << 63, True)):
        text = _RESTORED.replace("4292736540", str(value))
        assert (parse_decrementers(text)[1].expired_seconds > 0) == negative


@pytest.mark.parametrize(
    "text", ["", _X86, "CPU#0\nMSR 8000000000009033 HID0 0\n", "unknown command: 'info'"]
)
def test_other_processors_have_none(text: str) -> None:
    """They lose none either, and nobody waits for it."""
    machine = _Machine([text])
    assert parse_decrementers(text) == {}
    assert lost_decrementer(cast(Machine, machine)) == 0.0
    assert machine.pauses == []


@pytest.mark.parametrize(
    ("moments", "seconds"),
    [
        ([((40.0, _ENABLED),)], 40.0),
        ([((10.0, _ENABLED),)], 10.0),
        ([((9.9, _ENABLED),)], 0.0),
        ([((-3.0, _ENABLED),)], 0.0),
        ([((40.0, _DISABLED),)], 0.0),
        # Enabled in one moment only, and the last reading counts.
        ([((40.0, _DISABLED),), ((40.1, _ENABLED),), ((41.0, _DISABLED),)], 41.0),
        # Set anew, if only at last.
        ([((40.0, _ENABLED),), ((40.1, _ENABLED),), ((-0.004, _ENABLED),)], 0.0),
        # One vCPU of several is enough; the other has been set anew, or takes no interrupt.
        ([((0.001, _ENABLED), (30.0, _ENABLED))], 30.0),
        ([((90.0, _DISABLED), (30.0, _ENABLED))], 30.0),
        ([((20.0, _ENABLED), (30.0, _ENABLED))], 30.0),
        # A vCPU that is unplugged meanwhile.
        ([((0.001, _ENABLED), (30.0, _ENABLED)), ((0.001, _ENABLED),)], 0.0),
    ],
)
def test_lost_decrementer(moments: Sequence[tuple[tuple[float, int], ...]], seconds: float) -> None:
    """Long expired in all moments, and enabled in one."""
    machine = _Machine([_registers(*vcpus) for vcpus in moments])
    assert lost_decrementer(cast(Machine, machine)) == pytest.approx(seconds)


def test_it_is_watched_for_two_seconds() -> None:
    """One that is set anew in that time is not lost; afterwards nobody waits any more."""
    machine = _Machine([_registers((40.0, _ENABLED))])
    assert lost_decrementer(cast(Machine, machine)) == 40.0
    assert sum(machine.pauses) == pytest.approx(1.9)
    assert decrementer.LOST_SECONDS == 10.0
