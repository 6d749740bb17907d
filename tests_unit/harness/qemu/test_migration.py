"""Contract: what a save's own sink is given arrives whole."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from harness.qemu import migration

_BYTES = (5 << 20) + 5


def test_slow_sink_takes_all_in_its_time(tmp_path: Path) -> None:
    """Every byte in its order, in pieces with a pause after each, and nothing is left beside the file."""
    path, sign, content = tmp_path / "a file", tmp_path / "a sign", os.urandom(_BYTES)
    sign.touch()
    command = migration.slow_sink(path, sign).removeprefix("exec:")
    begun = time.monotonic()
    subprocess.run(["/bin/sh", "-c", command], input=content, check=True, timeout=60)
    assert time.monotonic() - begun >= 1.0
    assert path.read_bytes() == content
    assert sorted(tmp_path.iterdir()) == [path, sign]


def test_slow_sink_makes_haste_once_the_sign_is_gone(tmp_path: Path) -> None:
    """What is left goes through as fast as it comes, and still whole."""
    path, sign, content = tmp_path / "a file", tmp_path / "a sign", os.urandom(64 << 20)
    sign.touch()
    command = migration.slow_sink(path, sign).removeprefix("exec:")
    with subprocess.Popen(["/bin/sh", "-c", command], stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(content[: 2 << 20])
        sign.unlink()
        begun = time.monotonic()
        process.stdin.write(content[2 << 20 :])
        process.stdin.close()
        assert process.wait(60) == 0
    assert time.monotonic() - begun < 4
    assert path.read_bytes() == content
