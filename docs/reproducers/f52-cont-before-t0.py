#!/usr/bin/env python3
# F52: `cont` right after `migrate` lets the guest run while a background snapshot takes its state at T0.
# Usage: f52-cont-before-t0.py QEMU [ACCELERATOR]
# Exit code: 1 the defect shows, 0 it does not, 2 not applicable, 3 this script or QEMU did not work.
"""Give `cont` five times right after `migrate`, to a guest that runs, in up to twelve saves.

The control is the same save without `cont`. The state of the device `timer` has the offset of the guest's
clock (QEMU system/cpu-timers.c, vmstate_timers): the guest's time where its vCPUs stand still, and that less
the host's uptime, so negative, where they run.
"""

import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SECONDS = 20
SAVES, CONTS = 12, 5
sys.excepthook = lambda *error: (sys.__excepthook__(*error), FOLDER.cleanup(), os._exit(3))
FOLDER = tempfile.TemporaryDirectory(dir="/var/tmp")


def end(code, words):
    """Say what was found, end QEMU, and exit."""
    print(words)
    qemu.kill()
    FOLDER.cleanup()
    os._exit(code)


def send(command, **arguments):
    """Give a command and do not wait for its answer."""
    print(json.dumps({"execute": command, "arguments": arguments}), file=monitor, flush=True)


def answer():
    """Return QEMU's next answer."""
    while line := monitor.readline():
        found = json.loads(line)
        if "return" in found or "error" in found:
            return found
    return end(3, "QEMU has ended.")


def ask(command, **arguments):
    """Give a command and return its answer."""
    send(command, **arguments)
    return answer()


def capability(on):
    """Switch background snapshots on or off."""
    setting = {"capability": "background-snapshot", "state": on}
    return ask("migrate-set-capabilities", capabilities=[setting])


def clock_offset(path):
    """Return the offset of the guest's clock in a file."""
    data = path.read_bytes()
    at = data.rfind(b"\x05timer")
    # After the name: instance and version, the ticks' offset, an unused word, the clock's offset.
    return struct.unpack_from(">q", data, at + 6 + 8 + 16)[0]


def save(conts):
    """Save; return the offset of the clock in the file, None for a save that does not begin."""
    refused = capability(True)
    if "error" in refused:
        end(2, f"QEMU refuses the capability: {refused['error']['desc']}")
    path = Path(FOLDER.name, "vmstate")
    send("migrate", uri=f"exec:cat > {path}")
    for _ in range(conts):
        send("cont")
    started = answer()
    if "error" in started:
        end(2, f"QEMU refuses the save: {started['error']['desc']}")
    for _ in range(conts):
        answer()
    limit = time.monotonic() + SECONDS
    while (found := ask("query-migrate")["return"]).get("status") != "completed":
        if found.get("status") == "failed":
            end(3, f"The save failed: {found}")
        if time.monotonic() > limit:
            return (
                None if found.get("ram", {}).get("normal", 0) == 0 else end(3, f"The save is slow: {found}")
            )
        time.sleep(0.05)
    time.sleep(0.3)
    capability(False)
    return clock_offset(path)


ours, theirs = socket.socketpair()
qemu = subprocess.Popen(
    [
        sys.argv[1],
        *("-machine", "pc", "-cpu", "qemu64", "-nodefaults", "-display", "none", "-m", "64M", "-smp", "2"),
        *(("-accel", sys.argv[2]) if len(sys.argv) > 2 else ("-accel", "kvm", "-accel", "tcg")),
        *("-chardev", f"socket,fd={theirs.fileno()},id=monitor", "-mon", "chardev=monitor,mode=control"),
    ],
    stdin=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
    pass_fds=[theirs.fileno()],
)
theirs.close()
ours.settimeout(3 * SECONDS)
monitor = ours.makefile("rw")
if not monitor.readline():
    end(3, "QEMU does not start.")
ask("qmp_capabilities")
time.sleep(1)
control = save(0)
if control is None or control < 0:
    end(3, f"The control, a save without 'cont', has a clock offset of {control}.")
for number in range(1, SAVES + 1):
    found = save(CONTS)
    if found is None:
        end(1, f"Save {number}: with 'cont' right after 'migrate' no RAM is saved for {SECONDS} s.")
    if found < 0:
        end(1, f"Save {number}: the file has the state of a guest that runs, clock offset {found} ns.")
end(0, f"{SAVES} saves have the state of a guest that stands still.")
