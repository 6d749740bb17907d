"""Contract: what this user may not read about a process is unknown, and never taken for something else."""

from __future__ import annotations

import os
from pathlib import Path

from harness.attach.process import open_files, option_value, read_process, start_time


def test_own_process() -> None:
    """Everything of a process of our own can be read."""
    found = read_process(os.getpid())
    assert found is not None
    assert (found.uid, found.same_files, found.readable, found.alive) == (os.getuid(), True, True, True)
    assert open_files(os.getpid())
    assert read_process(0) is None


def test_hidden_process(tmp_path: Path) -> None:
    """A folder with nothing readable in it: unknown namespace, no memory, no files."""
    (tmp_path / "7").mkdir()
    found = read_process(7, tmp_path)
    assert found is not None
    assert found.same_files is None
    assert (found.uid, found.argv, found.readable, found.start) == (-1, (), False, 0)
    assert open_files(8, tmp_path) is None
    assert start_time(8, tmp_path) == 0


def test_last_option_wins() -> None:
    """With one dash or two."""
    assert option_value(("-sandbox", "off", "--sandbox", "on,spawn=deny"), "-sandbox") == "on,spawn=deny"
    assert option_value(("-m", "1"), "-sandbox") == ""
