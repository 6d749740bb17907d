#!/usr/bin/env python3
# F71: a blockdev-add that QEMU refuses closes its descriptor 0, and the next save to a command is lost.
# Usage: f71-refused-file-closes-stdin.py QEMU [migration]
# Exit code: 1 the defect shows, 0 it does not, 2 not applicable, 3 this script or QEMU did not work.
"""Save a guest to a command by a background snapshot, before and after a file was refused.

The control is a file that there is not, which is refused later, when the descriptor is known. With
`migration` the saves are ordinary ones.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SECONDS = 30
sys.excepthook = lambda *error: (sys.__excepthook__(*error), FOLDER.cleanup(), os._exit(3))
FOLDER = tempfile.TemporaryDirectory(dir="/var/tmp")
SNAPSHOT = sys.argv[2:] != ["migration"]


def end(code, words):
    """Say what was found, end QEMU, and exit."""
    print(words)
    qemu.kill()
    FOLDER.cleanup()
    os._exit(code)


def ask(command, **arguments):
    """Return the result of a command, and its refusal as text."""
    print(json.dumps({"execute": command, "arguments": arguments}), file=monitor, flush=True)
    while line := monitor.readline():
        answer = json.loads(line)
        if "return" in answer:
            return answer["return"]
        if "error" in answer:
            return answer["error"]["desc"]
    return end(3, f"QEMU has ended at '{command}'.")


def save(name):
    """Save the guest to a file by a command; return the end of the save, and the size of the file."""
    path = Path(FOLDER.name, name)
    if refusal := ask("migrate", uri=f"exec:cat > {path}"):
        return f"refused ({refusal})", 0
    limit = time.monotonic() + SECONDS
    while (answer := ask("query-migrate")).get("status") not in ("completed", "failed"):
        if time.monotonic() > limit:
            end(3, f"The save '{name}' is {answer.get('status')} after {SECONDS} s.")
        time.sleep(0.1)
    time.sleep(1)
    return answer["status"], path.stat().st_size if path.exists() else 0


def refused(**arguments):
    """Have QEMU refuse a file; return whether its descriptor 0 is still open."""
    words = ask("blockdev-add", **{"driver": "file", "node-name": "explored", **arguments})
    if not isinstance(words, str):
        end(3, f"QEMU does not refuse a file with {arguments}.")
    print(f"QEMU refuses a file: {words}")
    time.sleep(0.5)
    return Path(f"/proc/{qemu.pid}/fd/0").exists()


ours, theirs = socket.socketpair()
qemu = subprocess.Popen(
    [
        *(sys.argv[1], "-machine", "pc", "-accel", "tcg", "-nodefaults", "-display", "none", "-m", "64M"),
        *("-chardev", f"socket,fd={theirs.fileno()},id=monitor", "-mon", "chardev=monitor,mode=control"),
    ],
    stdin=subprocess.DEVNULL,
    pass_fds=[theirs.fileno()],
)
theirs.close()
ours.settimeout(SECONDS)
monitor = ours.makefile("rw")
if not monitor.readline():
    end(3, "QEMU does not start.")
ask("qmp_capabilities")
if SNAPSHOT and (
    words := ask(
        "migrate-set-capabilities", capabilities=[{"capability": "background-snapshot", "state": True}]
    )
):
    end(2, f"QEMU refuses the capability: {words}")
time.sleep(1)
before = save("before")
if before[0] != "completed" or not before[1]:
    end(3, f"The save before is {before[0]}, with {before[1]} bytes.")
if not SNAPSHOT:
    # An ordinary migration leaves the guest stopped.
    ask("cont")
if not refused(filename="/nonexistent/explored"):
    end(3, "The descriptor 0 is closed after the control.")
if refused(filename="/dev/null", **{"pr-manager": "none"}):
    end(0, "The descriptor 0 is still open.")
try:
    after = save("after")
except TimeoutError:
    # After a background snapshot that failed, 7.2 hangs at the next write (F9).
    end(1, "A refused blockdev-add has closed QEMU's file descriptor 0, and QEMU hangs after the next save.")
print(f"The save before: {before[0]}, {before[1]} bytes. The save after: {after[0]}, {after[1]} bytes.")
end(1, "A refused blockdev-add has closed QEMU's file descriptor 0.")
