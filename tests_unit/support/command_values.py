"""A right vmstate file, and what a command makes of one, for unit tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from snapproof.cli.command import main
from tests_unit.support.synthetic_stream import Guest, Writer


def right_vmstate(folder: Path) -> Path:
    """Write one."""
    path = folder / "vmstate"
    path.write_bytes(Writer(Guest()).stream())
    return path


def command_outcome(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, str, str]:
    """Exit code, output and errors of a command."""
    code = main([str(word) for word in words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err
