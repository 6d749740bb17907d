#!/usr/bin/env python3
# F59: a `migrate` to a command without arguments crashes QEMU
# Usage: f59-exec-without-arguments-crashes.py QEMU [migration]
# Exit code: 1 the defect shows, 0 it does not, 2 not applicable, 3 this script or QEMU did not work.
"""Ask for a background snapshot to a command that is an empty list; with `migration`, a migration."""

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


def migrate(*words):
    """Ask for a save to a command."""
    address = {"transport": "exec", "args": list(words)}
    return ask("migrate", channels=[{"channel-type": "main", "addr": address}])


control = migrate("/nonexistent/command")
if isinstance(control, str) and "'uri' is missing" in control:
    end(2, f"This QEMU knows no channels: {control}")
if not isinstance(control, str):
    end(3, f"The control, a command that there is not, answers {control}.")
answer = migrate()
if answer is None:
    end(1, f"QEMU has ended, with exit code {qemu.wait(SECONDS)}.")
end(0, f"QEMU answers: {answer}")
