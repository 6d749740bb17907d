#!/usr/bin/env python3
# F60: a save that is cancelled while its connection is not accepted blocks all later ones
# Usage: f60-cancel-unconnected.py QEMU [migration]
# Exit code: 1 the defect shows, 0 it does not, 2 not applicable, 3 this script or QEMU did not work.
"""Cancel a background snapshot to a socket that nobody accepts; with `migration`, an ordinary migration.

The control is the same to a socket that does not exist, after which another save must be possible.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time

SECONDS = 15
sys.excepthook = lambda *error: (sys.__excepthook__(*error), FOLDER.cleanup(), os._exit(3))
FOLDER = tempfile.TemporaryDirectory(dir="/var/tmp")
SNAPSHOT = "migration" not in sys.argv[2:]


def end(code, words):
    """Say what was found, end QEMU, and exit."""
    print(words)
    qemu.kill()
    FOLDER.cleanup()
    os._exit(code)


def ask(command, **arguments):
    """Give a command; return its result, its refusal as text, None if QEMU has ended."""
    try:
        print(json.dumps({"execute": command, "arguments": arguments}), file=monitor, flush=True)
        while line := monitor.readline():
            found = json.loads(line)
            if "return" in found or "error" in found:
                return found["return"] if "return" in found else found["error"]["desc"]
    except ConnectionError:
        pass
    return None


def capability(on):
    """Switch background snapshots on or off."""
    setting = {"capability": "background-snapshot", "state": on}
    return ask("migrate-set-capabilities", capabilities=[setting])


ours, theirs = socket.socketpair()
qemu = subprocess.Popen(
    [
        sys.argv[1],
        *("-machine", "pc", "-accel", "tcg", "-nodefaults", "-display", "none", "-m", "64M"),
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
time.sleep(1)
if SNAPSHOT and capability(True) != {}:
    end(2, "QEMU refuses the capability background-snapshot.")


def others():
    """Return why there can be no other save, "" if there can."""
    limit = time.monotonic() + SECONDS
    while True:
        status = ask("query-migrate").get("status")
        yank = any(one["type"] == "migration" for one in ask("query-yank"))
        if status in ("cancelled", "failed") and not yank:
            return ""
        if time.monotonic() > limit:
            return f"The save is '{status}' after {SECONDS} s. Another one: {ask('migrate', uri='exec:true')}"
        time.sleep(0.1)


ask("migrate", uri=f"unix:{FOLDER.name}/nowhere")
if why := others():
    end(3, f"The control, a socket that does not exist: {why}")
listener = socket.socket(socket.AF_UNIX)
listener.bind(f"{FOLDER.name}/nobody")
listener.listen(1)
# Linux lets one connection more than asked for wait to be accepted; each further one waits to be made.
waiting = [socket.socket(socket.AF_UNIX) for _ in range(8)]
for one in waiting:
    one.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        one.connect(listener.getsockname())
if ask("migrate", uri=f"unix:{FOLDER.name}/nobody") != {}:
    end(3, "QEMU refuses the save.")
time.sleep(0.3)
if ask("query-migrate").get("status") != "setup":
    end(3, f"The connection does not wait: {ask('query-migrate')}.")
if ask("migrate_cancel") != {}:
    end(3, "QEMU refuses to cancel.")
if why := others():
    end(1, why)
end(0, "The save is cancelled, and there can be another one.")
