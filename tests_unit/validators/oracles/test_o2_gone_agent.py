"""Contract: pages of an agent that had gone before T0 are excused, and those of one that ran never."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from guest_images.agent.format import AgentState, ControlWord, ThreadWord
from harness.codes import Code
from harness.status import Status
from tests_unit.support.synthetic_stream import Guest, Writer
from validators.judge import check_file
from validators.oracles.o2_write_order import last_sign
from validators.oracles.o2_write_order.scan import SpecialPage
from validators.verdict import CheckResult

_GIGA = 1_000_000_000
_TICK = (1 << 32) // 2  # half a nanosecond
_LAST = 50 * _GIGA
"""The processor's counter at the agent's last sign of life, 25 s after its start."""

Entry = tuple[bytes, dict[str, Any]]


def _device(section: int, name: str, fields: dict[str, int | list[int]]) -> Entry:
    """Return a device of numbers of 64 bits, and its vmdesc entry."""
    body, entries = b"", []
    for field, value in fields.items():
        values = value if isinstance(value, list) else [value]
        body += struct.pack(f">{len(values)}Q", *values)
        entry: dict[str, Any] = {"name": field, "type": "uint64", "size": 8}
        entries.append(entry | ({"array_len": len(values)} if isinstance(value, list) else {}))
    text = bytes([len(name)]) + name.encode()
    head = bytes([4]) + struct.pack(">I", section) + text + struct.pack(">II", 0, 1)
    described = {"name": name, "instance_id": 0, "vmsd_name": name, "version": 1, "fields": entries}
    return head + body + bytes([0x7E]) + struct.pack(">I", section), described


def _timer(ticks: int, clock: int) -> Entry:
    return _device(30, "timer", {"cpu_ticks_offset": ticks, "cpu_clock_offset": clock})


def _late(ns: int) -> list[Entry]:
    """Return the devices of a guest that is saved so many ns after the agent's last sign of life."""
    return [_timer(_LAST + 2 * ns, _LAST // 2 + ns)]


def _guest(gap_ns: int = 0, thread_gap_ns: int = 0) -> Guest:
    """Return a guest with an agent that stores the processor's counter."""
    guest = Guest()
    control = guest.ram[guest.control_page]
    control[ControlWord.COUNTER], control[ControlWord.NS_PER_TICK] = _LAST, _TICK
    control[ControlWord.LONGEST_GAP_NS] = gap_ns
    for thread in (4, 5):
        page = guest.ram[thread]
        page[ThreadWord.COUNTER], page[ThreadWord.NS_PER_TICK] = _LAST - 1000, _TICK
        page[ThreadWord.LONGEST_GAP_NS] = thread_gap_ns
    return guest


def _used(guest: Guest, count: int = 3) -> Guest:
    """Have others use some pages: a kernel zeroes them, or stores its data."""
    guest.ram[guest.places[0, 7]] = 0
    for index in range(count - 1):
        guest.ram[guest.places[1, index]] = np.uint64(0xCCCCCCCCCCCCCCCC)
    return guest


def _judge(tmp_path: Path, guest: Guest, more: list[Entry], agent_ran: bool = False) -> CheckResult:
    path = tmp_path / "file"
    path.write_bytes(Writer(guest).stream_with(more))
    result = check_file(path, agent_ran=agent_ran).check("write-order")
    assert result is not None
    return result


def _codes(result: CheckResult) -> set[Code]:
    return {violation.code for violation in result.violations}


def test_agent_that_had_gone(tmp_path: Path) -> None:
    """The reason says when it had, how many of its pages are lost, and what to do if that is wrong."""
    result = _judge(tmp_path, _used(_guest()), _late(7 * _GIGA))
    assert (result.status, result.total, result.violations, dict(result.bad_pages)) == (
        Status.SKIP,
        0,
        (),
        {},
    )
    assert result.reason == (
        "The agent had gone before T0: by the processor's counter it gave its last sign of life 7.0 s "
        "earlier, and 3 of its pages have been used by others since. If it did run at T0, say so with "
        "--agent-ran."
    )
    assert result.facts == {"pages of an agent that had gone, used by others": 3}
    assert result.t0 is None


def test_agent_that_is_known_to_have_run(tmp_path: Path) -> None:
    """Then the same pages are wrong."""
    result = _judge(tmp_path, _used(_guest()), _late(7 * _GIGA), agent_ran=True)
    assert _codes(result) == {Code.WRITE_ORDER_ZERO, Code.WRITE_ORDER_CORRUPT} and result.total == 3


def test_pages_of_an_agent_that_had_gone_and_are_all_there(tmp_path: Path) -> None:
    """They are of one moment, and pass."""
    assert _judge(tmp_path, _guest(), _late(7 * _GIGA)).status is Status.PASS


@pytest.mark.parametrize(
    ("late", "gap", "gone"),
    [
        (0, 0, False),
        (_GIGA, 0, False),
        (_GIGA + 1, 0, True),
        (3 * _GIGA, _GIGA, False),
        (3 * _GIGA + 1, _GIGA, True),
    ],
)
def test_agent_that_was_late(tmp_path: Path, late: int, gap: int, gone: bool) -> None:
    """It runs as long as its silence may be scheduling: a second, and twice its longest gap."""
    # The virtual clock is not that of the counter here.
    result = _judge(tmp_path, _used(_guest(gap, gap)), [_timer(_LAST + 2 * late, 0)])
    assert result.status is (Status.SKIP if gone else Status.FAIL)


def test_one_thread_that_gave_a_sign(tmp_path: Path) -> None:
    """The control page may be lost or old: any page of the agent shows that it ran."""
    guest = _used(_guest())
    guest.ram[5, ThreadWord.COUNTER] = _LAST + 14 * _GIGA
    assert _judge(tmp_path, guest, _late(7 * _GIGA)).status is Status.FAIL


def test_thread_pages_that_were_overwritten(tmp_path: Path) -> None:
    """The control page alone tells it too."""
    guest = _used(_guest())
    guest.ram[[4, 5]] = 0
    result = _judge(tmp_path, guest, _late(7 * _GIGA))
    assert result.status is Status.SKIP and "7.0 s earlier" in result.reason


def test_thread_page_of_another_agent_is_no_sign(tmp_path: Path) -> None:
    """Its random number is another one."""
    guest = _used(_guest())
    guest.ram[6] = guest.ram[5]
    guest.ram[6, 1] += np.uint64(1)
    guest.ram[6, ThreadWord.COUNTER] = _LAST + 14 * _GIGA
    assert _judge(tmp_path, guest, _late(7 * _GIGA)).status is Status.SKIP


@pytest.mark.parametrize(
    "device",
    [
        _timer(0, _LAST // 2),
        _device(31, "cpu", {"env.tsc": _LAST + 5}),
        _device(
            31, "cpu", {"cpreg_vmstate_indexes": [7, 0x603000000013DF1A], "cpreg_vmstate_values": [1, _LAST]}
        ),
    ],
)
def test_each_counter_that_a_file_may_have(tmp_path: Path, device: Entry) -> None:
    """One that shows the agent to have run is enough, beside others that do not count for it."""
    others = [] if device[1]["name"] == "timer" else _late(7 * _GIGA)
    assert _judge(tmp_path, _used(_guest()), [*others, device]).status is Status.FAIL


def test_register_that_is_not_the_counter(tmp_path: Path) -> None:
    """Any value of it counts for nothing."""
    device = _device(31, "cpu", {"cpreg_vmstate_indexes": [7, 8], "cpreg_vmstate_values": [_LAST, _LAST]})
    assert _judge(tmp_path, _used(_guest()), [*_late(7 * _GIGA), device]).status is Status.SKIP


def test_counter_that_was_set_back(tmp_path: Path) -> None:
    """A reset may do that: the agent is of before."""
    assert _judge(tmp_path, _used(_guest()), [_timer(0, 0)]).status is Status.SKIP


@pytest.mark.parametrize(("age_s", "gone"), [(900, False), (1100, True)])
def test_error_of_the_scale_by_the_virtual_clock(tmp_path: Path, age_s: int, gone: bool) -> None:
    """A thousandth of the time since QEMU was started is allowed, and a second."""
    guest = _used(_guest())
    start = 1_000_000 * _GIGA
    for page, word in (
        (guest.control_page, ControlWord.COUNTER),
        (4, ThreadWord.COUNTER),
        (5, ThreadWord.COUNTER),
    ):
        guest.ram[page, word] = 2 * start
    result = _judge(tmp_path, guest, [_timer(0, start + age_s * _GIGA)])
    assert result.status is (Status.SKIP if gone else Status.FAIL)


@pytest.mark.parametrize(
    "more", [[], [_device(30, "timer", {"other": 1})], [_device(30, "timer", {"cpu_ticks_offset": [1, 2]})]]
)
def test_file_without_a_counter(tmp_path: Path, more: list[Entry]) -> None:
    """It shows nothing, and the pages are wrong as before."""
    assert _judge(tmp_path, _used(_guest()), more).status is Status.FAIL


def test_agent_without_a_counter(tmp_path: Path) -> None:
    """As one of version 1 or without an operating system: its pages are wrong as before."""
    guest = _used(Guest())
    assert _judge(tmp_path, guest, _late(7 * _GIGA)).status is Status.FAIL
    # Before its first sign of life there is the scale alone.
    guest.ram[guest.control_page, ControlWord.NS_PER_TICK] = _TICK
    guest.ram[[4, 5], ThreadWord.NS_PER_TICK] = _TICK
    assert _judge(tmp_path, guest, _late(7 * _GIGA)).status is Status.FAIL


def _newer(guest: Guest) -> None:
    schedule, steps = guest.schedule(0), np.array([160], np.uint64)
    index, generation = schedule.locate(steps)
    nonce = int(guest.ram[guest.control_page, 1])
    guest.ram[guest.places[0, int(index[0])]] = schedule.content(nonce, index, generation, steps)[0]


def _swapped(guest: Guest) -> None:
    one, two = guest.places[0, 20], guest.places[0, 21]
    guest.ram[[one, two]] = guest.ram[[two, one]]


def _errors(guest: Guest) -> None:
    guest.ram[4, ThreadWord.ERRORS] = 1


def _other_moment(guest: Guest) -> None:
    guest.ram[guest.control_page, ControlWord.STATE] = AgentState.PAUSED


@pytest.mark.parametrize(
    ("plant", "code"),
    [
        (_newer, Code.WRITE_ORDER_NEWER),
        (_swapped, Code.WRITE_ORDER_MISPLACED),
        (_errors, Code.WRITE_ORDER_AGENT_ERRORS),
        (_other_moment, Code.WRITE_ORDER_OTHER_MOMENT),
    ],
)
def test_page_that_others_do_not_leave(tmp_path: Path, plant: Any, code: Code) -> None:
    """The agent's own writes of another moment are no data of others, however long it has been silent."""
    guest = _used(_guest())
    plant(guest)
    assert code in _codes(_judge(tmp_path, guest, _late(7 * _GIGA)))


def test_control_page_that_was_used_in_part(tmp_path: Path) -> None:
    """Values that cannot be are excused by the thread pages."""
    guest = _guest()
    guest.ram[guest.control_page, ControlWord.PATTERN] = 99
    assert _judge(tmp_path, guest, _late(0)).status is Status.FAIL
    assert _judge(tmp_path, guest, _late(7 * _GIGA)).status is Status.SKIP


def test_pages_without_a_control_page(tmp_path: Path) -> None:
    """Where nothing shows that the agent ran, the reason says both that are possible."""
    guest = _guest()
    guest.ram[guest.control_page] = 0
    result = _judge(tmp_path, guest, _late(7 * _GIGA))
    assert result.status is Status.SKIP
    assert result.reason == (
        "There are 100 agent pages in RAM and no control page. The file does not show whether their agent "
        "ran at T0, and an agent that had gone (it was killed, or its guest was reset) leaves such pages. If "
        "it did run at T0, say so with --agent-ran."
    )
    assert result.facts == {"agent pages without a control page": 100}
    assert _codes(_judge(tmp_path, guest, _late(7 * _GIGA), agent_ran=True)) == {
        Code.WRITE_ORDER_NO_CONTROL_PAGE
    }


def test_control_page_that_is_lost(tmp_path: Path) -> None:
    """The thread pages of an agent that wrote show that it ran at T0."""
    guest = _guest()
    guest.ram[guest.control_page] = 0
    assert _codes(_judge(tmp_path, guest, _late(0))) == {Code.WRITE_ORDER_NO_CONTROL_PAGE}


def test_data_pages_alone(tmp_path: Path) -> None:
    """Nothing shows that their agent ran."""
    guest = _guest()
    guest.ram[[guest.control_page, 4, 5, 10, 11]] = 0
    assert _judge(tmp_path, guest, _late(0)).status is Status.SKIP


def test_agent_that_was_ending(tmp_path: Path) -> None:
    """It wipes its pages one by one, and says so before."""
    guest = _used(_guest(), 20)
    guest.ram[guest.control_page, ControlWord.STATE] = AgentState.ENDING
    result = _judge(tmp_path, guest, _late(0))
    assert (result.status, result.reason) == (Status.SKIP, "The agent was ending at T0, and wiped its pages.")
    guest.ram[guest.control_page, ControlWord.VERSION] = 1
    assert _judge(tmp_path, guest, _late(0)).status is Status.FAIL


def test_version_1_is_read(tmp_path: Path) -> None:
    """Files of before are judged as before."""
    guest = Guest()
    guest.ram[guest.control_page, ControlWord.VERSION] = 1
    assert _judge(tmp_path, guest, []).status is Status.PASS
    guest.ram[guest.control_page] = 0
    assert _codes(_judge(tmp_path, guest, _late(7 * _GIGA))) == {Code.WRITE_ORDER_NO_CONTROL_PAGE}


def test_page_with_a_counter() -> None:
    """The scale tells it, which is there before the first sign of life."""
    words = np.zeros(512, np.uint64)
    assert not last_sign.has_counter(SpecialPage(0, 0, words))
    words[ThreadWord.NS_PER_TICK] = 1
    assert last_sign.has_counter(SpecialPage(0, 0, words))
