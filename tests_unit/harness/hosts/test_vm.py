"""A VM host is logged in to once its console says that it is ready, or has been silent for long."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from harness.deadline import Deadline
from harness.hosts.vm import _console_words, _wait_for_line


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


@pytest.mark.parametrize(
    ("console", "said"),
    [
        (None, "Nothing came on its console: is this a kernel for that processor"),
        ("\n \n", "Nothing came on its console"),
        ("[1.0] a driver\n[1.1] virtio_blk\n\n", "Its console said last: [1.1] virtio_blk"),
        (
            "[2.0] Kernel panic - not syncing: VFS\n[2.1] CPU: 0\n[2.2] ---[ end ]---\n",
            "Its console said last: [2.0] Kernel panic - not syncing: VFS",
        ),
        ("x" * 4000, f"Its console said last: {'x' * 200}..."),
    ],
)
def test_what_a_kernel_that_does_not_boot_said(tmp_path: Path, console: str | None, said: str) -> None:
    """Its panic is told rather than what came behind it, and a long line is cut."""
    log = tmp_path / "console.log"
    if console is not None:
        log.write_text(console)
    assert _console_words(log).startswith(said)
    assert len(_console_words(log)) < 300
