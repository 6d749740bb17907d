"""Contract: a library that cannot be built is our set-up's failure, in time and with a sentence."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import pytest

from guest_images.cache import Cache
from guest_images.provisioning import Provisioning
from harness.errors import SetupBroken
from tests_unit.support.hanging_compiler import hanging_cc
from validators.faults.preload import library as preload
from validators.faults.preload.library import preload_library


def test_a_compiler_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence names the library."""
    hanging_cc(tmp_path, monkeypatch)
    monkeypatch.setattr(preload, "COMPILE_SECONDS", 0.5)
    source = tmp_path / "lose_events.c"
    source.write_text("int a;\n")
    with pytest.raises(SetupBroken, match="The compiler did not finish the library 'lose_events' within"):
        preload_library(source, Provisioning(Cache(tmp_path / "cache"), lambda _line: None))


def test_a_source_that_does_not_compile(tmp_path: Path) -> None:
    """The evidence has the compiler's words."""
    source = tmp_path / "broken.c"
    source.write_text("int a = ;\n")
    with pytest.raises(SetupBroken, match="The library 'broken' does not compile") as caught:
        preload_library(source, Provisioning(Cache(tmp_path / "cache"), lambda _line: None))
    assert "error:" in caught.value.evidence.log_tail


def test_pages_are_those_of_this_machine(tmp_path: Path) -> None:
    """Protection is per page of the host, which is not a target page on every machine."""
    source = tmp_path / "pages.c"
    source.write_text("unsigned long long page_bytes = HOST_PAGE_BYTES;\n")
    library = preload_library(source, Provisioning(Cache(tmp_path / "cache"), lambda _line: None))
    found = ctypes.c_ulonglong.in_dll(ctypes.CDLL(str(library)), "page_bytes")
    assert found.value == os.sysconf("SC_PAGESIZE")


def test_library_needs_no_other(tmp_path: Path) -> None:
    """Atomics are instructions, not calls of the compiler's library, which is not linked."""
    source = tmp_path / "atomics.c"
    source.write_text("long n;\nlong add(void) { return __atomic_add_fetch(&n, 2, __ATOMIC_SEQ_CST); }\n")
    library = preload_library(source, Provisioning(Cache(tmp_path / "cache"), lambda _line: None))
    assert ctypes.CDLL(str(library), os.RTLD_NOW).add() == 2
