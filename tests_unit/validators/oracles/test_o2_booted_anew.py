"""Contract: only an agent that was started anew, and knows nothing of the pages left behind, excuses them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from guest_images.agent.format import MAILBOX_MAGIC, REPORT_MAGIC, ControlWord, PageWord, ServeArgument
from harness.codes import Code
from harness.status import Status
from tests_unit.support.synthetic_stream import NONCE, Guest, Writer
from validators.judge import check_file
from validators.verdict import CheckResult

_CONTROL, _THREADS, _DIRECTORIES = 3, (4, 5), (10, 11)
_OF_MAILBOX = range(ControlWord.MAILBOX, ControlWord.BOOT_TICKS + 1)


def _booted_anew(**changes: int) -> Guest:
    """Return a guest whose agent has opened its mailbox, over the pages that another one has left."""
    guest = Guest()
    guest.ram[_CONTROL] = 0
    guest.ram[_CONTROL, ControlWord.MAILBOX] = MAILBOX_MAGIC
    guest.ram[_CONTROL, ControlWord.BOOT_TICKS] = 77
    for name, value in changes.items():
        guest.ram[_CONTROL, ControlWord[name]] = value
    return guest


def _judge(tmp_path: Path, guest: Guest, rom: bytes = bytes(8192), agent_ran: bool = False) -> CheckResult:
    path = tmp_path / "file"
    path.write_bytes(Writer(guest, rom=rom).stream())
    result = check_file(path, agent_ran=agent_ran).check("write-order")
    assert result is not None
    return result


def _lost(result: CheckResult) -> bool:
    return [found.code for found in result.violations] == [Code.WRITE_ORDER_NO_CONTROL_PAGE]


def test_pages_of_before_a_boot_are_not_judged(tmp_path: Path) -> None:
    """The reason says where the agent is and how much is left."""
    result = _judge(tmp_path, _booted_anew())
    assert result.status is Status.SKIP
    assert result.reason == (
        "The guest was booted anew: its agent, at 0x3000 of RAMBlock 'pc.ram', waits for its first command, "
        "and the 100 agent pages in RAM were written before that boot."
    )


@pytest.mark.parametrize("left", ["threads", "directories", "data"])
def test_any_kind_of_page_may_be_left(tmp_path: Path, left: str) -> None:
    """The random number of each kind counts, and each kind is memory that may have it.

    Where no thread page is left, the pages may be of a guest with an operating system.
    """
    guest = _booted_anew()
    kept = {"threads": _THREADS, "directories": _DIRECTORIES, "data": [*guest.places.values()]}[left]
    rest = np.setdiff1d(np.arange(4, 190), np.array(kept))
    guest.ram[rest] = 0
    assert _judge(tmp_path, guest).status is Status.SKIP
    guest.ram[220, 9] = NONCE
    if left == "threads":
        assert _lost(_judge(tmp_path, guest))
    else:
        assert "does not show whether their agent ran" in _judge(tmp_path, guest).reason
    assert _lost(_judge(tmp_path, guest, agent_ran=True))


def test_report_page_is_left_too(tmp_path: Path) -> None:
    """It has the random number as all agent pages do."""
    guest = _booted_anew()
    guest.ram[7, PageWord.MAGIC], guest.ram[7, PageWord.NONCE] = REPORT_MAGIC, NONCE
    assert _judge(tmp_path, guest).status is Status.SKIP


@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize("at", [0, 4, 4088])
@pytest.mark.parametrize("block", ["pc.ram", "pc.rom"])
def test_memory_that_has_the_number_of_the_pages(tmp_path: Path, order: str, at: int, block: str) -> None:
    """Then the agent that wrote them is there, and only its control page is lost, whatever the byte order."""
    guest, rom = _booted_anew(), bytearray(8192)
    number = NONCE.to_bytes(8, "little" if order == "little" else "big")
    if block == "pc.rom":
        rom[4096 + at : 4096 + at + 8] = number
    else:
        guest.ram[220].view(np.uint8)[at : at + 8] = np.frombuffer(number, np.uint8)
    assert _lost(_judge(tmp_path, guest, bytes(rom)))


@pytest.mark.parametrize("word", [*ControlWord, ControlWord.ARGUMENTS + ServeArgument.BYTES, 511])
def test_words_of_a_control_page(tmp_path: Path, word: int) -> None:
    """An agent that waits has those of the mailbox alone; any other one was served."""
    guest = _booted_anew()
    guest.ram[_CONTROL, word] = guest.ram[_CONTROL, word] or 1
    assert (_judge(tmp_path, guest).status is Status.SKIP) == (word in _OF_MAILBOX)


@pytest.mark.parametrize("word", [PageWord.MAGIC, PageWord.NONCE])
def test_head_of_a_control_page(tmp_path: Path, word: int) -> None:
    """It is zero too."""
    guest = _booted_anew()
    guest.ram[_CONTROL, word] = 1
    assert _lost(_judge(tmp_path, guest))


@pytest.mark.parametrize("mailbox", [0, MAILBOX_MAGIC ^ 1])
def test_control_page_without_mailbox(tmp_path: Path, mailbox: int) -> None:
    """A page of zeros, or of anything, is a control page that is lost."""
    assert _lost(_judge(tmp_path, _booted_anew(MAILBOX=mailbox)))


def test_two_agents_that_wait(tmp_path: Path) -> None:
    """A guest boots one; two are no guest that was booted anew."""
    guest = _booted_anew()
    guest.ram[195] = guest.ram[_CONTROL]
    assert _lost(_judge(tmp_path, guest))


@pytest.mark.parametrize(("numbers", "skipped"), [(16, True), (17, False)])
def test_pages_of_many_agents(tmp_path: Path, numbers: int, skipped: bool) -> None:
    """Random numbers that no guest has so many of are damage."""
    guest = _booted_anew()
    for number in range(numbers - 1):
        guest.ram[guest.places[0, number], PageWord.NONCE] = 1_000_000_007 * (number + 1)
    result = _judge(tmp_path, guest)
    assert result.status is Status.SKIP if skipped else _lost(result)
