#!/usr/bin/env python3
# F74: xen-save-devices-state of a guest that sleeps (ACPI S3) leaves it in the run state save-vm.
# Usage: f74-suspended-guest-stays-in-save-vm.py QEMU
# Exit code: 1 the defect shows, 0 it does not, 2 not applicable, 3 this script or QEMU did not work.
"""Save the device state of a guest that runs, as the control, then of one that sleeps.

qtest takes the place of the guest: it writes to the register that suspends the machine.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time

SECONDS = 30
FOLDER = tempfile.TemporaryDirectory(dir="/var/tmp")
sys.excepthook = lambda *error: (sys.__excepthook__(*error), FOLDER.cleanup(), os._exit(3))


def end(code, words):
    """Say what was found, end QEMU, and exit."""
    print(words)
    qemu.kill()
    FOLDER.cleanup()
    os._exit(code)


def ask(command, **arguments):
    """Return the result of a command; a refusal ends the script."""
    print(json.dumps({"execute": command, "arguments": arguments}), file=monitor, flush=True)
    while line := monitor.readline():
        answer = json.loads(line)
        if "return" in answer:
            return answer["return"]
        if "error" in answer:
            end(2 if command == "xen-save-devices-state" else 3, answer["error"]["desc"])
    return end(3, f"QEMU has ended at '{command}'.")


def state():
    """Return the run state."""
    return ask("query-status")["status"]


ours, theirs = socket.socketpair()
place = f"{FOLDER.name}/test"
qemu = subprocess.Popen(
    [
        *(sys.argv[1], "-machine", "pc", "-accel", "tcg", "-nodefaults", "-display", "none", "-m", "64M"),
        *("-chardev", f"socket,fd={theirs.fileno()},id=monitor", "-mon", "chardev=monitor,mode=control"),
        *("-qtest", f"unix:{place},server=on,wait=off", "-qtest-log", "none"),
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
# The firmware sets up the register's address, 0x600 + 4 (SeaBIOS, machine type "pc").
time.sleep(3)
ask("xen-save-devices-state", filename="/dev/null")
if state() != "running":
    end(3, f"The guest that ran is '{state()}' after the control.")
test = socket.socket(socket.AF_UNIX)
test.connect(place)
test.sendall(b"outw 0x604 0x2400\n")
time.sleep(1)
if state() != "suspended":
    end(3, f"The guest is '{state()}', and should sleep.")
ask("xen-save-devices-state", filename="/dev/null")
after = state()
end(0 if after == "suspended" else 1, f"The guest that slept is '{after}' after xen-save-devices-state.")
