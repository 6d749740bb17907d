"""Contract: a library that cannot be built is our set-up's failure, in time and with a sentence."""

from __future__ import annotations

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
