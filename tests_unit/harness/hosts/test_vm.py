"""A VM host is logged in to once its console says that it is ready, or has been silent for long."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from harness.deadline import Deadline
from harness.hosts.vm import _wait_for_line


def _waited(console: Path, seconds: float, *, alive: bool = True) -> float:
    begun = time.monotonic()
    _wait_for_line(b"ready", console, Deadline(seconds), lambda: alive)
    return time.monotonic() - begun


def test_a_line_on_the_console_ends_the_wait(tmp_path: Path) -> None:
    """The console may not be there yet, and other lines come before it."""
    console = tmp_path / "console.log"
    threading.Timer(0.3, console.write_text, ("Linux\n",)).start()
    threading.Timer(0.8, console.write_text, ("Linux\nhost: ready\n",)).start()
    assert 0.7 < _waited(console, 60.0) < 30.0
    assert _waited(console, 60.0) < 5.0


def test_a_silent_console_and_a_dead_vm_end_the_wait_too(tmp_path: Path) -> None:
    """The login, which is tried then, says what is wrong."""
    assert _waited(tmp_path / "console.log", 0.3) >= 0.3
    assert _waited(tmp_path / "console.log", 60.0, alive=False) < 5.0
