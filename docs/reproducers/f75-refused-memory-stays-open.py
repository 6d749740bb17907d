#!/usr/bin/env python3
# F75: a memory-backend-memfd that QEMU refuses leaves its memory open.
# Usage: f75-refused-memory-stays-open.py QEMU
# Exit code: 1 the defect shows, 0 it does not, 2 not applicable, 3 this script or QEMU did not work.
"""Have QEMU refuse memory of one byte, and look whether its memfd is still open some seconds later.

The control is a policy without nodes: QEMU closes that memfd a moment after the refusal.
"""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

SECONDS = 30
sys.excepthook = lambda *error: (sys.__excepthook__(*error), os._exit(3))


def end(code, words):
    """Say what was found, end QEMU, and exit."""
    print(words)
    qemu.kill()
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


def left(name, **arguments):
    """Have QEMU refuse a memory backend; return how many memfds it has open when some seconds have passed."""
    words = ask("object-add", **{"qom-type": "memory-backend-memfd", "id": name, **arguments})
    if not isinstance(words, str):
        end(3, f"QEMU does not refuse memory with {arguments}.")
    print(f"QEMU refuses memory: {words}")
    time.sleep(3)
    links = Path(f"/proc/{qemu.pid}/fd").iterdir()
    return sum("memfd:memory-backend" in str(link.readlink()) for link in links)


ours, theirs = socket.socketpair()
qemu = subprocess.Popen(
    [
        *(sys.argv[1], "-machine", "pc", "-S", "-nodefaults", "-display", "none", "-m", "32M"),
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
if left("control", size=1 << 20, policy="interleave"):
    end(3, "A memfd is still open after the control.")
if not left("byte", size=1):
    end(0, "The memfd is closed.")
end(1, "The memfd of a memory backend that was refused is still open.")
