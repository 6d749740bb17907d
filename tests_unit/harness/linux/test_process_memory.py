"""Contract: memory of another process is paged anew from outside, and a process that is held does nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.errors import NotApplicable
from harness.linux.held import held
from harness.linux.process_memory import advise, descriptor_of, require_advice
from harness.userfaultfd import PAGE_BYTES, Region, libc

_COUNTS = "import sys\nn = 0\nwhile True:\n    n += 1\n    sys.stdout.write(f'{n}\\n'); sys.stdout.flush()\n"
_needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="Only root may do this to another process.")


@pytest.fixture(name="counter")
def _counter(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """A process that writes all the time, and the file that it writes to."""
    path = tmp_path / "counts"
    with path.open("wb") as file, subprocess.Popen([sys.executable, "-c", _COUNTS], stdout=file) as process:
        try:
            while not path.stat().st_size:
                time.sleep(0.01)
            yield process.pid, path
        finally:
            process.kill()


def test_a_held_process_does_nothing(counter: tuple[int, Path]) -> None:
    """Its file does not grow while it is held, and grows again afterwards."""
    pid, path = counter
    with held(pid):
        before = path.stat().st_size
        time.sleep(0.1)
        assert path.stat().st_size == before
    end = time.monotonic() + 10
    while path.stat().st_size == before:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_process_goes_on_after_an_error(counter: tuple[int, Path]) -> None:
    """It is released when the block ends by an error."""
    pid, path = counter
    before = 0
    with pytest.raises(OSError, match="broken"), held(pid):
        before = path.stat().st_size
        raise OSError("broken")
    end = time.monotonic() + 10
    while path.stat().st_size == before:
        assert time.monotonic() < end
        time.sleep(0.01)


@_needs_root
def test_advice_is_for_the_whole_range() -> None:
    """MADV_COLD is taken for mapped memory, and an address that is not mapped is an error."""
    with Region.anonymous(4 * PAGE_BYTES) as region:
        region.fill(1)
        advise(os.getpid(), region.address, region.length, libc.MADV_COLD)
        address = region.address
    with pytest.raises(OSError, match="process_madvise"):
        advise(os.getpid(), address, 4 * PAGE_BYTES, -1)


@_needs_root
def test_a_descriptor_is_the_same_file(counter: tuple[int, Path]) -> None:
    """Its copy is open on the file that the process writes to."""
    pid, path = counter
    descriptor = descriptor_of(pid, 1)
    try:
        assert os.path.samestat(os.fstat(descriptor), path.stat())
    finally:
        os.close(descriptor)


def test_only_root_may(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without root the test is skipped with the reason."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(NotApplicable, match="Only root"):
        require_advice(libc.MADV_COLD, "MADV_COLD")
