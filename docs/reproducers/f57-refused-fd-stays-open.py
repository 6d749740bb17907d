#!/usr/bin/env python3
# F57: QEMU keeps the descriptor of a `migrate` to `fd:` that it refuses.
# Usage: f57-refused-fd-stays-open.py QEMU
# Exit code: 1 the defect shows, 0 it does not, 2 not applicable, 3 this script or QEMU did not work.
"""Give QEMU a file by `getfd`, have the `migrate` to it refused, and count QEMU's descriptors of it."""

import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

TIMES = 3
sys.excepthook = lambda *error: (sys.__excepthook__(*error), FOLDER.cleanup(), os._exit(3))
FOLDER = tempfile.TemporaryDirectory(dir="/var/tmp")
FILE = Path(FOLDER.name, "vmstate")
DESCRIPTOR = os.open(FILE, os.O_WRONLY | os.O_CREAT)


def end(code, words):
    """Say what was found, end QEMU, and exit."""
    print(words)
    qemu.kill()
    FOLDER.cleanup()
    os._exit(code)


def ask(command, descriptor=None, **arguments):
    """Return the result of a command, and its refusal as text."""
    text = json.dumps({"execute": command, "arguments": arguments}).encode()
    socket.send_fds(ours, [text], [] if descriptor is None else [descriptor])
    for line in answers:
        answer = json.loads(line)
        if "return" in answer:
            return answer["return"]
        if "error" in answer:
            return answer["error"]["desc"]
    return end(3, f"QEMU has ended at '{command}'.")


def held():
    """Return how many descriptors of the file QEMU has."""
    links = Path(f"/proc/{qemu.pid}/fd").iterdir()
    return sum(link.readlink() == FILE for link in links)


ours, theirs = socket.socketpair()
answers = ours.makefile("r")
qemu = subprocess.Popen(
    [
        *(sys.argv[1], "-machine", "pc", "-accel", "tcg", "-nodefaults", "-display", "none", "-m", "64M"),
        *("-chardev", f"socket,id=qmp,fd={theirs.fileno()}", "-mon", "chardev=qmp,mode=control"),
    ],
    stdin=subprocess.DEVNULL,
    pass_fds=(theirs.fileno(),),
)
theirs.close()
ask("qmp_capabilities")
for _ in range(TIMES):
    if isinstance(words := ask("getfd", DESCRIPTOR, fdname="save"), str):
        end(3, f"QEMU takes no descriptor: {words}")
    if not isinstance(words := ask("migrate", uri="fd:save"), str):
        end(2, "QEMU takes 'fd:' with a file.")
gone = ask("closefd", fdname="save")
end(1 if held() else 0, f"QEMU says '{words}' {TIMES} times, holds {held()} descriptors, 'closefd': {gone}")
