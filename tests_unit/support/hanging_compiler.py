"""A C compiler that hangs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness.qemu.architectures import DEFAULT_ARCHITECTURE


def hanging_cc(folder: Path, monkeypatch: pytest.MonkeyPatch, answers: bool = True) -> None:
    """Put programs `cc` and `gcc` that hang first on PATH.

    Args:
        folder: where to write them.
        monkeypatch: puts PATH back.
        answers: whether they say what they are before they hang.
    """
    identity = f"case $1 in -dumpmachine|--version) echo {DEFAULT_ARCHITECTURE.name}-linux-gnu; exit;; esac"
    for name in ("cc", "gcc"):
        program = folder / name
        program.write_text(f"#!/bin/sh\n{identity if answers else ''}\nsleep 300\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
