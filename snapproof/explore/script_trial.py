"""Tries the script of a finding, so that nothing is promised that it does not show."""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from harness.deadline import Deadline
from harness.errors import DeadlineExpired, SnapproofError
from harness.process import ChildProcess

SCRIPT_FILE = "reproduce.py"
"""File of a finding that takes its steps with QEMU alone."""

_LOG_FILE = "reproduce.log"
_SECONDS, _TRIES = 120.0, 3
_SAID = {
    0: "does not show it: QEMU ended as it must. What shows it may be the guest, its writers or the judge",
    1: "shows a failure",
    2: "says that this QEMU or host cannot do it",
}


def try_script(folder: Path, executable: Path) -> str:
    """Run a finding's script with the QEMU that showed it; return what it did, in a sentence.

    It is run again, twice at most, where it shows nothing: a failure may depend on QEMU's threads.

    Args:
        folder: of the finding; receives the script's output.
        executable: QEMU.
    """
    limit, log = Deadline(_SECONDS), folder / _LOG_FILE
    log.unlink(missing_ok=True)
    tries, code = 0, 0
    try:
        while code == 0 and tries < _TRIES:
            tries += 1
            code = _run(folder / SCRIPT_FILE, executable, log, limit)
    except DeadlineExpired:
        said = f"did not end within {_SECONDS:.0f} s"
    except SnapproofError as error:
        said = f"could not be tried: {error.sentence.rstrip('.')}"
    else:
        said = _SAID.get(code, f"did not work, and ended with {code}")
    times = "once" if tries == 1 else f"{tries} times"
    return f"`{SCRIPT_FILE} QEMU` was tried {times}, and {said} (`{_LOG_FILE}`)."


def _run(script: Path, executable: Path, log: Path, limit: Deadline) -> int:
    """Run the script and return its exit code."""
    words = [sys.executable, str(script), str(executable)]
    # One that has to be killed removes nothing itself; the path of a socket must be short.
    with (
        TemporaryDirectory(dir="/var/tmp") as place,
        ChildProcess(words, log, environment={"TMPDIR": place}) as child,
    ):
        return child.wait(limit)
