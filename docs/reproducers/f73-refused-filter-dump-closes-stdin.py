#!/usr/bin/env python3
# F73: an object filter-dump that QEMU refuses closes its descriptor 0.
# Usage: f73-refused-filter-dump-closes-stdin.py QEMU
# Exit code: 1 the defect shows, 0 it does not, 2 not applicable, 3 this script or QEMU did not work.
"""Have QEMU refuse a filter-dump, and look whether its standard input is still open.

The control is one without a file, which is refused when the network backend is known.
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


def refused(**arguments):
    """Have QEMU refuse a filter-dump; return whether its descriptor 0 is still open."""
    words = ask("object-add", **{"qom-type": "filter-dump", "id": "dump", **arguments})
    if not isinstance(words, str):
        end(3, f"QEMU does not refuse a filter-dump with {arguments}.")
    print(f"QEMU refuses a filter-dump: {words}")
    time.sleep(0.5)
    return Path(f"/proc/{qemu.pid}/fd/0").exists()


ours, theirs = socket.socketpair()
qemu = subprocess.Popen(
    [
        *(sys.argv[1], "-machine", "pc", "-S", "-nodefaults", "-display", "none", "-m", "32M"),
        *("-netdev", "socket,id=net,udp=127.0.0.1:9,localaddr=127.0.0.1:0"),
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
if not refused(netdev="net"):
    end(3, "The descriptor 0 is closed after the control.")
if refused(netdev="none", file="/dev/null"):
    end(0, "The descriptor 0 is still open.")
end(1, "A refused filter-dump has closed QEMU's file descriptor 0.")
