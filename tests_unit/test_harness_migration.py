"""Contract: what a save's own sink is given arrives whole."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from harness import migration

_BYTES = (9 << 20) + 5


def test_slow_sink_takes_all_in_its_time(tmp_path: Path) -> None:
    """Every byte in its order, in pieces with a pause after each, and nothing is left beside the file."""
    path, content = tmp_path / "a file", os.urandom(_BYTES)
    command = migration.slow_sink(path).removeprefix("exec:")
    begun = time.monotonic()
    subprocess.run(["/bin/sh", "-c", command], input=content, check=True, timeout=60)
    assert time.monotonic() - begun >= 3 * 0.05
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]
