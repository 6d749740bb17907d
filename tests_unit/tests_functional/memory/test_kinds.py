"""Contract: every kind of guest RAM becomes the arguments QEMU expects."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import NotApplicable
from tests_functional.memory import kinds
from tests_functional.memory.kinds import MEMORY_KINDS, MemoryKind
from tests_unit.support.scenario_values import stack


def test_one_backend_becomes_the_machines_memory(tmp_path: Path) -> None:
    """A single backend has all of RAM and is the machine's memory backend."""
    found = MEMORY_KINDS["memfd-shared"].stack(stack(tmp_path))
    assert found.machine == "pc,memory-backend=mem0"
    assert found.extra == ("-object", f"memory-backend-memfd,share=on,id=mem0,size={found.ram_mib}M")


def test_several_backends_become_numa_nodes(tmp_path: Path) -> None:
    """Each node has its share of RAM, together all of it."""
    found = MEMORY_KINDS["numa-mixed"].stack(stack(tmp_path))
    assert found.machine == "pc"
    assert found.extra[-4:] == ("-numa", "node,memdev=mem0", "-numa", "node,memdev=mem1")
    assert all(f"size={found.ram_mib // 2}M" in found.extra[place] for place in (1, 3))


def test_too_few_huge_pages_are_a_skip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason names how many there are and how many are needed."""
    monkeypatch.setattr(Path, "read_text", lambda *_rest, **_more: "HugePages_Free:       3\n")
    with pytest.raises(NotApplicable, match="3 free huge pages"):
        kinds._require_huge_pages(stack(tmp_path))


def test_own_ram_needs_no_arguments(tmp_path: Path) -> None:
    """A kind without a backend adds no arguments."""
    assert MemoryKind("plain").stack(stack(tmp_path)) == stack(tmp_path)
