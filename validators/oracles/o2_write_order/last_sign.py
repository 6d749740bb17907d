"""Tells how long before T0 an agent had given its last sign of life, by the processor's counter.

An agent stores the counter with its clocks every few milliseconds (docs/agent-format.md, COUNTER). The file
has that of T0 in the state of devices. By QEMU 10.0 these are: under TCG the ticks and the virtual clock of
system/cpu-timers.c vmstate_timers, which rdtsc and gt_get_countervalue() of target/arm/helper.c read; under
KVM `env.tsc` of target/i386/machine.c, and in the list of registers of target/arm/machine.c
KVM_REG_ARM_TIMER_CNT (Linux 6.12 arch/arm64/include/uapi/asm/kvm.h).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from guest_images.agent.format import ControlWord, ThreadWord
from validators.oracles.o2_write_order.scan import SpecialPage
from validators.vmstate.devices import decode_devices
from validators.vmstate.pages import PageReader

# Of the heartbeat and the writers; below this it is the guest's scheduling.
_LATE_NS = 1_000_000_000
# An agent measures for 50 ms how long a tick is. Its error is that of the time since QEMU was started.
_SCALE_ERROR = 1000
_TIMER = "timer (0)"
_ARM_TIMER_COUNT = 0x603000000013DF1A


def has_counter(page: SpecialPage) -> bool:
    """Return whether a thread page has the processor's counter: not of old agents, nor without a system."""
    return page[ThreadWord.NS_PER_TICK] != 0


def silence_ns(reader: PageReader, control: SpecialPage | None, threads: Iterable[SpecialPage]) -> int | None:
    """Return how many ns before T0 an agent had given its last sign of life, 0 if it still ran then.

    Args:
        reader: of the file.
        control: the agent's control page, None if there is none.
        threads: its thread pages.

    Returns:
        None if it cannot be told.
    """
    signs = [(page[ThreadWord.COUNTER], page[ThreadWord.NS_PER_TICK], page[ThreadWord.LONGEST_GAP_NS])
             for page in threads]  # fmt: skip
    if control is not None:
        gap = control[ControlWord.LONGEST_GAP_NS]
        signs.append((control[ControlWord.COUNTER], control[ControlWord.NS_PER_TICK], gap))
    devices = decode_devices(reader.source, reader.index)
    found = [_silence(counter, scale, gap, devices) for counter, scale, gap in signs if counter and scale]
    known = [silence for silence in found if silence is not None]
    return min(known, default=None)


def _silence(counter: int, scale: int, gap_ns: int, devices: Mapping[str, Any]) -> int | None:
    """Return the least of the silences by each counter that the file has; 0 for one that scheduling makes."""
    allowed = _LATE_NS + 2 * gap_ns
    silences = [abs(at_t0 - counter) * scale >> 32 for at_t0 in _counters(devices)]
    late = [silence if silence > allowed else 0 for silence in silences]
    clock = _number(devices.get(_TIMER), "cpu_clock_offset")
    if clock is not None:
        silence = abs(clock - (counter * scale >> 32))
        late.append(silence if silence > allowed + clock // _SCALE_ERROR else 0)
    return min(late, default=None)


def _counters(devices: Mapping[str, Any]) -> Iterator[int]:
    """Yield the numbers that may be the processor's counter at T0."""
    ticks = _number(devices.get(_TIMER), "cpu_ticks_offset")
    if ticks is not None:
        yield ticks
    for name, state in devices.items():
        if name.startswith("cpu ("):
            tsc = _number(state, "env.tsc")
            if tsc is not None:
                yield tsc
            yield from _register(state, _ARM_TIMER_COUNT)


def _register(state: Mapping[str, Any], number: int) -> Iterator[int]:
    """Yield a register of an arm64 processor under KVM, where the file has it."""
    numbers, values = state.get("cpreg_vmstate_indexes"), state.get("cpreg_vmstate_values")
    if isinstance(numbers, list) and isinstance(values, list):
        yield from (value for at, value in zip(numbers, values, strict=False) if at == number)


def _number(state: object, name: str) -> int | None:
    """Return a field of a device that is a number, None if there is no such field."""
    value = state.get(name) if isinstance(state, dict) else None
    return value if isinstance(value, int) else None
