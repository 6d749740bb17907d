"""Contract: the test of agents that had gone is red for a file that is blamed, and one that is excused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from guest_images.agent.format import ControlWord, ThreadWord
from harness.codes import Code
from tests_functional.offline.gone_agent import WAYS, judge_remains, lose_control_page
from tests_unit.support.synthetic_stream import Guest, Writer
from validators.judge import check_file

_TICK = 1 << 31


def _file(tmp_path: Path, guest: Guest) -> Path:
    path = tmp_path / "file"
    path.write_bytes(Writer(guest).stream())
    return path


def _killed() -> Guest:
    """Return a guest whose agent was killed, and whose control page others have used."""
    guest = Guest()
    guest.ram[[4, 5], ThreadWord.NS_PER_TICK] = _TICK
    guest.ram[guest.control_page] = 0
    return guest


def _codes(tmp_path: Path, way: str, guest: Guest, bare: bool = False) -> list[Code]:
    return [problem.code for problem in judge_remains(way, WAYS[way], _file(tmp_path, guest), bare)]


@pytest.mark.parametrize("way", ["quit", "terminated", "interrupted"])
def test_agent_that_wiped_its_pages(tmp_path: Path, way: str) -> None:
    """Then there is none in the file; any that is left is named."""
    assert _codes(tmp_path, way, Guest(agent=False)) == []
    assert _codes(tmp_path, way, _killed()) == [Code.REMAINS_BLAMED]


@pytest.mark.parametrize("way", ["killed", "reset"])
def test_agent_that_did_not(tmp_path: Path, way: str) -> None:
    """Its pages are no fault unless it is said to have run, and then they are."""
    assert _codes(tmp_path, way, _killed()) == []
    assert _codes(tmp_path, way, Guest()) == [Code.REMAINS_EXCUSED]
    assert _codes(tmp_path, way, Guest(), bare=True) == []


def test_file_that_is_blamed(tmp_path: Path) -> None:
    """An agent without a counter cannot be told from one that runs."""
    guest = Guest()
    guest.ram[guest.control_page] = 0
    (problem,) = judge_remains("reset", WAYS["reset"], _file(tmp_path, guest), bare=False)
    assert problem.code is Code.REMAINS_BLAMED and dict(problem.fields) == {"way": "reset"}
    assert problem.sentence == "reset: the file fails: There are 100 agent pages in RAM, but no control page."


def test_lost_control_page(tmp_path: Path) -> None:
    """Its words are zeros in the file, and nothing else is changed."""
    guest = Guest()
    path = _file(tmp_path, guest)
    before = np.frombuffer(path.read_bytes(), np.uint8)
    lose_control_page(path)
    changed = np.flatnonzero(before != np.frombuffer(path.read_bytes(), np.uint8))
    assert 0 < int(changed[-1] - changed[0]) < 8 * (ControlWord.GUEST_RAM + 1)
    assert [found.code for found in check_file(path).violations] == [Code.WRITE_ORDER_NO_CONTROL_PAGE]
