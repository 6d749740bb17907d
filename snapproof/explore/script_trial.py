"""Tries the script of a finding once, so that nothing is promised that it does not show."""

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
_SECONDS = 120.0
_SAID = {
    0: "does not show it: QEMU ended as it must. What shows it may be the guest, its writers or the judge",
    1: "shows a failure",
    2: "says that this QEMU or host cannot do it",
}


def try_script(folder: Path, executable: Path) -> str:
    """Run a finding's script with the QEMU that showed it; return what it did, in a sentence.

    Args:
        folder: of the finding; receives the script's output.
        executable: QEMU.
    """
    script, log = folder / SCRIPT_FILE, folder / _LOG_FILE
    log.unlink(missing_ok=True)
    try:
        # One that has to be killed removes nothing itself; the path of a socket must be short.
        with (
            TemporaryDirectory(dir="/var/tmp") as place,
            ChildProcess(
                [sys.executable, str(script), str(executable)], log, environment={"TMPDIR": place}
            ) as child,
        ):
            code = child.wait(Deadline(_SECONDS))
    except DeadlineExpired:
        said = f"did not end within {_SECONDS:.0f} s"
    except SnapproofError as error:
        said = f"could not be tried: {error.sentence.rstrip('.')}"
    else:
        said = _SAID.get(code, f"did not work, and ended with {code}")
    return f"`{SCRIPT_FILE} QEMU` was tried once, and {said} (`{_LOG_FILE}`)."
