"""Contract: RAM of a guest that slept is compared with T0 page by page, and what differs is named."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from guest_images.agent.format import PAGE_BYTES, WORD_BYTES, ControlWord
from harness.codes import Code
from harness.qemu.ram import GoldenImage, RamBlock
from tests_functional.run_states import woken
from tests_functional.run_states.woken import agent_begins, judge_memory
from tests_unit.support.scenario_values import codes, make_run, sentences

_PAGES = 6
_MAIN, _ROM = RamBlock("main", _PAGES * PAGE_BYTES, 0x1000), RamBlock("rom", PAGE_BYTES, 0x2000)


@pytest.fixture
def golden(tmp_path: Path) -> GoldenImage:
    """A golden image of two blocks."""
    files = {"main": bytes(_MAIN.used_bytes), "rom": b"r" * PAGE_BYTES}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    index = {"blocks": [{"idstr": name, "file": name} for name in files]}
    (tmp_path / "golden.json").write_text(json.dumps(index))
    return GoldenImage(tmp_path, (_MAIN, _ROM))


def _judged(
    monkeypatch: pytest.MonkeyPatch, golden: GoldenImage, changed: dict[str, int], first: int = 0
) -> Any:
    """The check of a machine in which one byte of a page of each of these blocks is another one."""

    def read(_machine: Any, block: RamBlock) -> list[bytes]:
        data = bytearray((golden.folder / block.idstr).read_bytes())
        if block.idstr in changed:
            data[changed[block.idstr] * PAGE_BYTES + 9] ^= 1
        # In pieces of two pages, as QEMU's memory is read in pieces.
        return [bytes(data[at : at + 2 * PAGE_BYTES]) for at in range(0, len(data), 2 * PAGE_BYTES)]

    unlocated = RamBlock("tables", PAGE_BYTES, 0)
    monkeypatch.setattr(woken, "ramblocks", lambda _machine: (_MAIN, _ROM, unlocated))
    monkeypatch.setattr(woken, "read_block", read)
    return judge_memory("asleep", "RAM is as at T0.", cast(Any, None), golden, first)


def test_ram_as_at_t0(monkeypatch: pytest.MonkeyPatch, golden: GoldenImage) -> None:
    """Each page of each block is compared."""
    found = _judged(monkeypatch, golden, {})
    assert (codes(found), found.facts) == ([], {"pages": _PAGES + 1})


@pytest.mark.parametrize(
    ("changed", "first", "expected"),
    [
        ({"main": 3}, 0, ["1 pages of RAMBlock 'main' differ from T0, first 0x3000."]),
        ({"main": 3}, 3 * PAGE_BYTES, ["1 pages of RAMBlock 'main' differ from T0, first 0x3000."]),
        ({"main": 3}, 4 * PAGE_BYTES, []),
        ({"rom": 0}, 0, ["1 pages of RAMBlock 'rom' differ from T0, first 0x0."]),
        ({"rom": 0}, PAGE_BYTES, []),
    ],
)
def test_other_page(
    monkeypatch: pytest.MonkeyPatch,
    golden: GoldenImage,
    changed: dict[str, int],
    first: int,
    expected: list[str],
) -> None:
    """It is named; before the offset, and in other blocks then, a guest that wakes up may write."""
    found = _judged(monkeypatch, golden, changed, first)
    assert sentences(found) == expected
    assert codes(found) == [Code.RESTORED_WRONG_PAGE] * len(expected)
    assert all(violation.fields["block"] in changed for violation in found.violations)


def test_nothing_compared_is_red(monkeypatch: pytest.MonkeyPatch, golden: GoldenImage) -> None:
    """A check that looked at no page proves nothing."""
    found = _judged(monkeypatch, golden, {}, first=_MAIN.used_bytes)
    assert codes(found) == [Code.RESTORED_UNCHECKED_PAGE]


def test_where_the_agent_begins(golden: GoldenImage, tmp_path: Path) -> None:
    """The control page at T0 has the address of the first thread page, in main RAM."""
    page = bytearray(_MAIN.used_bytes)
    word = ControlWord.META * WORD_BYTES
    page[PAGE_BYTES + word : PAGE_BYTES + word + 8] = (0x4000).to_bytes(8, "little")
    (golden.folder / "main").write_bytes(page)
    run = make_run(tmp_path)
    bare = SimpleNamespace(control_page=PAGE_BYTES)
    image = SimpleNamespace(architecture=SimpleNamespace(bare=bare))
    asked = SimpleNamespace(stack=SimpleNamespace(image=image), deadline=run.deadline)
    assert agent_begins(cast(Any, asked), golden) == 0x4000
