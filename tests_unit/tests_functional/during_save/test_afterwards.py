"""Contract: a QEMU at a terminal has a standard input that neither brings anything nor ends."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests_functional.during_save.afterwards import AFTERWARDS, with_waiting_input


def test_input_on_which_nothing_comes(tmp_path: Path) -> None:
    """A program that reads it waits; arguments are passed on as they are."""
    folder = tmp_path / "a folder"
    folder.mkdir()
    qemu = folder / "it's qemu"
    qemu.write_text('#!/bin/sh\ntimeout 0.3 head -c 1 >&2\necho "$?" "$@"\n')
    qemu.chmod(0o755)
    script = with_waiting_input(qemu, folder)
    done = subprocess.run([script, "-m", "a  b"], capture_output=True, text=True, timeout=30)
    # The exit code of timeout(1) for a command that it ended.
    assert (done.stdout, done.stderr) == ("124 -m a  b\n", "")


def test_only_a_terminal_has_such_an_input() -> None:
    """The others have an empty one; with the capability off and on there is one each."""
    at_terminal = {name: thing.left_on for name, thing in AFTERWARDS.items() if thing.input_waits}
    assert at_terminal == {
        "then-save-into-disk-at-terminal": False,
        "then-save-into-disk-left-on-at-terminal": True,
    }
